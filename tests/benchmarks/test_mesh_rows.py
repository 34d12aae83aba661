"""Stage 1 over meshes: what devices send, measured in a process that really has them; and what goes wrong there."""

import pathlib
import sys

import jax
import pytest

from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.mesh_rows import mesh_point
from raserec_jax.benchmarks.sizes import TINY

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Its processes find the package and compile in the least time."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    return Bench(TINY, tmp_path)


def test_emulated_devices_send_and_one_does_not(bench):
    one, *spread = mesh_point(bench, 2)
    assert (one.what, one.ratio, one.sent_bytes, one.note) == ("one device", 1.0, 0, "")
    assert [line.what for line in spread] == ["data:2,model:1", "data:1,model:2"]
    for line in spread:
        assert 0.5 < line.sent_bytes / line.sent_computed < 2.0
        assert f"each device sends {line.sent_bytes / 2**20:.3g} MiB a step, read" in line.note
        assert "(all-reduce" in line.note
        assert "emulated devices share the cores" in line.note
        assert 0 < line.seconds <= line.median_s and line.temp_bytes > 0
        assert line.rate == pytest.approx(line.units / line.seconds) and line.units == one.units
    # Over data the table's gradient is summed as often as the arithmetic has it; over model no row of it is sent.
    table = 4 * bench.config().encoder.dim * (bench.split.log.num_items + 1)
    assert spread[0].sent_bytes > table + spread[1].sent_bytes
    assert spread[0].sent_bytes < table + spread[0].sent_computed


def test_a_process_that_fails_is_told_in_a_sentence(bench, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "perhaps")
    words = "the process of 2 emulated devices ended with code 1: .*perhaps"
    with pytest.raises(Skipped, match=words):
        mesh_point(bench, 2)
    monkeypatch.setattr(sys, "executable", "no/such/python")
    with pytest.raises(Skipped, match="the process of 2 emulated devices cannot be run"):
        mesh_point(bench, 2)


def test_accelerators_that_are_not_there_are_not_emulated(bench, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = len(jax.devices())
    with pytest.raises(Skipped, match=f"{2 * there} devices are asked for, {there} of gpu there"):
        mesh_point(bench, 2 * there)
