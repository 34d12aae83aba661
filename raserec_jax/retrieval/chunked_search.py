"""The best rows of what one device holds: chunk of queries by chunk, piece of the bank by piece."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from raserec_jax.constants import NO_ROW
from raserec_jax.retrieval.approximate import likely_best_of_piece
from raserec_jax.retrieval.block_search import best_of_piece
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.layout import Shelves
from raserec_jax.retrieval.top_lists import merged, nothing_found


@functools.partial(jax.jit, static_argnames=("chunk", "k", "rule", "recall"))
def search_chunks(
    shelves: Shelves,
    queries: Queries,
    count: int | Array,
    *,
    chunk: int,
    k: int,
    rule: str,
    recall: float = 0.0,
) -> tuple[Float[Array, "queries top_k"], Int[Array, "queries top_k"]]:
    """`search_chunk` of the first `count` queries, `chunk` at a time; a multiple of it are given. One call for many
    chunks makes the scores' memory once: page faults of a call's own took a tenth of a large search on a CPU."""
    size = queries.vectors.shape[0]
    chunks = jax.tree.map(lambda column: column.reshape(-1, chunk, *column.shape[1:]), queries)

    def step(at, found):
        part = jax.tree.map(lambda column: column[at], chunks)
        best = search_chunk(shelves, part, k=k, rule=rule, recall=recall)
        return tuple(all_.at[at].set(one) for all_, one in zip(found, best, strict=True))

    shape = size // chunk, chunk, k
    nothing = jnp.zeros(shape), jnp.full(shape, NO_ROW, jnp.int32)
    found = lax.fori_loop(0, -(-count // chunk), step, nothing)
    return tuple(values.reshape(size, k) for values in found)


@functools.partial(jax.jit, static_argnames=("k", "rule", "recall"))
def search_chunk(
    shelves: Shelves, queries: Queries, *, k: int, rule: str, recall: float = 0.0
) -> tuple[Float[Array, "queries top_k"], Int[Array, "queries top_k"]]:
    """The k best rows over all pieces: scores [queries, k] (-inf where none), ids [queries, k] (-1 where none).

    Args:
      recall: 0 = exactly these, else the share of them that `lax.approx_max_k` is to find.
    """

    def step(best, piece):
        found = (
            likely_best_of_piece(piece, queries, k, rule, recall)
            if recall
            else best_of_piece(piece, queries, k, rule)
        )
        return merged(best, found, k), None

    return lax.scan(step, nothing_found(queries.vectors.shape[0], k), shelves)[0]
