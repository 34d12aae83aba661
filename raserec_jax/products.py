"""Products of two arrays with operands of a chosen type and sums of float32.

"bfloat16" rounds the operands, forward and backward, and nothing else: products are summed in float32, and so are
parameters, activations, softmax, LayerNorm and optimiser. On GPUs and TPUs such products run at the rate of their
matrix units; what is kept for the backward pass takes half the bytes.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from raserec_jax.constants import MATMUL_DTYPES


def einsum(spec: str, x: Array, y: Array, matmul_dtype: str = "float32") -> Array:
    """jnp.einsum of two float32 operands, rounded first where `matmul_dtype` is bfloat16; float32.

    Args:
      spec: "...,...->...", where no index occurs in one operand alone.
      matmul_dtype: one of `constants.MATMUL_DTYPES`.

    Raises:
      ValueError: another type.
    """
    if matmul_dtype not in MATMUL_DTYPES:
        raise ValueError(
            f"matmul_dtype={matmul_dtype!r} is unknown; use one of {', '.join(MATMUL_DTYPES)}"
        )
    return jnp.einsum(spec, x, y) if matmul_dtype == "float32" else _rounded(spec, x, y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded(spec, x, y):
    return _product(spec, x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))


def _product(spec, x, y):
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _rounded_fwd(spec, x, y):
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return _product(spec, x, y), (x, y)


def _rounded_bwd(spec, residuals, g):
    x, y = residuals
    operands, out = spec.split("->")
    left, right = operands.split(",")
    g = g.astype(jnp.bfloat16)
    return _product(f"{out},{right}->{left}", g, y), _product(f"{out},{left}->{right}", g, x)


_rounded.defvjp(_rounded_fwd, _rounded_bwd)
