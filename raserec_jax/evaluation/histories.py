"""What a query's user has met: the items of each history, in groups of histories of like length."""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Int

from raserec_jax.constants import PAD_ID
from raserec_jax.evaluation.item_scores import Scores

_NARROWEST = 64  # items of the narrowest group; wider ones are 4, 16, ... times as wide


def by_history_width(
    scores: Scores,
    offsets: Int[np.ndarray, " users_and_one"],
    item_ids: Int[np.ndarray, " interactions"],
    end_positions: Int[np.ndarray, " queries"],
    user_ids: Int[np.ndarray, " queries"],
) -> Iterator[tuple[np.ndarray, Scores, np.ndarray]]:
    """Queries in groups of like history length, so that one user with ten thousand items widens no table for all.

    Args:
      scores: row i scores the items for query i.
      offsets, item_ids, end_positions, user_ids: as in `seen_items`.

    Yields:
      (rows: the queries of a group, their scores, with repeat_ids filled in if there is a repeat_bias, the distinct
      items of each of their histories, padded with 0 to the width of the group).

    Raises:
      ValueError: as `seen_items`.
    """
    steps = np.ceil(np.log2(np.maximum(end_positions, 1) / _NARROWEST) / 2.0)
    widths = _NARROWEST * 4 ** np.maximum(steps, 0).astype(np.int64)
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        seen_ids = seen_items(offsets, item_ids, end_positions[rows], user_ids[rows])
        seen_ids = np.pad(seen_ids, ((0, 0), (0, int(width) - seen_ids.shape[1])))
        part = jax.tree.map(lambda a, rows=rows: a[rows], scores.by_user())
        part = part._replace(mix=scores.mix, repeat_bias=scores.repeat_bias)
        if scores.repeat_bias is not None:
            part = part._replace(repeat_ids=seen_ids)
        yield rows, part, seen_ids


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
    # One sort finds repeats and orders the rest; np.unique takes 50 times as long, through a hash table.
    pairs = np.sort(rows * base + items)
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
    rows, items = np.divmod(pairs, base)
    counts = np.bincount(rows, minlength=num_rows)
    seen = np.full((num_rows, max(1, int(counts.max(initial=0)))), PAD_ID, np.int32)
    seen[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = items
    return seen
