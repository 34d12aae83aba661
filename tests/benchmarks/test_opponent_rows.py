"""Other libraries' scripts: what they are given, what is taken from them, what goes wrong; none is needed."""

import json
import sys

import numpy as np
import pytest

from raserec_jax.benchmarks import opponent_rows
from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.contest import Line
from raserec_jax.benchmarks.opponent_rows import opponent, run_script, their_line, write_log
from raserec_jax.benchmarks.sizes import TINY
from tests.small_logs import cyclic_split

TOLD = {
    "seconds": [4.0, 2.0],
    "examples": 100,
    "whole": 400,
    "items": 30,
    "versions": {"recbole": "1.2.1"},
}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Makes a script in place of the real one."""
    monkeypatch.setattr(opponent_rows, "_SCRIPTS", tmp_path)

    def write(text):
        (tmp_path / "recbole_sasrec.py").write_text(text)
        return run_script(sys.executable, "recbole", ["--epochs=2"], tmp_path)

    return write


def test_the_last_line_counts(script):
    text = f"import sys\nprint('noise', sys.argv[1:])\nprint({json.dumps(json.dumps(TOLD))})"
    assert script(text) == TOLD


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("print('noise')", "ended without the JSON line"),
        ("", "ended without the JSON line"),
        ("print('{}')", "ended without the JSON line"),
        ("raise SystemExit('no torch here')", "recbole ended with code 1: no torch here"),
    ],
)
def test_a_script_that_fails_is_told_in_a_sentence(script, text, words):
    with pytest.raises(Skipped, match=words):
        script(text)


def test_an_interpreter_that_is_not_there(tmp_path):
    with pytest.raises(Skipped, match="--recbole_python=no/such/python cannot be run"):
        run_script("no/such/python", "recbole", [], tmp_path)


def test_without_an_interpreter_there_is_no_row(tmp_path):
    with pytest.raises(Skipped, match="--rectools_python names no interpreter"):
        opponent(Bench(TINY, tmp_path), "rectools")


def test_their_line_stands_beside_ours():
    ours = Line("recbole", "ours", "size", "targets", rate=500.0, whole_s=0.8, ratio=1.0)
    line = their_line("recbole", TOLD, ours)
    assert (line.rate, line.ratio, line.whole_s, line.median_s) == (50.0, 10.0, 8.0, 3.0)
    assert line.note == "recbole 1.2.1; 400 targets, 100 of them timed, 30 items"


def test_files_hold_all_interactions_and_those_for_training(tmp_path):
    split = cyclic_split(users=3, length=5)
    write_log(tmp_path, split)
    header, *rows = (tmp_path / "bench" / "bench.inter").read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    items = np.array([row.split("\t") for row in rows], int)
    np.testing.assert_array_equal(items[:, 1], split.log.item_ids)
    np.testing.assert_array_equal(items[:, 2], np.tile(np.arange(5), 3))
    assert len((tmp_path / "train.tsv").read_text().splitlines()) == 1 + 3 * 3
