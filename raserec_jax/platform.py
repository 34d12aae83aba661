"""What must be settled before JAX starts: one XLA flag that keeps jaxlib 0.10.2 right on a CPU.

jaxlib 0.10.2, the newest for Python 3.11, silently computes wrong numbers on a CPU in one class of
fusions (jax-ml/jax#39103: `vmap(lambda r: sum((M @ r) ** 2))` over 40,000 rows of 3 gets some 7,000
rows wrong). Emptying the list of YNNPACK fusions makes it right, for some 14 % of a training step.
XLA reads XLA_FLAGS once, when the first backend starts, and ends the process over a flag that it
does not know: so the flag goes in before that, and for exactly this version. Imports neither JAX
nor anything of ours.
"""

import importlib.metadata
import os
import sys
import warnings

AFFECTED_JAXLIB = "0.10.2"
FUSION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def prepare_platform() -> bool:
    """Adds the fusion flag to XLA_FLAGS where jaxlib needs it; called when raserec_jax is imported.

    A flag of the same name that the user has set, whatever its value, is left as it is.

    Returns:
      Whether this process is safe: True if jaxlib is not affected, the flag is in force, or an
      accelerator computes; False, after a warning, if JAX's CPU backend already runs without it.
    """
    if installed_version("jaxlib") != AFFECTED_JAXLIB or FUSION_FLAG in os.environ.get(
        "XLA_FLAGS", ""
    ):
        return True
    if _cpu_backend_runs():
        warnings.warn(
            f"jaxlib {AFFECTED_JAXLIB} computes some CPU fusions wrongly, and JAX already runs "
            "without the flag that prevents it; import raserec_jax before the first JAX "
            f"computation, or set XLA_FLAGS={FUSION_FLAG}=",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} {FUSION_FLAG}=".strip()
    return True


def installed_version(name: str) -> str | None:
    """Of a distribution, such as "orbax-checkpoint"; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_backend_runs() -> bool:
    """Whether JAX has started and computes on the CPU; never imports or starts it."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    # There is no public way to ask without starting a backend; where this is gone, assume no.
    started = getattr(bridge, "backends_are_initialized", None)
    return bool(started and started()) and sys.modules["jax"].default_backend() == "cpu"
