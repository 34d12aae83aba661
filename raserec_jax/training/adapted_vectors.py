"""Vectors of texts that are adapted while the encoder trains: a linear map, and the neighbours that it makes nearest.

SRA-CL's vectors are frozen. Here one square matrix, the identity at first, is trained with the inter-user loss (its
gradient comes through the synthesizer's attention); before each epoch a history's neighbours are chosen anew, the
nearest under the map among the candidates that the frozen vectors gave. `semantic.top_k` above `sra_cl.k` leaves room
to choose.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

ADAPTER = "text_adapter"
"""Name of its parameters beside the encoder's during stage 1."""

_ROWS = 1024
"""Histories whose candidates are compared at a time."""


def fresh_adapter(width: int) -> dict:
    """The identity: training starts from the frozen vectors."""
    return {"kernel": jnp.eye(width)}


def adapt(adapter: dict, vectors: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """The vectors under the map, float32."""
    return vectors.astype(jnp.float32) @ adapter["kernel"]


@functools.partial(jax.jit, static_argnames="k")
def nearest_candidates(
    adapter: dict,
    vectors: Float[Array, "pool width"],
    candidate_ids: Int[Array, "rows candidates"],
    *,
    k: int,
) -> Int[Array, "rows k"]:
    """Of each row's candidates the k nearest by cosine under the map, best first.

    Args:
      vectors: of the pool, whose first rows are those that choose.
      candidate_ids: rows of the pool, -1 = none, which stays last.

    Returns:
      ids, as many columns as there are candidates or k, whichever is less.
    """
    rows, candidates = candidate_ids.shape
    adapted = adapt(adapter, vectors)
    lengths = jnp.sqrt(jnp.sum(adapted**2, axis=1, keepdims=True))
    adapted = adapted / jnp.maximum(lengths, 1e-12)
    blocks = -(-rows // _ROWS)
    padded = jnp.pad(candidate_ids, ((0, blocks * _ROWS - rows), (0, 0)), constant_values=-1)

    def choose(block):
        first, ids = block
        own = adapted[jnp.minimum(first + jnp.arange(_ROWS), vectors.shape[0] - 1)]
        scores = jnp.einsum("rw,rcw->rc", own, adapted[jnp.maximum(ids, 0)])
        best = jax.lax.top_k(jnp.where(ids >= 0, scores, -2.0), min(k, candidates))[1]
        return jnp.take_along_axis(ids, best, axis=1)

    firsts = jnp.arange(blocks) * _ROWS
    chosen = jax.lax.map(choose, (firsts, padded.reshape(blocks, _ROWS, candidates)))
    return chosen.reshape(blocks * _ROWS, -1)[:rows]
