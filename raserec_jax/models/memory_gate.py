"""MemoryGate: how much a query should listen to its memories, decided from the query and from what was retrieved.

RaSeRec weighs user vector and memories by one alpha for all (2.4); the gate shifts its logit query by query. It is
ours, not the paper's.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from raserec_jax.models.layers import torch_linear_bias, torch_linear_kernel

SIGNALS = ("best_similarity", "mean_similarity", "agreement", "log_memories")
WIDTH = 32
"""Of the hidden layer."""


class MemoryGate(nn.Module):
    """Two layers over the user vector, what was read, and the retrieval's signals; the second starts at zero.

    Fields:
      norm_epsilon: of the LayerNorm, without parameters, on both vectors.
    """

    norm_epsilon: float = 1e-12

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "batch dim"],
        read: Float[Array, "batch dim"],
        keys: Float[Array, "batch top_k dim"],
        values: Float[Array, "batch top_k dim"],
        mask: Bool[Array, "batch top_k"],
    ) -> Float[Array, "batch 1"]:
        """What is added to the logit of alpha: above 0 the user vector counts more than usual; float32."""
        vectors = [
            nn.LayerNorm(self.norm_epsilon, use_scale=False, use_bias=False)(one)
            for one in (query, read)
        ]
        seen = jnp.concatenate([*vectors, retrieval_signals(query, keys, values, mask)], axis=1)
        inner = nn.Dense(
            WIDTH,
            kernel_init=torch_linear_kernel,
            bias_init=torch_linear_bias(seen.shape[1]),
            name="inner",
        )(seen)
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="outer")(nn.gelu(inner))


def retrieval_signals(
    query: Float[Array, "batch dim"],
    keys: Float[Array, "batch top_k dim"],
    values: Float[Array, "batch top_k dim"],
    mask: Bool[Array, "batch top_k"],
) -> Float[Array, "batch signals"]:
    """SIGNALS of each query: cosine of its best memory and mean cosine of all, agreement among what followed them (the
    squared length of the mean of the unit vectors: 1 = all the same item), and log(1 + memories); zeros without any."""
    count = jnp.sum(mask, axis=1)
    share = mask / jnp.maximum(count, 1)[:, None]
    cosines = jnp.einsum("bd,bkd->bk", _unit(query), _unit(keys))
    best = jnp.max(jnp.where(mask, cosines, -1.0), axis=1)
    middle = jnp.einsum("bk,bkd->bd", share, _unit(values))
    signals = (
        jnp.where(count > 0, best, 0.0),
        jnp.sum(share * cosines, axis=1),
        jnp.sum(middle * middle, axis=1),
        jnp.log1p(count.astype(query.dtype)),
    )
    return jnp.stack(signals, axis=1)


def _unit(vectors: Array) -> Array:
    """Of length 1; a zero vector stays, with a finite gradient."""
    squares = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(squares, 1e-12))
