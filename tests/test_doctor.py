"""The doctor: sound here, and ill without the flag where jaxlib needs it."""

import os
import pathlib
import subprocess
import sys

import jaxlib
import pytest

from raserec_jax.doctor import Diagnosis, Finding, diagnose
from raserec_jax.platform import AFFECTED_JAXLIB, FUSION_FLAG

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_it_tells_versions_devices_and_that_numbers_can_be_trusted():
    found = diagnose()
    assert found.sound
    assert found.facts["jaxlib"] == jaxlib.__version__
    text = str(found)
    assert "XLA_FLAGS" in text
    assert "fused sums of matrix-vector products are right" in text
    assert "#49176" in text


def test_what_is_slow_is_not_wrong():
    facts = {"jax": "1"}
    assert Diagnosis(facts, [Finding("ok", "a"), Finding("note", "b")]).sound
    assert not Diagnosis(facts, [Finding("note", "b"), Finding("wrong", "c")]).sound


@pytest.mark.skipif(jaxlib.__version__ != AFFECTED_JAXLIB, reason=f"only jaxlib {AFFECTED_JAXLIB}")
def test_a_process_without_the_flag_is_called_wrong():
    """A user's own value of the flag is left as it is, and the doctor says what it does."""
    given = f"{FUSION_FLAG}=LIBRARY_FUSION_TYPE_DOT"
    done = subprocess.run(
        [sys.executable, ROOT / "launch" / "doctor.py"],
        env={**os.environ, "XLA_FLAGS": given, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "40,000 fused sums are wrong (jax-ml/jax#39103)" in done.stdout
