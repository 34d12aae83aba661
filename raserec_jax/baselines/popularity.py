"""Popularity, of all counted interactions and of the newest before each query."""

import numpy as np
from jaxtyping import Int

from raserec_jax.baselines.queries import Counted, Queries, item_counts, seen_pairs
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.evaluation.sparse_ranking import SeenPairs, rank_shared_scores

RECENT_SHARE = 0.05
"""Of the counted interactions, those that recent popularity looks back on."""

_STEPS_PER_WINDOW = 100  # queries share a window that moves in such steps

Ranks = tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]


def popularity_ranks(log: InteractionLog, counted: Counted, queries: Queries) -> Ranks:
    """(unfiltered, filtered) ranks where an item scores how often it was taken."""
    scores = item_counts(counted.item_ids, counted.num_items)
    return rank_shared_scores(scores, queries.target_ids, seen_pairs(log, queries))


def recent_popularity_ranks(
    log: InteractionLog, counted: Counted, queries: Queries, *, share: float = RECENT_SHARE
) -> Ranks:
    """(unfiltered, filtered) ranks where an item scores how often it was taken lately, whatever the unit of time.

    Lately: among the newest `share` of all counted interactions that are strictly before the target's time. The window
    moves in steps of a hundredth of its length, never past that time.

    Args:
      counted, queries: with times.
      share: in (0, 1].
    """
    by_time = np.argsort(counted.times, kind="stable")
    items, times = counted.item_ids[by_time], counted.times[by_time]
    window = max(1, round(share * len(items)))
    step = max(1, window // _STEPS_PER_WINDOW)
    ends = np.searchsorted(times, queries.times, side="left") // step * step
    by_end = np.argsort(ends, kind="stable")
    queries = queries.take(by_end)
    seen = seen_pairs(log, queries)
    found = np.empty((2, len(by_end)), np.int32)
    distinct, firsts = np.unique(ends[by_end], return_index=True)
    lasts = np.append(firsts, len(by_end))[1:]
    for end, first, last in zip(distinct, firsts, lasts, strict=True):
        scores = item_counts(items[max(end - window, 0) : end], counted.num_items)
        pairs = slice(*np.searchsorted(seen.query_ids, (first, last)))
        part = SeenPairs(seen.query_ids[pairs] - first, seen.item_ids[pairs])
        ranks = rank_shared_scores(scores, queries.target_ids[first:last], part)
        found[:, by_end[first:last]] = ranks
    return found[0], found[1]
