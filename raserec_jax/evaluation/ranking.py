"""The rank of each user's target among all items, counted in chunks.

A rank is the number of items that score at least as high as the target, so one comparison per user
and item decides it: nothing is sorted, and no [users, items] matrix exists, only blocks of
[user_chunk, item_chunk]. Ties count against the model. For that an exact tie must come out exact in
floating point: the target's score is read from the same chunked matmul that scores the other items,
in a first pass; the second pass counts.

`top_items.py` uses the same scoring for recommending.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from raserec_jax.constants import PAD_ID

USER_CHUNK = 512
ITEM_CHUNK = 16_384  # a catalogue that fits into one chunk needs its matmul only once
_ITEM_MULTIPLE = 128  # whole multiples, so that every column goes through the same inner kernel
_USER_MULTIPLE = 8


class Scores(NamedTuple):
    """How each user scores every item, without the scores themselves.

    Without `mix`: score of item i = query . item_table[i].
    With `repeat_bias`: that much more for the items in repeat_ids.
    With `mix`: (1 - mix) * softmax over items 1..V (that score)_i + mix * (sum of
    sparse_mass where sparse_ids == i). In float32, so items whose probability underflows tie.

    Fields:
      query: [users, dim] float.
      sparse_ids: [users, entries] int, item ids; 0 and -1 are no entry; ids may repeat in a row.
      sparse_mass: [users, entries] float, >= 0.
      mix: weight of the sparse part in [0, 1]; a traced value is fine, so that a grid compiles
        once.
      repeat_ids: [users, entries] int, items of the history, distinct in a row; 0 and -1 are no entry.
      repeat_bias: scalar; None = no bias.
    """

    query: Array | np.ndarray
    sparse_ids: Array | np.ndarray | None = None
    sparse_mass: Array | np.ndarray | None = None
    mix: float | Array | np.ndarray | None = None
    repeat_ids: Array | np.ndarray | None = None
    repeat_bias: float | Array | np.ndarray | None = None

    def by_user(self) -> "Scores":
        """Without the scalars: every field left has a row per user."""
        return self._replace(mix=None, repeat_bias=None)


def rank_targets(
    scores: Scores,
    item_table: Float[Array | np.ndarray, "rows dim"],
    target_ids: Int[Array | np.ndarray, " users"],
    seen_ids: Int[Array | np.ndarray, "users seen"] | None = None,
    *,
    user_chunk: int = USER_CHUNK,
    item_chunk: int = ITEM_CHUNK,
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
      user_chunk, item_chunk: size of a block of scores, which is all the memory this needs.

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
    return _rank(scores, item_table, target_ids, seen_ids, user_chunk, item_chunk)


@functools.partial(jax.jit, static_argnames=("user_chunk", "item_chunk"))
def _rank(scores, item_table, target_ids, seen_ids, user_chunk, item_chunk):
    table = chunk_items(item_table, item_chunk)

    def rank_chunk(rows):
        return _count(*rows, table, item_table.shape[0] - 1)

    return map_users(rank_chunk, scores, (target_ids, seen_ids), user_chunk)


def _count(scores, extra, table, num_items):
    """Ranks of one chunk of users."""
    target_ids, seen_ids = extra
    num_chunks, width = table.shape[:2]
    block_of = block_scorer(scores, table, num_items)
    others = (seen_ids != PAD_ID) & (seen_ids != target_ids[:, None])

    def read_target(target_score, chunk):
        picked, inside = _pick(block_of(chunk), target_ids[:, None], chunk * width)
        return jnp.where(inside[:, 0], picked[:, 0], target_score), None

    def count_above(counts, chunk):
        ahead, seen_ahead = counts
        block = block_of(chunk)
        # Not (a < b) instead of a >= b: a NaN on either side then counts against the model.
        above = is_item(chunk, width, num_items)[None, :] & ~(block < target_score[:, None])
        ahead += jnp.sum(above, axis=1, dtype=jnp.int32)
        picked, inside = _pick(block, seen_ids, chunk * width)
        above = others & inside & ~(picked < target_score[:, None])
        return (ahead, seen_ahead + jnp.sum(above, axis=1, dtype=jnp.int32)), None

    chunks = jnp.arange(num_chunks)
    zeros = jnp.zeros(target_ids.shape, jnp.int32)
    target_score, _ = lax.scan(read_target, jnp.zeros(target_ids.shape, jnp.float32), chunks)
    (ahead, seen_ahead), _ = lax.scan(count_above, (zeros, zeros), chunks)
    ahead -= 1  # the target is never below itself
    return ahead, ahead - seen_ahead


def _pick(block, item_ids, first_id):
    """Scores of the listed items as far as they lie in this block, and which do."""
    column = item_ids - first_id
    inside = (column >= 0) & (column < block.shape[1])
    return jnp.take_along_axis(block, jnp.where(inside, column, 0), axis=1), inside


def block_scorer(scores: Scores, table: Array, num_items: int) -> Callable[[Array], Array]:
    """chunk -> its [users, width] float32 scores; columns that are no item hold anything.

    Equal calls give equal bits: the barriers keep the compiler from fusing the matmul (or the
    softmax) with what follows, which may be one thing in the first pass and another in the second.
    """
    query = jnp.asarray(scores.query, jnp.float32)

    def logits_of(chunk):
        # HIGHEST: accelerators would round float32 inputs to bfloat16 or TF32 and make ties.
        logits = jnp.einsum("ud,id->ui", query, table[chunk], precision=lax.Precision.HIGHEST)
        if scores.repeat_bias is not None:
            logits = _add_at(logits, scores.repeat_ids, chunk, scores.repeat_bias)
        return lax.optimization_barrier(logits)

    if scores.mix is None:
        return logits_of
    mix = jnp.asarray(scores.mix, jnp.float32)
    log_norm = _log_norm(logits_of, query.shape[0], table.shape, num_items)

    def mixed_of(chunk):
        block = (1.0 - mix) * jnp.exp(logits_of(chunk) - log_norm[:, None])
        block = _add_at(block, scores.sparse_ids, chunk, mix * scores.sparse_mass)
        return lax.optimization_barrier(block)

    return mixed_of


def _add_at(block, item_ids, chunk, values):
    """The block with values added at the listed items, as far as they lie in it."""
    users, width = block.shape
    column = item_ids - chunk * width
    # No entry, or in another chunk: out of range and dropped; a negative index would wrap.
    column = jnp.where((item_ids > PAD_ID) & (column >= 0), column, width)
    return block.at[jnp.arange(users)[:, None], column].add(values, mode="drop")


def _log_norm(logits_of, num_users, table_shape, num_items):
    """log sum exp of the logits over items 1..V, chunk by chunk with a running maximum."""
    num_chunks, width = table_shape[:2]

    def step(carry, chunk):
        high, total = carry
        block = jnp.where(is_item(chunk, width, num_items)[None, :], logits_of(chunk), -jnp.inf)
        new_high = jnp.maximum(high, jnp.max(block, axis=1))
        total = total * jnp.exp(high - new_high)
        return (new_high, total + jnp.sum(jnp.exp(block - new_high[:, None]), axis=1)), None

    # A finite start: -inf minus -inf would be NaN in a chunk that holds no item.
    start = (jnp.full(num_users, jnp.finfo(jnp.float32).min), jnp.zeros(num_users))
    (high, total), _ = lax.scan(step, start, jnp.arange(num_chunks))
    return high + jnp.log(total)


def chunk_items(
    item_table: Float[Array | np.ndarray, "rows dim"], item_chunk: int
) -> Float[Array, "chunks width dim"]:
    """The table in float32, padded with zero rows and cut into chunks of equal width."""
    table = jnp.asarray(item_table, jnp.float32)
    width = _round_up(min(item_chunk, table.shape[0]), _ITEM_MULTIPLE)
    return _pad_rows(table, width).reshape(-1, width, table.shape[1])


def is_item(chunk: Array, width: int, num_items: int) -> Array:
    """[width] bool: which columns of a chunk are items 1..V: not row 0, nor what fills the last."""
    item_ids = chunk * width + jnp.arange(width)
    return (item_ids != PAD_ID) & (item_ids <= num_items)


def map_users(fn, scores: Scores, extra, user_chunk: int):
    """fn((Scores, extra) of a chunk) -> arrays by user; chunk after chunk, results joined."""
    num_users = scores.query.shape[0]
    chunk = min(user_chunk, _round_up(num_users, _USER_MULTIPLE))

    def cut(array):
        array = jnp.asarray(array)
        return _pad_rows(array, chunk).reshape(-1, chunk, *array.shape[1:])

    scalars = {"mix": scores.mix, "repeat_bias": scores.repeat_bias}
    rows = jax.tree.map(cut, (scores.by_user(), extra))
    results = lax.map(lambda row: fn((row[0]._replace(**scalars), row[1])), rows)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num_users], results)


def check_scores(scores: Scores, item_table: Array | np.ndarray) -> None:
    """Raises ValueError where the parts of `scores` do not fit one another or the table."""
    users, dim = scores.query.shape
    if item_table.shape[1] != dim or item_table.shape[0] < 2:
        raise ValueError(
            f"item_table has shape {item_table.shape} and the queries have width {dim}; expected "
            f"(items + 1, {dim}) with at least one item"
        )
    if (scores.repeat_bias is None) != (scores.repeat_ids is None):
        raise ValueError("repeat_ids and repeat_bias belong together; give both or neither")
    if scores.repeat_ids is not None and scores.repeat_ids.shape[:-1] != (users,):
        raise ValueError(
            f"repeat_ids has shape {scores.repeat_ids.shape}; expected ({users}, entries)"
        )
    shapes = [getattr(part, "shape", None) for part in (scores.sparse_ids, scores.sparse_mass)]
    if scores.mix is None:
        if shapes != [None, None]:
            raise ValueError("sparse_ids or sparse_mass without mix would be ignored; give mix too")
    elif shapes[0] != shapes[1] or shapes[0] is None or shapes[0][:-1] != (users,):
        raise ValueError(
            f"mix needs sparse_ids and sparse_mass of one shape ({users}, entries); got "
            f"{shapes[0]} and {shapes[1]}"
        )


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


def _pad_rows(array, multiple: int):
    short = -array.shape[0] % multiple
    return jnp.pad(array, [(0, short)] + [(0, 0)] * (array.ndim - 1))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
