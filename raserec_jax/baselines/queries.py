"""The queries of a part of a split and the interactions that may be counted for them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import Split
from raserec_jax.evaluation.sparse_ranking import SeenPairs


class Queries(NamedTuple):
    """One row per user with a target in the part; int32 [queries] each.

    user_ids, target_ids: whose query it is, and what the user took.
    end_positions: the history is the user's items at places 0..end-1.
    times: rank of the target's time among the log's, or None for a log without times.
    """

    user_ids: np.ndarray
    target_ids: np.ndarray
    end_positions: np.ndarray
    times: np.ndarray | None

    def take(self, rows) -> "Queries":
        """The queries at `rows`, an index array or a slice."""
        return Queries(*(None if field is None else field[rows] for field in self))


class HistoryItems(NamedTuple):
    """The items of several histories, one after the other, oldest first; [items] each.

    query_ids: 0..queries-1, non-decreasing.
    item_ids: 1..V.
    ages: 0 = the last item before the target, 1 = the one before it, and so on.
    """

    query_ids: np.ndarray
    item_ids: np.ndarray
    ages: np.ndarray


class Counted(NamedTuple):
    """The interactions that statistics are made of, by user and then in order; [interactions] each.

    user_ids, item_ids: as in the log.
    follows: whether the row before is the same user's, the item taken just before.
    times: rank of the interaction's time, or None.
    num_items: V.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    follows: np.ndarray
    times: np.ndarray | None
    num_items: int


def part_queries(split: Split, part: str) -> Queries:
    """Queries of `part`, "valid" or "test", by user: the same, in the same order, as those the models answer."""
    log = split.log
    positions = {"valid": split.valid_position, "test": split.test_position}[part]
    users = np.flatnonzero(positions > 0).astype(np.int32)
    ends = positions[users].astype(np.int32)
    places = log.offsets[users] + ends
    times = None if log.time_ranks is None else log.time_ranks[places]
    return Queries(users, log.item_ids[places], ends, times)


def counted_interactions(split: Split, *, with_valid: bool = False) -> Counted:
    """The training part of the split; with_valid: what lies between it and the test too, as in the test's memory."""
    log = split.log
    ends = split.memory_end if with_valid else split.train_end
    places = np.arange(log.num_interactions) - log.offsets[log.user_ids]
    kept = places < ends[log.user_ids]
    return Counted(
        log.user_ids[kept],
        log.item_ids[kept],
        places[kept] > 0,  # what is kept of a user is a beginning without gaps
        None if log.time_ranks is None else log.time_ranks[kept],
        log.num_items,
    )


def history_items(log: InteractionLog, queries: Queries, newest: int | None = None) -> HistoryItems:
    """The histories of the queries, or the `newest` so many items of each."""
    ends = queries.end_positions.astype(np.int64)
    counts = ends if newest is None else np.minimum(ends, newest)
    query_ids = np.repeat(np.arange(len(ends)), counts)
    ages = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(query_ids))
    last = log.offsets[queries.user_ids] + ends - 1
    return HistoryItems(query_ids, log.item_ids[last[query_ids] - ages], ages)


def seen_pairs(log: InteractionLog, queries: Queries) -> SeenPairs:
    """The distinct items of each query's history."""
    history = history_items(log, queries)
    width = log.num_items + 1
    query_ids, item_ids = np.divmod(np.unique(history.query_ids * width + history.item_ids), width)
    return SeenPairs(query_ids, item_ids)


def item_counts(item_ids: Int[np.ndarray, " interactions"], num_items: int) -> np.ndarray:
    """[V + 1] int64: how often each item occurs; entry 0, padding, is 0."""
    return np.bincount(item_ids, minlength=num_items + 1)
