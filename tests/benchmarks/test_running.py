"""What is measured once, twice or not at all; what is refused; tables and pictures."""

import csv
import io
import json
import pathlib
import subprocess
import sys

import pytest

from raserec_jax.benchmarks import running
from raserec_jax.benchmarks.bench import Skipped
from raserec_jax.benchmarks.catalogue import measurements
from raserec_jax.benchmarks.contest import Line
from raserec_jax.benchmarks.curves import slope, slopes
from raserec_jax.benchmarks.running import run_benchmark
from raserec_jax.benchmarks.sizes import QUICK, SIZES, TINY
from raserec_jax.benchmarks.tables import benchmark_csv, benchmark_markdown
from raserec_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]


def lines_of(name, seconds):
    """A row of two lines, with all that a table shows."""
    ours = Line(
        name,
        "ours | quick",
        "ten",
        "queries",
        "cpu",
        10.0,
        seconds,
        seconds,
        3,
        1.9,
        10 / seconds,
        1.0,
        flops=1e9,
        bytes=1e6,
        exps=1e5,
        product_share=0.35,
        with_recomputed=0.5,
        square_share=0.3,
        bytes_share=0.1,
        exps_share=0.2,
        together=0.7,
        bound="exponentials 20%",
        temp_bytes=2**20,
        peak_bytes=2**30,
    )
    return [ours, ours._replace(what="theirs", ratio=4.0, rate=2.5 / seconds, product_share=None)]


def points():
    """x^1 in time, x^0 in memory."""
    line = Line(
        "", "exact", "", "queries", curve="bank", seconds=1.0, median_s=1.0, temp_bytes=4 * 2**20
    )
    return [line._replace(x=float(x), rate=1000.0 / x) for x in (10, 100, 1000)]


@pytest.fixture
def fake(monkeypatch):
    """Two rows and a point in place of the real ones; `calls` tells which were measured."""
    calls = []

    def row(name, lines):
        def measure(bench):
            calls.append(name)
            if lines is None:
                raise Skipped("nothing to measure it with")
            return lines

        return measure

    found = {
        "a": row("a", lines_of("a", 2.0)),
        "b": row("b", None),
        **{f"c/{i}": row(f"c/{i}", [one]) for i, one in enumerate(points())},
    }

    def chosen(sizes, names=None):
        return {name: one for name, one in found.items() if names is None or name in names}

    monkeypatch.setattr(running, "measurements", chosen)
    return calls


def test_a_row_is_measured_once(tmp_path, fake):
    said = []
    run_benchmark(tmp_path, size="tiny", rows=["a"], say=said.append)
    assert fake == ["a"] and "ours" in said[1]
    found = run_benchmark(tmp_path, size="tiny", say=said.append)
    assert fake == ["a", "b", "c/0", "c/1", "c/2"]
    assert [line.what for line in found] == [
        "ours | quick",
        "theirs",
        "not measured",
        *["exact"] * 3,
    ]
    run_benchmark(tmp_path, size="tiny", say=said.append)
    assert fake[5:] == ["b"]  # what could not be measured is tried again
    run_benchmark(tmp_path, size="tiny", rows=["a"], fresh=True, say=said.append)
    assert fake[6:] == ["a"]
    (tmp_path / "rows" / "a.json").write_text('{"format": 1, "lines": [')
    run_benchmark(tmp_path, size="tiny", rows=["a"], say=said.append)
    assert fake[7:] == ["a"]
    record = json.loads((tmp_path / "rows" / "c_1.json").read_text())
    assert record["lines"][0]["row"] == "c/1" and record["identity"]["size"] == "tiny"


def test_rows_of_another_kind_of_run_are_refused(tmp_path, fake):
    run_benchmark(tmp_path, size="tiny", rows=["a"], say=lambda text: None)
    with pytest.raises(ConfigError, match="size tiny there and quick here.*another --workdir"):
        run_benchmark(tmp_path, size="quick", rows=["a"], say=lambda text: None)
    assert fake == ["a"]


def test_what_is_written(tmp_path, fake):
    found = run_benchmark(tmp_path, size="tiny", say=lambda text: None)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "benchmark.csv").read_text())))
    assert [row["what"] for row in rows] == [line.what for line in found]
    assert rows[1]["ratio"] == "4" and rows[1]["product_share"] == ""
    assert rows[0]["bound"] == "exponentials 20%" and rows[0]["temp_bytes"] == "1048576"
    text = (tmp_path / "benchmark.md").read_text()
    assert "| a | ours \\| quick | 5 queries/s | 2 s (2 s) of 3 |" in text
    assert "nothing to measure it with" in text
    assert "seconds grow as x^1.00; bytes grow as x^0.00" in text
    for name in ("benchmark.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert benchmark_csv(found) == benchmark_csv(found)
    assert "Ceilings" in benchmark_markdown(found, {}, {"bytes_per_s": 2e10})


def test_slopes():
    assert slope([1, 10, 100], [5, 50, 500]) == pytest.approx(1.0)
    assert slope([1, 10], [7, 7]) == pytest.approx(0.0)
    assert slope([4], [7]) is None
    assert slopes(points()) == {"seconds": pytest.approx(1.0), "temp_bytes": pytest.approx(0.0)}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["stage_3"], r"--rows=stage_3: there is no such row \(did you mean stage_"),
        ([""], "there is no such row; use stage_1, "),
        ([], "--rows names no row"),
        (["stage_1", "../x"], "--rows=../x: there is no such row"),
    ],
)
def test_unknown_rows_are_refused(rows, words):
    with pytest.raises(ConfigError, match=words):
        measurements(TINY, rows)


def test_names_of_series():
    assert list(measurements(TINY, ["scann", "stage_1"])) == ["stage_1", "scann/300"]
    assert all(name.startswith("curve_") for name in measurements(QUICK, ["curves"]))
    assert len(measurements(QUICK)) == len(set(measurements(QUICK)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": "huge"}, "size='huge' is unknown; use one of full, quick, tiny"),
        ({"scann_banks": [5]}, "--scann_banks=5 should be numbers of rows, 100 or more"),
        ({"scann_banks": []}, "--scann_banks= should be"),
        ({"opponent_batch": 0}, "--opponent_batch=0 must be at least 1"),
    ],
)
def test_hostile_settings_are_refused_before_any_work(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        run_benchmark(tmp_path / "x", **{"size": "tiny"} | settings)
    assert not (tmp_path / "x").exists()


def test_the_script_answers_an_unknown_row_with_one_sentence(tmp_path):
    command = [
        sys.executable,
        "launch/benchmark.py",
        f"--workdir={tmp_path / 'x'}",
        "--rows=stage_9",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: --rows=stage_9: there is no such row (did you mean stage_")
    assert not (tmp_path / "x").exists()


def test_sizes_grow():
    assert list(SIZES) == ["full", "quick", "tiny"]
    for small, large in ((TINY, QUICK), (QUICK, SIZES["full"])):
        assert small.steps <= large.steps and small.repetitions <= large.repetitions
