"""The rank of each user's target among all items, counted in chunks.

A rank is the number of items that score at least as high as the target, so one comparison per user
and item decides it: nothing is sorted, and no [users, items] matrix exists, only blocks of
[item_chunk, user_chunk]. Ties count against the model. For that an exact tie must come out exact in
floating point: the target's score is read from the same chunked matmul that scores the other items,
in a first pass; the second pass counts.

On a mesh each device counts among its own items for its own users, and the counts are added up (`item_parts`); counts
are whole numbers, so the ranks are those of one device.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from raserec_jax.constants import PAD_ID
from raserec_jax.evaluation.item_parts import over_parts, parts_on
from raserec_jax.evaluation.item_scores import (
    ITEM_CHUNK,
    ITEM_MULTIPLE,
    Scores,
    block_scorer,
    catalogue_of,
    check_scores,
    map_users,
)


def rank_targets(
    scores: Scores,
    item_table: Float[Array | np.ndarray, "rows dim"],
    target_ids: Int[Array | np.ndarray, " users"],
    seen_ids: Int[Array | np.ndarray, "users seen"] | None = None,
    *,
    user_chunk: int | None = None,
    item_chunk: int = ITEM_CHUNK,
    mesh: Mesh | None = None,
) -> tuple[Int[Array, " users"], Int[Array, " users"]]:
    """0-based rank of each target among items 1..V, and the same with the seen items left out.

    rank = number of items i != target with score_i >= score_target. Row 0 of the table is padding
    and never counts. A score that is NaN counts against the model: with a NaN query the rank is the
    worst there is.

    Args:
      scores: queries, and the sparse part where there is one.
      item_table: [V + 1, dim], row 0 = padding.
      target_ids: 1..V.
      seen_ids: items the user has met, distinct within a row, 0 = none; the target stays in even if
        listed. None: the filtered rank is the unfiltered one.
      user_chunk, item_chunk: size of a block of scores, which is all the memory this needs; user_chunk None = what
        suits the device.
      mesh: spread users over its `data` axis and items over `model`, with the same ranks; None = one device.

    Returns:
      (unfiltered, filtered) ranks, int32.

    Raises:
      ValueError: shapes that do not fit together, half of a sparse part, or a target outside 1..V.
    """
    check_scores(scores, item_table)
    num_users = scores.query.shape[0]
    if target_ids.shape != (num_users,):
        raise ValueError(
            f"target_ids has shape {target_ids.shape}; expected one per query: ({num_users},)"
        )
    _check_targets(target_ids, item_table.shape[0] - 1)
    if seen_ids is None:
        seen_ids = np.zeros((num_users, 1), np.int32)
    if num_users == 0:
        return jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32)
    rows = (target_ids, seen_ids)
    if mesh is None:
        return _rank(scores, item_table, *rows, user_chunk, item_chunk)
    sizes = {"num_users": num_users, "num_items": item_table.shape[0] - 1}
    chunks = {"user_chunk": user_chunk, "item_chunk": item_chunk}
    return _rank_parts(*parts_on(mesh, scores, rows, item_table), mesh=mesh, **sizes, **chunks)


@functools.partial(jax.jit, static_argnames=("user_chunk", "item_chunk"))
def _rank(scores, item_table, target_ids, seen_ids, user_chunk, item_chunk):
    catalogue = catalogue_of(item_table, item_chunk)
    extra = target_ids, seen_ids
    return map_users(lambda rows: _count(*rows, catalogue), scores, extra, user_chunk)


@functools.partial(
    jax.jit, static_argnames=("mesh", "num_users", "num_items", "user_chunk", "item_chunk")
)
def _rank_parts(scores, rows, item_table, *, mesh, num_users, num_items, user_chunk, item_chunk):
    def of_device(scores, rows, item_table, **part):
        catalogue = catalogue_of(item_table, item_chunk, num_items=num_items, **part)
        return map_users(lambda one: _count(*one, catalogue), scores, rows, user_chunk)

    return over_parts(mesh, of_device, scores, rows, item_table, num_users)


def _count(scores, extra, catalogue):
    """Ranks of one chunk of users; of a part of the items, added up over the others."""
    target_ids, seen_ids = extra
    block_of = block_scorer(scores, catalogue, items_first=True)
    others = (seen_ids != PAD_ID) & (seen_ids != target_ids[:, None])

    def read_target(target_score, chunk):
        picked, inside = _pick(block_of(chunk), catalogue.columns(target_ids[:, None], chunk))
        return jnp.where(inside[:, 0], picked[:, 0], target_score), None

    def count_above(counts, chunk):
        ahead, seen_ahead = counts
        block = block_of(chunk)
        ahead += _above(block, catalogue.is_item(chunk), target_score)
        picked, inside = _pick(block, catalogue.columns(seen_ids, chunk))
        above = others & inside & ~(picked < target_score[:, None])
        return (ahead, seen_ahead + jnp.sum(above, axis=1, dtype=jnp.int32)), None

    chunks = catalogue.numbers
    zeros = jnp.zeros(target_ids.shape, jnp.int32)
    target_score, _ = lax.scan(read_target, jnp.zeros(target_ids.shape, jnp.float32), chunks)
    if catalogue.axis is not None:  # one part has it, the others add 0
        target_score = lax.psum(target_score, catalogue.axis)
    counts, _ = lax.scan(count_above, (zeros, zeros), chunks)
    if catalogue.axis is not None:
        counts = lax.psum(counts, catalogue.axis)
    ahead, seen_ahead = counts
    ahead -= 1  # the target is never below itself
    return ahead, ahead - seen_ahead


def _above(block, is_item, target_score):
    """How many items of the block [items, users] score no less than each user's target: [users] int32."""

    def count(rows, items):
        # Not (a < b) instead of a >= b: a NaN on either side then counts against the model.
        above = items[:, None] & ~(rows < target_score[None, :])
        return jnp.sum(above, axis=0, dtype=jnp.int32)

    if jax.default_backend() != "cpu":
        return count(block, is_item)
    # Piece by piece: XLA's code for a CPU would go down the column of one group of users after the other.
    pieces = block.reshape(-1, ITEM_MULTIPLE, block.shape[1]), is_item.reshape(-1, ITEM_MULTIPLE)
    start = jnp.zeros(block.shape[1], jnp.int32)
    return lax.scan(lambda counts, piece: (counts + count(*piece), None), start, pieces)[0]


def _pick(block, columns):
    """Scores of items [users, entries], as far as they lie in this block [items, users], and which do."""
    inside = columns < block.shape[0]
    users = jnp.arange(block.shape[1])[:, None]
    return block[jnp.where(inside, columns, 0), users], inside


def _check_targets(target_ids, num_items: int) -> None:
    if isinstance(target_ids, jax.core.Tracer) or target_ids.size == 0:
        return
    ids = np.asarray(target_ids)
    bad = (ids < 1) | (ids > num_items)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"target {int(ids[row])} of row {row} is no item; expected 1..{num_items}: drop users "
            "without a target"
        )
