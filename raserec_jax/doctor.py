"""What raserec_jax finds here: versions, devices, two known miscompiles tried, and what would be slow or wrong."""

import os
import platform
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import raserec_jax
from raserec_jax.platform import FUSION_FLAG, installed_version, prepare_platform

_LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scann",
    "sentence-transformers",
    "openai",
    "pyarrow",
    "tensorflow",
)
_ROWS = 40_000


class Finding(NamedTuple):
    """level: "ok", "note" (slow or missing) or "wrong" (numbers cannot be trusted).  text: one sentence."""

    level: str
    text: str


class Diagnosis(NamedTuple):
    """facts: name -> value, as they are.  findings: what follows."""

    facts: dict[str, Any]
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; what is slow or missing does not count."""
        return all(one.level != "wrong" for one in self.findings)

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        lines = [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        return "\n".join([*lines, "", *(f"{one.level:<5}  {one.text}" for one in self.findings)])


def diagnose() -> Diagnosis:
    """Looks at versions, devices and flags, and runs two small programs that some compilers get wrong."""
    versions = {name: installed_version(name) for name in _LIBRARIES}
    backend = jax.default_backend()
    facts = {
        "raserec_jax": raserec_jax.__version__,
        "python": platform.python_version(),
        **{name: version or "not installed" for name, version in versions.items()},
        "backend": backend,
        "devices": ", ".join(f"{one.id}: {one.device_kind}" for one in jax.devices()),
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "").strip() or "none",
        "jax_enable_x64": jax.config.jax_enable_x64,
    }
    findings = [_fused_sums(), _shifted_rows(), *_advice(versions, backend)]
    return Diagnosis(facts, findings)


def fused_sums_wrong() -> int:
    """Of 40,000 rows, how many sums of squares of a matrix-vector product are wrong (jax-ml/jax#39103)."""
    rows = np.random.default_rng(0).normal(size=(_ROWS, 3)).astype(np.float32)
    matrix = np.arange(9, dtype=np.float32).reshape(3, 3) / 4
    found = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.asarray(matrix) @ row) ** 2)))(rows)
    expected = ((rows.astype(np.float64) @ matrix.T.astype(np.float64)) ** 2).sum(axis=1)
    return int(np.sum(~np.isclose(found, expected, rtol=1e-3, atol=1e-3)))


def shifted_rows_wrong() -> int:
    """Of 128 numbers, how many are wrong after an overlapping shift in place under a new axis (openxla/xla#49176)."""
    base = jnp.arange(128, dtype=jnp.float32)
    found = jax.jit(lambda x: x.at[1:].set(x[:-1])[None])(base)[0]
    return int(np.sum(np.asarray(found) != np.concatenate([[0], np.arange(127)])))


def _fused_sums() -> Finding:
    prepare_platform()
    wrong = fused_sums_wrong()
    if not wrong:
        return Finding("ok", "fused sums of matrix-vector products are right (jax-ml/jax#39103)")
    return Finding(
        "wrong",
        f"{wrong:,} of {_ROWS:,} fused sums are wrong (jax-ml/jax#39103): import raserec_jax before JAX computes, "
        f"or set XLA_FLAGS={FUSION_FLAG}= before the process starts",
    )


def _shifted_rows() -> Finding:
    wrong = shifted_rows_wrong()
    if not wrong:
        return Finding("ok", "overlapping shifts in place are right (openxla/xla#49176)")
    return Finding(
        "note",
        f"x.at[1:].set(x[:-1]) under a new axis gives {wrong} of 128 wrong numbers (openxla/xla#49176): nothing here "
        "is written so; in code of your own shift with jnp.roll, pad or concatenate",
    )


def _advice(versions: dict[str, str | None], backend: str) -> list[Finding]:
    """What is known of these versions together."""
    jaxlib, found = versions["jaxlib"], []
    if sys.version_info < (3, 12):
        found.append(
            ("note", "Python 3.11 ends with jax 0.10.2; Python 3.12 or newer gets the newest")
        )
    if backend == "gpu" and jaxlib in ("0.10.2", "0.11.0"):
        found.append(
            (
                "note",
                f"jaxlib {jaxlib} adds up repeated rows very slowly on a GPU (openxla/xla#46225): leave "
                "encoder.table_gradient=auto, which sorts, or take jaxlib 0.11.1 or newer",
            )
        )
    if backend == "cpu" and jaxlib == "0.11.1":
        found.append(
            ("note", "jaxlib 0.11.1 writes short slices in loops slowly (jax-ml/jax#40101)")
        )
    if versions["scann"] is None:
        found.append(("note", "ScaNN is not installed: memory.engine=auto searches exactly"))
    elif (versions["tensorflow"] or "").startswith("2.21"):
        found.append(
            ("note", "ScaNN 1.4 was built for TensorFlow 2.20; it is imported here without it")
        )
    if jax.config.jax_enable_x64:
        found.append(("note", "JAX_ENABLE_X64 is on: nothing here needs it, and it costs time"))
    return [Finding(*one) for one in found]
