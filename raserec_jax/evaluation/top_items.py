"""The best items for each user, by the scoring rule of `item_scores.py`, with a running top-k over
chunks of items."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from raserec_jax.constants import PAD_ID
from raserec_jax.evaluation.item_parts import over_parts, parts_on
from raserec_jax.evaluation.item_scores import (
    ITEM_CHUNK,
    Catalogue,
    Scores,
    block_scorer,
    catalogue_of,
    check_scores,
    map_users,
)


def top_items(
    scores: Scores,
    item_table: Float[Array | np.ndarray, "rows dim"],
    k: int,
    exclude_ids: Int[Array | np.ndarray, "users excluded"] | None = None,
    *,
    allowed: Bool[Array | np.ndarray, " entries"] | None = None,
    user_chunk: int | None = None,
    item_chunk: int = ITEM_CHUNK,
    mesh: Mesh | None = None,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """The k items of highest score for each user, best first; of equal scores the lower id.

    Args:
      scores: queries, and the sparse part where there is one.
      item_table: [V + 1, dim], row 0 = padding.
      k: how many, 1..V.
      exclude_ids: items not to recommend, 0 or negative = none.
      allowed: by item id, which items may be recommended to anyone; None: all.
      user_chunk, item_chunk, mesh: as in `rank_targets`; on a mesh `allowed` must be None.

    Returns:
      (item ids int32, scores float32). Where fewer than k items are left, id 0 and score -inf;
      items whose score is NaN or -inf are never listed.

    Raises:
      ValueError: k outside 1..V, shapes that do not fit together, or half of a sparse part.
    """
    check_scores(scores, item_table)
    num_users, num_items = scores.query.shape[0], item_table.shape[0] - 1
    if not 1 <= k <= num_items:
        raise ValueError(
            f"k={k}, and the catalogue has {num_items} items; expected 1 <= k <= {num_items}"
        )
    if exclude_ids is None:
        exclude_ids = np.zeros((num_users, 1), np.int32)
    if exclude_ids.shape[0] != num_users:
        raise ValueError(
            f"exclude_ids has {exclude_ids.shape[0]} rows; expected one per query: {num_users}"
        )
    if allowed is not None and allowed.shape != (num_items + 1,):
        raise ValueError(
            f"allowed has shape {allowed.shape}; expected one per row of the table: ({num_items + 1},)"
        )
    if num_users == 0:
        return jnp.zeros((0, k), jnp.int32), jnp.zeros((0, k), jnp.float32)
    if mesh is None:
        return _top(scores, item_table, exclude_ids, allowed, k, user_chunk, item_chunk)
    assert allowed is None, "lists of allowed items are for recommendations, on one device"
    sizes = {"num_users": num_users, "num_items": num_items, "k": k}
    chunks = {"user_chunk": user_chunk, "item_chunk": item_chunk}
    parts = parts_on(mesh, scores, exclude_ids, item_table)
    return _top_of_parts(*parts, mesh=mesh, **sizes, **chunks)


@functools.partial(jax.jit, static_argnames=("k", "user_chunk", "item_chunk"))
def _top(scores, item_table, exclude_ids, allowed, k, user_chunk, item_chunk):
    def top_chunk(rows):
        return running_top(*rows, item_table, allowed, k, item_chunk)

    return map_users(top_chunk, scores, exclude_ids, user_chunk)


@functools.partial(
    jax.jit, static_argnames=("mesh", "num_users", "num_items", "k", "user_chunk", "item_chunk")
)
def _top_of_parts(
    scores, exclude_ids, item_table, *, mesh, num_users, num_items, k, user_chunk, item_chunk
):
    def of_device(scores, exclude_ids, item_table, **part):
        catalogue = catalogue_of(item_table, item_chunk, num_items=num_items, **part)

        def top_chunk(rows):
            return _joined(_best_of(*rows, catalogue, None, k), catalogue.axis, k)

        return map_users(top_chunk, scores, exclude_ids, user_chunk)

    return over_parts(mesh, of_device, scores, exclude_ids, item_table, num_users)


def running_top(
    scores: Scores,
    exclude_ids: Int[Array, "users excluded"],
    item_table: Float[Array, "rows dim"],
    allowed: Bool[Array, " rows"] | None,
    k: int,
    item_chunk: int = ITEM_CHUNK,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """`top_items` of one chunk of users, unchecked; to be called inside jit. Their number may be symbolic."""
    return _best_of(scores, exclude_ids, catalogue_of(item_table, item_chunk), allowed, k)


def _best_of(scores, exclude_ids, catalogue: Catalogue, allowed, k):
    """(ids, scores) of the best of a catalogue, or of a part of it."""
    num_chunks, width = catalogue.chunks.shape[:2]
    num_users = scores.query.shape[0]
    block_of = block_scorer(scores, catalogue)
    if allowed is not None:
        allowed = jnp.pad(allowed, (0, num_chunks * width - allowed.shape[0])).reshape(-1, width)

    def step(carry, chunk):
        best_ids, best_scores = carry
        block = _without_excluded(block_of(chunk), catalogue.columns(exclude_ids, chunk))
        # top_k puts NaN first, hence the comparison: false for NaN, and so -inf.
        listed = catalogue.is_item(chunk)[None, :] & (block > -jnp.inf)
        if allowed is not None:
            listed &= allowed[chunk][None, :]
        values, columns = lax.top_k(jnp.where(listed, block, -jnp.inf), min(k, width))
        # What was found before comes first: top_k is stable, so ties go to the lower id.
        values = jnp.concatenate([best_scores, values], axis=1)
        first_id = catalogue.first_id + chunk * width
        ids = jnp.concatenate([best_ids, columns.astype(jnp.int32) + first_id], axis=1)
        best_scores, places = lax.top_k(values, k)
        return (jnp.take_along_axis(ids, places, axis=1), best_scores), None

    start = (jnp.zeros((num_users, k), jnp.int32), jnp.full((num_users, k), -jnp.inf))
    (ids, best_scores), _ = lax.scan(step, start, catalogue.numbers)
    return jnp.where(best_scores > -jnp.inf, ids, PAD_ID), best_scores


def _joined(best, axis: str | None, k: int):
    """The best of all parts' lists; parts follow one another as ids do, so ties go to the lower id."""
    if axis is None:
        return best
    ids, scores = (lax.all_gather(one, axis, axis=1, tiled=True) for one in best)
    scores, places = lax.top_k(scores, k)
    return jnp.take_along_axis(ids, places, axis=1), scores


def _without_excluded(block, columns):
    """The block with -inf at columns, [users, entries]; those beyond the block are dropped."""
    return block.at[jnp.arange(block.shape[0])[:, None], columns].set(-jnp.inf, mode="drop")
