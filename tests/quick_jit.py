"""jax.jit for small tests, whose time goes into XLA's compiler: a quarter of it on a CPU, for slower code."""

import functools

import jax

# Unoptimised code, from the older of XLA's two code generators.
OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def _known_options() -> dict:
    """Those of OPTIONS that this jaxlib has; none on an accelerator."""
    if jax.default_backend() != "cpu":
        return {}
    lowered = jax.jit(lambda x: x).lower(0.0)
    known = {}
    for name, value in OPTIONS.items():
        try:
            lowered.compile(compiler_options={name: value})
        except (RuntimeError, ValueError):
            continue
        known[name] = value
    return known


def quick_jit(function, **kwargs):
    """`jax.jit`, compiled quickly; takes and returns the same."""
    return jax.jit(function, compiler_options=_known_options(), **kwargs)
