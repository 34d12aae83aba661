"""From a source to a prepared folder, and the script that does it."""

import os
import pathlib
import subprocess
import sys

import pytest

from raserec_jax.data import preparation
from raserec_jax.data.filters import Filters
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


CORE_2, KEEP_ALL = Filters(min_interactions=2), Filters(min_interactions=1)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "log.tsv").write_text(LOG + "u2\t9\t7\n")
    (tmp_path / "items.tsv").write_text(ITEMS)
    return {"interactions": tmp_path / "log.tsv", "items": tmp_path / "items.tsv"}


def test_statistics_and_folder(files, tmp_path):
    printed = preparation.prepare(**files, filters=CORE_2, output=tmp_path / "out")
    log = InteractionLog.load(tmp_path / "out")
    assert printed.startswith(TABLE)
    assert f"fingerprint {log.fingerprint()[:16]}" in printed
    assert (log.num_users, log.num_items) == (2, 4)
    assert ItemText.load(tmp_path / "out").title_of(3) == "three"
    # A prepared folder is a source, and brings its text.
    again = preparation.prepare(interactions=tmp_path / "out", filters=KEEP_ALL)
    assert again.endswith("text for 2 of 4 items: title")
    preparation.prepare(interactions=tmp_path / "out", output=tmp_path / "out", filters=KEEP_ALL)
    assert InteractionLog.load(tmp_path / "out").fingerprint() == log.fingerprint()
    assert ItemText.load(tmp_path / "out").title_of(3) == "three"


def test_without_output_nothing_is_written(files, tmp_path):
    before = sorted(os.listdir(tmp_path))
    assert "unknown" not in preparation.prepare(**files, filters=KEEP_ALL)
    assert sorted(os.listdir(tmp_path)) == before


def test_filters_and_columns(tmp_path):
    (tmp_path / "log.csv").write_text(
        "who,what,stars,when\n" + "u,1,5,10\nu,2,1,20\nu,1,4,30\nv,1,5,40\n"
    )
    filters = Filters(min_rating=4, from_date=10, to_date=30, duplicates="last", min_interactions=1)
    columns = "user_id=who,item_id=what,rating=stars,timestamp=when"
    printed = preparation.prepare(
        interactions=tmp_path / "log.csv", columns=columns, filters=filters, output=tmp_path / "out"
    )
    assert printed.splitlines()[0].split() == ["as", "read", "filtered"]
    log = InteractionLog.load(tmp_path / "out")
    assert (log.item_labels.tolist(), log.timestamps.tolist()) == ([0, 1], [30])


def test_unknown_times(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n")
    printed = preparation.prepare(interactions=tmp_path / "log.csv", filters=KEEP_ALL)
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
        ({"filters": Filters()}, DataError, "no user left with at least 5"),
        (
            {"filters": Filters(to_date="0", min_interactions=4)},
            DataError,
            "no user left with at least 4",
        ),
        (
            {"filters": Filters(min_rating=3)},
            DataError,
            "log.tsv: min_rating is given but there is no column",
        ),
        ({"format": "csv"}, ConfigError, "format 'csv' is unknown; use auto"),
        ({"columns": "user_id"}, ConfigError, "write role=column pairs"),
        ({"columns": "user_id=who"}, DataError, "line 1: no column 'who'"),
        ({"interactions": "absent.tsv"}, DataError, "absent.tsv: no such file"),
        ({"items": "absent.tsv"}, DataError, "absent.tsv: no such file"),
    ],
)
def test_bad_input_writes_nothing(files, tmp_path, changes, error, message):
    arguments = {**files, "filters": CORE_2, "output": tmp_path / "out", **changes}
    with pytest.raises(error, match=message):
        preparation.prepare(**arguments)
    assert not (tmp_path / "out").exists()


def test_text_only_of_dropped_items_is_refused(files, tmp_path):
    files["items"].write_text("item_id\ttitle\n9\tnine\n")
    with pytest.raises(DataError, match="item text without matching ids"):
        preparation.prepare(**files, filters=CORE_2, output=tmp_path / "out")
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
    chosen = [
        "--min_interactions=1",
        "--from_date=1",
        "--to_date=1",
        "--min_history=2",
        "--max_history=9",
    ]
    done = run_script(
        *flags, *chosen, "--format=table", "--columns=user_id=user_id", "--duplicates=last"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "interactions                 9         4\n" in done.stdout
    failed = run_script(*flags)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert "no user left with at least 5 interactions" in failed.stderr
    failed = run_script(*flags, "--min_rating=3", "--from_date=May")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: from_date='May' is not usable; expected an ISO date")


def test_beam_is_refused_where_it_cannot_serve(tmp_path, monkeypatch):
    given = {"interactions": "log.tsv", "output": tmp_path / "log", "beam": "--runner=DirectRunner"}
    with pytest.raises(ConfigError, match="beam writes a TFDS data set; give form=tfds"):
        preparation.prepare(**given)
    with pytest.raises(ConfigError, match="beam does not go with from_date and to_date"):
        preparation.prepare(**given, form="tfds", filters=Filters(from_date="2014-07-23"))
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"pip install 'raserec_jax\[beam\]'"):
        preparation.prepare(**given, form="tfds")
