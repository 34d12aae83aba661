"""Lists of the best rows found so far, best first: (scores [queries, k], -inf where none; ids [queries, k], -1)."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from raserec_jax.constants import NO_ROW


def nothing_found(queries: Any, k: int) -> tuple[Array, Array]:
    """Lists with no row; the number of queries may be a symbol, as in an export."""
    return jnp.full((queries, k), -jnp.inf), jnp.full((queries, k), NO_ROW, jnp.int32)


def merged(best: tuple[Array, Array], more: tuple[Array, Array], k: int) -> tuple[Array, Array]:
    """Top-k of two lists, the rows of `best` before those of `more`."""
    return top_of(*(jnp.concatenate(pair, axis=1) for pair in zip(best, more, strict=True)), k)


def top_of(scores: Array, ids: Array, k: int) -> tuple[Array, Array]:
    """Top-k of lists that stand one after the other; on equal scores what stands first."""
    scores, slots = lax.top_k(scores, k)
    return scores, pick(ids, slots)


def pick(values: Array, slots: Array) -> Array:
    """Row by row, the values at the slots; all slots exist."""
    return jnp.take_along_axis(values, slots, axis=1, mode="promise_in_bounds")
