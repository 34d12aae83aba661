"""The best rows of one piece of the bank, exactly, by scoring all of them.

Sorting is what costs: `lax.top_k` over a bank's width takes several times the matmul. So the rows are cut into
blocks of BLOCK_ROWS rows and a query chunk is searched in three steps:

1. tile by tile: matmul, eligibility as a mask, and the best score of each block (fused; a tile stays in the cache);
2. the k best blocks and some more, level by level: the best groups of groups of blocks, the best groups within these,
   the blocks;
3. top-k over the rows of those blocks, scored again.

This is exact: a row outside the k best blocks has k rows before it, one in each of these; so has a block outside the
k best groups. Blocks hold rows that follow one another and every top-k prefers the lower index, so rows of equal score
come in the order of the bank. The matmul rounds otherwise than the second scoring: the few blocks more keep a row whose
score is within that of the k-th from being lost, on one device or on the many of a mesh, which would lose another.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from raserec_jax.constants import NO_ROW
from raserec_jax.retrieval import layout
from raserec_jax.retrieval.eligibility import Queries, may_see
from raserec_jax.retrieval.layout import Shelves, seen_rows
from raserec_jax.retrieval.top_lists import pick

_SPARE_BLOCKS = 4


def best_of_piece(piece: Shelves, queries: Queries, k: int, rule: str) -> tuple[Array, Array]:
    """Scores and ids [queries, at most k] of the best rows, -inf and -1 where a query may see none."""
    maxima = _block_maxima(piece, queries, rule)  # [blocks, queries]
    blocks = _best_blocks(maxima, k + _SPARE_BLOCKS)  # [queries, best blocks], ascending
    scores = _block_scores(piece, queries, blocks, rule)  # [queries, best blocks, BLOCK_ROWS]
    count = scores.shape[0]
    scores, slots = lax.top_k(
        scores.reshape(count, -1), min(k, scores.shape[1] * layout.BLOCK_ROWS)
    )
    first = pick(blocks, slots // layout.BLOCK_ROWS) * layout.BLOCK_ROWS
    ids = jnp.where(scores > -jnp.inf, piece.first_rows + first + slots % layout.BLOCK_ROWS, NO_ROW)
    return scores, ids


def _block_maxima(piece: Shelves, queries: Queries, rule: str) -> Array:
    """[blocks, queries]: the best score of each block among the rows that the query may see, -inf if none."""
    across = queries.vectors.T  # [dim, queries]

    def step(_, tile):
        _, tile_blocks, dim = tile.tile_keys.shape
        keys = tile.tile_keys.reshape(-1, dim).astype(across.dtype)
        scores = jnp.matmul(keys, across, precision=lax.Precision.HIGHEST)
        scores = scores.reshape(layout.BLOCK_ROWS, tile_blocks, -1)
        if tile.scales is not None:
            scores *= tile.scales[..., None]
        # Unrolled: XLA's CPU backend vectorises this, but not one reduction over masked scores
        # (measured: the whole search 3 times slower).
        best = jnp.full(scores.shape[1:], -jnp.inf)
        for row in range(layout.BLOCK_ROWS):
            best = _larger(
                best, jnp.where(seen_rows(rule, tile, row, queries), scores[row], -jnp.inf)
            )
        return None, _without_negative_zero(best)

    tiles = piece._replace(block_keys=None, first_rows=None)
    maxima = lax.scan(step, None, tiles)[1]  # [tiles, tile blocks, queries]
    return maxima.reshape(-1, maxima.shape[-1])


def _group_maxima(values: Array) -> Array:
    """[many, queries] -> [many / GROUP_BLOCKS, queries]."""
    values = values.reshape(-1, layout.GROUP_BLOCKS, values.shape[-1])
    return functools.reduce(_larger, (values[:, one] for one in range(layout.GROUP_BLOCKS)))


def _larger(values: Array, others: Array) -> Array:
    """The larger of each two. No score is NaN; `jnp.maximum`, which passes NaN on, takes several instructions more."""
    return jnp.where(others > values, others, values)


def _best_blocks(maxima: Array, k: int) -> Array:
    """[queries, min(k, blocks)]: the blocks with the best maxima (on ties the first), in ascending order."""
    levels = [maxima]
    while len(levels[-1]) > k * layout.GROUP_BLOCKS:
        missing = -len(levels[-1]) % layout.GROUP_BLOCKS
        padded = jnp.pad(levels[-1], ((0, missing), (0, 0)), constant_values=-jnp.inf)
        levels.append(_group_maxima(padded))
    members = jnp.arange(layout.GROUP_BLOCKS, dtype=jnp.int32)
    # From the highest level down: what is best lies in the groups that are best.
    count = maxima.shape[1]
    best = jnp.broadcast_to(jnp.arange(len(levels[-1]), dtype=jnp.int32), (count, len(levels[-1])))
    for level in reversed(levels):
        if level is not levels[-1]:
            best = best[:, :, None] * layout.GROUP_BLOCKS + members[None, None]
            best = best.reshape(count, -1)
        if best.shape[1] > k:
            scores = level.at[best, jnp.arange(count)[:, None]].get(
                mode="fill", fill_value=-jnp.inf
            )
            best = jnp.sort(pick(best, lax.top_k(scores, k)[1]), axis=1)
    return best


def _block_scores(piece: Shelves, queries: Queries, blocks: Array, rule: str) -> Array:
    """[queries, best blocks, BLOCK_ROWS]: the rows of each query's best blocks scored again, -inf if not seen."""
    columns = {name: getattr(piece, name) for name in layout.ROW_COLUMNS}
    # [tiles, BLOCK_ROWS, tile blocks] -> [blocks, BLOCK_ROWS]
    by_block = {
        name: None if column is None else column.swapaxes(1, 2).reshape(-1, layout.BLOCK_ROWS)
        for name, column in columns.items()
    }

    def step(_, block):  # [queries]: a block for each query
        keys = jnp.take(piece.block_keys, block, axis=0, mode="clip")  # [queries, dim, BLOCK_ROWS]
        scores = (keys.astype(queries.vectors.dtype) * queries.vectors[:, :, None]).sum(axis=1)
        rows = {
            name: None if column is None else jnp.take(column, block, axis=0, mode="clip")
            for name, column in by_block.items()
        }
        scales = rows.pop("scales")
        scores = scores if scales is None else scores * scales
        asking = (None if column is None else column[:, None] for column in queries[1:])
        seen = rows.pop("exists") & may_see(rule, *rows.values(), *asking)
        return None, jnp.where(seen, scores, -jnp.inf)

    scores = lax.scan(step, None, blocks.T)[1]
    return _without_negative_zero(scores.swapaxes(0, 1))


def _without_negative_zero(scores: Array) -> Array:
    """top_k puts -0.0 after 0.0, which would break the tie rule."""
    return jnp.where(scores == 0, 0.0, scores)
