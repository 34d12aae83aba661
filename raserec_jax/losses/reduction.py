"""From a loss per row to the loss of a batch."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def weighted_mean(
    per_row: Float[Array, " batch"], weights: Float[Array, " batch"] | None = None
) -> Float[Array, ""]:
    """Mean over rows, weighted (>= 0); 0 if all weights are 0."""
    if weights is None:
        weights = jnp.ones(per_row.shape[0], per_row.dtype)
    return jnp.sum(per_row * weights) / jnp.maximum(jnp.sum(weights), 1e-9)
