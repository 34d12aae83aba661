"""jax.jit for small tests: their time goes into the compiler, so it leaves the optimising out (half the time)."""

import jax


def quick_jit(function, **kwargs):
    """`jax.jit` with XLA's code generation unoptimised; takes and returns the same."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **kwargs)
