"""From the query vectors of a split to the two protocols that are always reported together.

`unfiltered`: every item competes with the target, also those the user has met. `filtered`: items of
the user's history are left out, never the target. Histories come as one flat log (offsets and item
ids), on the host; scores and table may live on the device.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from raserec_jax.constants import METRIC_CUTOFFS, PAD_ID
from raserec_jax.evaluation.metrics import metrics_from_ranks
from raserec_jax.evaluation.ranking import ITEM_CHUNK, USER_CHUNK, Scores, rank_targets

_SEEN_WIDTHS = 64  # the narrowest block of seen items; wider ones are 4, 16, ... times as wide


def evaluate_ranks(
    unfiltered: Int[Array | np.ndarray, " users"],
    filtered: Int[Array | np.ndarray, " users"],
    cutoffs: Sequence[int] = METRIC_CUTOFFS,
) -> dict[str, dict[str, float]]:
    """{"unfiltered": {"HR@1": ...}, "filtered": {...}} from the ranks of `rank_targets`.

    Raises:
      ValueError: no ranks, or a negative rank.
    """
    return {
        "unfiltered": metrics_from_ranks(unfiltered, cutoffs),
        "filtered": metrics_from_ranks(filtered, cutoffs),
    }


def rank_histories(
    scores: Scores,
    item_table: Float[Array | np.ndarray, "rows dim"],
    target_ids: Int[Array | np.ndarray, " queries"],
    offsets: Int[np.ndarray, " users_and_one"],
    item_ids: Int[np.ndarray, " interactions"],
    end_positions: Int[np.ndarray, " queries"],
    user_ids: Int[np.ndarray, " queries"] | None = None,
    *,
    user_chunk: int = USER_CHUNK,
    item_chunk: int = ITEM_CHUNK,
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]:
    """Ranks of a split's targets; what precedes a target in its user's sequence counts as seen.

    Queries are ranked in groups of similar history length, so that one user with ten thousand items
    does not widen the table of seen items for all.

    Args:
      scores: row i scores the items for query i; with a repeat_bias, repeat_ids are filled in here.
      item_table: [V + 1, dim], row 0 = padding.
      target_ids: 1..V.
      offsets, item_ids: the log by user, as in `seen_items`.
      end_positions: how many of the user's items lie before the target.
      user_ids: user of each query; None: query i belongs to user i.
      user_chunk, item_chunk: as in `rank_targets`.

    Returns:
      (unfiltered, filtered) 0-based ranks, int32, on the host.

    Raises:
      ValueError: as `rank_targets` and `seen_items`.
    """
    user_ids = np.arange(len(end_positions)) if user_ids is None else user_ids
    unfiltered = np.empty(len(user_ids), np.int32)
    filtered = np.empty(len(user_ids), np.int32)
    widths = _seen_widths(end_positions)
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        seen_ids = seen_items(offsets, item_ids, end_positions[rows], user_ids[rows])
        seen_ids = np.pad(seen_ids, ((0, 0), (0, int(width) - seen_ids.shape[1])))
        part = jax.tree.map(lambda a, rows=rows: a[rows], scores.by_user())
        part = part._replace(mix=scores.mix, repeat_bias=scores.repeat_bias)
        if scores.repeat_bias is not None:
            part = part._replace(repeat_ids=seen_ids)
        unfiltered[rows], filtered[rows] = rank_targets(
            part,
            item_table,
            target_ids[rows],
            seen_ids,
            user_chunk=user_chunk,
            item_chunk=item_chunk,
        )
    return unfiltered, filtered


def seen_items(
    offsets: Int[np.ndarray, " users_and_one"],
    item_ids: Int[np.ndarray, " interactions"],
    end_positions: Int[np.ndarray, " queries"],
    user_ids: Int[np.ndarray, " queries"] | None = None,
) -> Int[np.ndarray, "queries seen"]:
    """Distinct items of each history, ascending, padded with 0 on the right.

    Args:
      offsets: [U + 1]; the items of user u are item_ids[offsets[u] : offsets[u + 1]], in order.
      item_ids: 1..V.
      end_positions: the history of a query is the user's items at places 0 .. end - 1; -1 and 0 are
        no history.
      user_ids: user of each query; None: query i belongs to user i.

    Returns:
      int32, as wide as the largest number of distinct items, at least 1.

    Raises:
      ValueError: a history longer than its user's sequence, or a number of queries that does
        not fit.
    """
    user_ids = np.arange(len(offsets) - 1) if user_ids is None else np.asarray(user_ids)
    if len(user_ids) != len(end_positions):
        raise ValueError(
            f"end_positions has {len(end_positions)} entries for {len(user_ids)} users; expected "
            "one per query: give user_ids for a part of the users"
        )
    ends = np.maximum(end_positions, 0).astype(np.int64)
    starts = np.asarray(offsets, np.int64)[user_ids]
    available = np.asarray(offsets, np.int64)[user_ids + 1] - starts
    too_long = ends > available
    if too_long.any():
        row = int(np.argmax(too_long))
        raise ValueError(
            f"end_positions[{row}]={int(ends[row])} is beyond the sequence of user "
            f"{int(user_ids[row])}; expected at most {int(available[row])}"
        )
    rows = np.repeat(np.arange(len(ends)), ends)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(ends) - ends, ends)
    items = item_ids[np.repeat(starts, ends) + places].astype(np.int64)
    return _distinct_by_row(rows, items, len(ends))


def _distinct_by_row(rows, items, num_rows: int) -> np.ndarray:
    base = int(items.max(initial=0)) + 1
    pairs = np.unique(rows * base + items)  # one sort finds repeats and orders the rest
    rows, items = np.divmod(pairs, base)
    counts = np.bincount(rows, minlength=num_rows)
    seen = np.full((num_rows, max(1, int(counts.max(initial=0)))), PAD_ID, np.int32)
    seen[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = items
    return seen


def _seen_widths(end_positions) -> np.ndarray:
    """The width of each query's group: the next of 64, 256, 1024, ... that holds its history."""
    steps = np.ceil(np.log2(np.maximum(end_positions, 1) / _SEEN_WIDTHS) / 2.0)
    return _SEEN_WIDTHS * 4 ** np.maximum(steps, 0).astype(np.int64)
