"""Files of recommendations survive kills: what takes the name is whole, and the same as without a kill."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import contextlib
import gc
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from raserec_jax.data.history_rows import HistoryRow
from raserec_jax.errors import DataError
from raserec_jax.recommend import Recommendations, files
from raserec_jax.recommend.files import recommend_file
from raserec_jax.recommend.resumable import ResumableFile
from tests import tiny_workdir as tiny
from tests.tiny_workdir import copied, recommender, tiny_workdir  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMATS = ("tsv", "parquet")  # JSON lines are written as TSV is


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    with tiny.quick_compiles():
        yield


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(files, "HISTORIES_AT_ONCE", 2)
    monkeypatch.setattr(files, "BATCHES_PER_SAVE", 2)


def write_histories(path, count):
    lines = [
        json.dumps(
            {
                "user_id": f"u{user}",
                "history": [f"i{1 + (7 * user + n) % 33:03d}" for n in range(1 + user % 5)],
            }
        )
        for user in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


class Killed(BaseException):
    """As KeyboardInterrupt or a kill: no Exception, so nobody handles it."""


@contextlib.contextmanager
def killed_at(step, monkeypatch):
    """The step-th change of the disk does not happen, nor anything after it; yields the count of changes."""
    counted = [0]

    def guarded(change):
        def changed(*arguments, **options):
            counted[0] += 1
            if step is not None and counted[0] > step:
                raise Killed
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(os, name, guarded(getattr(os, name)))
        yield counted


@pytest.mark.parametrize("ending", FORMATS)
def test_killed_at_any_step_and_gone_on_with_it_is_the_same_file(
    recommender, tmp_path, monkeypatch, small_batches, ending
):
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow, an optional extra, is not installed")
    histories = write_histories(tmp_path / "in.jsonl", 11)
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    with killed_at(None, monkeypatch) as counted:
        expected = recommend_file(recommender, histories, whole, k=3, explain=True)
    steps, resumed = counted[0], set()
    assert steps > 8
    for step in range(steps):
        with pytest.raises(Killed), killed_at(step, monkeypatch):
            recommend_file(recommender, histories, output, k=3, explain=True)
        if output.exists():  # it may have its name already, but never half of its content
            assert output.read_bytes() == whole.read_bytes()
        report = recommend_file(recommender, histories, output, k=3, explain=True)
        assert report._replace(resumed=0) == expected
        resumed.add(report.resumed)
        assert output.read_bytes() == whole.read_bytes()
        assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", whole.name, output.name}
        output.unlink()
    assert resumed == {0, 4, 8, 11}


def test_another_task_starts_anew(recommender, tmp_path, monkeypatch, small_batches):
    histories, output = write_histories(tmp_path / "in.jsonl", 11), tmp_path / "out.tsv"

    def interrupted():
        with pytest.raises(Killed), killed_at(6, monkeypatch):
            recommend_file(recommender, histories, output, k=3)

    interrupted()
    assert recommend_file(recommender, histories, output, k=3).resumed == 4
    for options in ({"k": 4}, {"k": 3, "deny": ["i004"]}, {"k": 3, "exclude_seen": False}):
        interrupted()
        assert recommend_file(recommender, histories, output, **options).resumed == 0
    interrupted()
    write_histories(histories, 12)
    assert recommend_file(recommender, histories, output, k=3).resumed == 0
    assert len(output.read_text().splitlines()) == 1 + 3 * 12


def test_what_was_not_saved_is_cut_off(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(Killed), ResumableFile(path, "task") as file:
        file.write("kept ")
        file.save([1])
        file.write("lost" * 10_000)
        raise Killed
    with ResumableFile(path, "task") as file:
        assert file.state == [1]
        file.write("more")
        file.finish()
    assert path.read_text() == "kept more" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "journal",
    [b"", b"{", b"[]", b'{"task": "task"}', b'{"task": "task", "bytes": 99, "state": 1}', b"\xff"],
)
def test_a_torn_journal_starts_anew(tmp_path, journal):
    (tmp_path / ".out.partial").write_text("of before")
    (tmp_path / ".out.partial.json").write_bytes(journal)
    with ResumableFile(tmp_path / "out", "task") as file:
        assert file.state is None
        file.write("new")
        file.finish()
    assert (tmp_path / "out").read_text() == "new" and os.listdir(tmp_path) == ["out"]


def test_errors_of_the_disk_keep_what_was_saved_and_others_remove_it(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(DataError, match="out: cannot be written .No space left.*again to go on"):
        with ResumableFile(path, "task") as file:
            file.write("a")
            file.save([1])
            raise OSError(28, "No space left on device")
    assert (tmp_path / ".out.partial").exists() and not path.exists()
    with pytest.raises(ZeroDivisionError), ResumableFile(path, "task") as file:
        assert file.state == [1]
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_two_writers_exclude_each_other(tmp_path):
    path = tmp_path / "out"
    with ResumableFile(path, "task") as file:
        with pytest.raises(DataError, match="another process is writing this file; wait until it"):
            ResumableFile(path, "task")
        file.write("whole")
        file.finish()
    assert path.read_text() == "whole"
    with pytest.raises(DataError, match="cannot be written"):
        ResumableFile(tmp_path / "none" / "out", "task")


RUN = """
import sys
from raserec_jax.recommend import Recommender, files
files.HISTORIES_AT_ONCE, files.BATCHES_PER_SAVE = 32, 1
recommender = Recommender.load(sys.argv[1])
for output in sys.argv[3:]:
    print(files.recommend_file(recommender, sys.argv[2], output, k=3).resumed)
"""


def test_kill_9(tiny_workdir, tmp_path):
    """Killed twice at random instants; the third process goes on, then writes the same without a kill."""
    histories, output = write_histories(tmp_path / "in.jsonl", 2000), tmp_path / "out.tsv"
    journal, draw, before = tmp_path / ".out.tsv.partial.json", random.Random(5), 0
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    asked = [sys.executable, "-c", RUN, str(tiny_workdir), str(histories), str(output)]
    for _ in range(2):
        process = subprocess.Popen(asked, env={**os.environ, **quick}, cwd=tmp_path)
        while process.poll() is None:
            if journal.exists() and json.loads(journal.read_text())["state"][0] > before:
                time.sleep(draw.random() / 5)
                process.kill()
                break
            time.sleep(0.002)
        assert process.wait() == -9 and not output.exists()
        before = json.loads(journal.read_text())["state"][0]
        assert 0 < before < 2000
    whole = tmp_path / "whole.tsv"
    told = subprocess.run(
        [*asked, str(whole)],
        env={**os.environ, **quick},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(before), "0"]
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.tsv", "whole.tsv"]


class Counting:
    """A progress that counts, at each step, the histories and answers that are in memory."""

    def __init__(self, *_, initial):
        assert initial == 0
        self.alive = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n):
        kinds = (HistoryRow, Recommendations)
        self.alive.append(sum(isinstance(one, kinds) for one in gc.get_objects()))


def test_one_batch_at_a_time_is_in_memory(recommender, tmp_path, small_batches):
    histories, made = write_histories(tmp_path / "in.jsonl", 23), []

    def progress(total, desc, unit, initial):
        assert (total, unit) == (23, "user")
        made.append(Counting(initial=initial))
        return made[0]

    recommend_file(recommender, histories, tmp_path / "out.jsonl", k=2, progress=progress)
    assert (
        len(made[0].alive) == 12 and max(made[0].alive) <= 6
    )  # a batch of 2, and one row read ahead
