"""Traces of some steps: of the calls that hold them, and of no others."""

import jax
import jax.numpy as jnp
import pytest

from raserec_jax.training.profiling import StepProfile
from tests.training.toy_fit import run_fit


@pytest.mark.parametrize(
    ("steps", "traced"),
    [((0, 1), [0]), ((3, 5), [2, 4]), ((4, 6), [4]), ((7, 99), [6, 8]), ((10, 11), []), (None, [])],
)
def test_calls_that_are_traced(tmp_path, monkeypatch, steps, traced):
    seen, running = [], [False]
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: running.__setitem__(0, True))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: running.__setitem__(0, False))
    with StepProfile(tmp_path, steps) as profile:
        for step in range(0, 10, 2):
            profile.before_call(step, 2)
            seen += [step] if running[0] else []
            profile.after_call(step + 2)
    assert seen == traced and not running[0]


def test_a_trace_of_training_is_left_in_its_folder(tmp_path):
    profile = StepProfile(tmp_path / "profile", (2, 4))
    run_fit(tmp_path, epochs=1, params={"w": jnp.full(4, 3.0)}, profile=profile)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
