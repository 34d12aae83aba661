"""What a run would take, told before it starts."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from raserec_jax import cli
from raserec_jax.errors import ConfigError
from raserec_jax.training import dry_run as module
from raserec_jax.training.dry_run import compiled_needs, computed_bytes, dry_run, memory_limit
from tests.parallel.tasks import emulated_mesh
from tests.small_logs import random_split
from tests.tiny_workdir import quick_training, tiny_config

ROOT = pathlib.Path(__file__).parents[2]
SPLIT = random_split([9, 5, 12, 7] * 10, num_items=31)


@pytest.fixture(scope="module")
def told():
    """(needs on one device, needs on data:2,model:4, the words about the latter)."""
    config, mesh = tiny_config(), emulated_mesh(2, 4)
    config.encoder.update(num_layers=1, repeat_bias=False)
    found = []

    def keep(*args):
        found.append(compiled_needs(*args))
        return found[-1]

    with quick_training(), pytest.MonkeyPatch.context() as patch:
        one = compiled_needs(config, SPLIT, None)
        patch.setattr(module, "compiled_needs", keep)
        words = dry_run(config, SPLIT, mesh)
    return one, found[0], words


def test_tables_are_a_share_and_the_rest_is_whole(told):
    one, spread, _ = told
    dim, rows = 8, 32
    table = 4 * dim * rows
    assert one.parameters - spread.parameters == table - table // 4
    # Adam has two of each, and counts its steps, as does the rate.
    assert one.optimizer - 2 * one.parameters == spread.optimizer - 2 * spread.parameters
    assert one.data == spread.data
    each = 2 * 4 * dim + 4 * 4 + 4 * 5  # key, vector, columns of the bank, five neighbours
    assert spread.memory == -(-(one.memory // each) // 8) * each
    assert one.activations > 0 and spread.activations > 0 and not one.exchanges


def test_words_and_verdict(told):
    _, spread, words = told
    assert "each of 8 devices, data:2,model:4" in words
    assert "it fits" in words and "by arithmetic" in words
    sent = sum(one.moved_bytes for one in spread.exchanges if one.kind == "all-reduce")
    assert sent >= 4 * 8 * 8  # at the least the gradient of a device's rows of the table


def test_what_does_not_fit_is_said(told, monkeypatch):
    _, spread, _ = told
    monkeypatch.setattr(module, "compiled_needs", lambda *args: spread._replace(memory=2**60))
    words = dry_run(tiny_config(), SPLIT, None)
    assert "it does NOT fit: more devices along mesh.model" in words


def test_the_command_line_takes_a_mesh(tmp_path):
    """Refused before any data are read, with what is there and what is allowed."""
    flags = ["--config=configs/raserec.py", f"--workdir={tmp_path}", "--dry_run", "--mesh=data:3"]
    done = subprocess.run(
        [sys.executable, "launch/train.py", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "error: a mesh of data:3,model:1 does not fit 2 devices; the sizes must multiply"
    assert done.returncode == 2 and done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["5", "5:5", "9:5", "a:b", "1:2:3", "-1:4"])
def test_steps_to_trace_that_are_none(text):
    with pytest.raises(ConfigError, match="should be FIRST:LAST with FIRST below LAST, as in"):
        cli.step_range("profile_steps", text)
    assert cli.step_range("profile_steps", "10:20") == (10, 20)


def test_the_host_is_shared_by_its_devices():
    devices = jax.devices()
    assert memory_limit(devices[:1])[0] // 8 == memory_limit(devices)[0]


def test_arithmetic_by_hand():
    found = computed_bytes(
        table_bytes=800,
        rest_bytes=100,
        vector_bytes=32,
        reads=10,
        places=30,
        mesh=emulated_mesh(4, 2),
    )
    assert list(found.values()) == [
        2 * 3 / 4 * (2 * 400 + 100),
        8 * 3 / 4 * 10 * 32,
        2 * 3 / 4 * 10 * 32,
        2 * 1 / 2 * (30 + 20) / 4 * 32,
    ]
