"""From a source to a prepared folder, and the script that does it."""

import os
import pathlib
import subprocess
import sys

import pytest

from raserec_jax.data import preparation
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.known_sets import DataFiles
from raserec_jax.errors import ConfigError, DataError

LOG = "user_id\titem_id\ttimestamp\n" + "".join(
    f"u{user}\t{item}\t{item // 2}\n" for user in range(2) for item in range(4)
)
ITEMS = "item_id\ttitle\n1\tone\n3\tthree\n77\tother\n"
TABLE = """\
                       as read  2-core
users                        3       2
items                        5       4
interactions                 9       8
average length            3.00    4.00
sparsity                40.00%   0.00%
share of ties in time    66.7%   66.7%
text for 2 of 4 items: title"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "log.tsv").write_text(LOG + "u2\t9\t7\n")
    (tmp_path / "items.tsv").write_text(ITEMS)
    return {"interactions": tmp_path / "log.tsv", "items": tmp_path / "items.tsv"}


def test_statistics_and_folder(files, tmp_path):
    printed = preparation.prepare(**files, min_interactions=2, output=tmp_path / "out")
    log = InteractionLog.load(tmp_path / "out")
    assert printed.startswith(TABLE)
    assert f"fingerprint {log.fingerprint()[:16]}" in printed
    assert (log.num_users, log.num_items) == (2, 4)
    assert ItemText.load(tmp_path / "out").title_of(3) == "three"
    # A prepared folder is a source, and brings its text.
    again = preparation.prepare(interactions=tmp_path / "out", min_interactions=1)
    assert again.endswith("text for 2 of 4 items: title")
    preparation.prepare(interactions=tmp_path / "out", output=tmp_path / "out", min_interactions=1)
    assert InteractionLog.load(tmp_path / "out").fingerprint() == log.fingerprint()
    assert ItemText.load(tmp_path / "out").title_of(3) == "three"


def test_without_output_nothing_is_written(files, tmp_path):
    before = sorted(os.listdir(tmp_path))
    assert "unknown" not in preparation.prepare(**files, min_interactions=1)
    assert sorted(os.listdir(tmp_path)) == before


def test_unknown_times(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n")
    printed = preparation.prepare(interactions=tmp_path / "log.csv", min_interactions=1)
    assert "share of ties in time  unknown" in printed


def test_known_set(files, monkeypatch):
    located = DataFiles(files["interactions"], files["items"])
    monkeypatch.setattr(preparation, "locate", lambda name: located)
    log, text = preparation.read_source(None, "amazon_beauty")
    assert log.name == "amazon_beauty"
    assert text.title_of("1") == "one"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"interactions": None}, ConfigError, "neither is given"),
        ({"dataset": "amazon_beauty"}, ConfigError, "both are given"),
        ({"min_interactions": 0}, ConfigError, "--min_interactions=0, expected at least 1"),
        ({"min_interactions": 5}, DataError, "no user left with at least 5"),
        ({"interactions": "absent.tsv"}, DataError, "absent.tsv: no such file"),
        ({"items": "absent.tsv"}, DataError, "absent.tsv: no such file"),
    ],
)
def test_bad_input_writes_nothing(files, tmp_path, changes, error, message):
    arguments = {**files, "min_interactions": 2, "output": tmp_path / "out", **changes}
    with pytest.raises(error, match=message):
        preparation.prepare(**arguments)
    assert not (tmp_path / "out").exists()


def test_text_only_of_dropped_items_is_refused(files, tmp_path):
    files["items"].write_text("item_id\ttitle\n9\tnine\n")
    with pytest.raises(DataError, match="item text without matching ids"):
        preparation.prepare(**files, min_interactions=2, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run_script(*flags):
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(root / "launch" / "prepare_data.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_script(files, tmp_path):
    flags = [f"--{name}={path}" for name, path in files.items()]
    done = run_script(*flags, "--min_interactions=2", f"--output={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(TABLE)
    assert (tmp_path / "out" / "manifest.json").exists()
    failed = run_script(*flags)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert "no user left with at least 5 interactions" in failed.stderr
