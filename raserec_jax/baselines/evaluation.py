"""Ranks and metrics of all baselines on a part of a split, by the protocol of the models.

    popularity         how often an item was taken
    recent_popularity  how often lately, before the target's time; absent for logs without times
    item_knn           sum over the history of DECAY ** age * cosine similarity; age 0 = the last item
    markov             share of what followed the last item
    markov_knn         item_knn + MIX * markov

Statistics come from the training part of the split only, also for the test; what a query adds is its history, which
for the test holds the validation item, as for the models. `with_valid` counts the validation targets too, as the memory
bank "train+valid" does. Nothing is fitted: the constants below were not chosen on the test.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from raserec_jax.baselines.blocks import blocks
from raserec_jax.baselines.item_table import ItemTable
from raserec_jax.baselines.neighbors import cosine_neighbors
from raserec_jax.baselines.popularity import popularity_ranks, recent_popularity_ranks
from raserec_jax.baselines.queries import (
    Counted,
    Queries,
    counted_interactions,
    history_items,
    part_queries,
    seen_pairs,
)
from raserec_jax.baselines.transitions import transition_shares
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import Split
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.sparse_ranking import rank_sparse_scores

BASELINES = ("popularity", "recent_popularity", "item_knn", "markov", "markov_knn")

DECAY = 0.8
"""Weight of a history's item relative to the one after it."""

MIX = 0.3
"""Weight of the transition share on top of the neighbours' scores."""

NEWEST_ITEMS = 40
"""Items of a history that have neighbours counted: DECAY ** 40 is 1e-4."""

_ENTRIES_PER_BLOCK = 1_000_000

Ranks = tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]


class Statistics(NamedTuple):
    """What the baselines count, once for several parts.

    counted: the interactions.  neighbors, shares: of items, made of them.
    """

    counted: Counted
    neighbors: ItemTable
    shares: ItemTable


def baseline_metrics(split: Split) -> tuple[dict[str, dict], dict[str, Ranks]]:
    """All baselines on validation and test.

    Returns:
      {"item_knn": {"valid", "test", "test_with_valid"}, ...}, each with both protocols, and the ranks behind "test".
      Parts without a target are left out.
    """
    train = count_statistics(split)
    ranks = {"valid": baseline_ranks(split, "valid", train)}
    ranks["test"] = baseline_ranks(split, "test", train)
    with_valid = count_statistics(split, with_valid=True)
    ranks["test_with_valid"] = baseline_ranks(split, "test", with_valid)
    found = {
        name: {
            part: evaluate_ranks(*ranks[part][name]) for part in ranks if len(ranks[part][name][0])
        }
        for name in ranks["test"]
    }
    return found, ranks["test"]


def count_statistics(split: Split, *, with_valid: bool = False) -> Statistics:
    """Counts the training part of the split; with_valid: the validation targets too, for a test."""
    counted = counted_interactions(split, with_valid=with_valid)
    return Statistics(counted, cosine_neighbors(counted), transition_shares(counted))


def baseline_ranks(split: Split, part: str, statistics: Statistics) -> dict[str, Ranks]:
    """(unfiltered, filtered) 0-based int32 ranks of the targets by baseline, of BASELINES.

    Args:
      split: of a log; where it has no times, recent popularity is left out.
      part: "valid" or "test"; one query per user with a target there, by user.
      statistics: of `count_statistics`; with the validation targets for the test only.
    """
    log, (counted, neighbors, shares) = split.log, statistics
    queries = part_queries(split, part)
    ranks = {"popularity": popularity_ranks(log, counted, queries)}
    if counted.times is not None:
        ranks["recent_popularity"] = recent_popularity_ranks(log, counted, queries)
    knn, mixed = knn_ranks(log, queries, neighbors, shares)
    return ranks | {
        "item_knn": knn,
        "markov": markov_ranks(log, queries, shares),
        "markov_knn": mixed,
    }


def knn_ranks(
    log: InteractionLog,
    queries: Queries,
    neighbors: ItemTable,
    shares: ItemTable,
    *,
    decay: float = DECAY,
    mix: float = MIX,
    newest: int | None = NEWEST_ITEMS,
) -> list[Ranks]:
    """Ranks under the neighbours' scores, and under these plus `mix` times the transition share.

    Args:
      decay: in (0, 1]; 1 weighs all items of a history alike.
      mix: >= 0.
      newest: items of a history that are looked at; None = all.
    """
    return _in_blocks(log, queries, [(neighbors, decay, 1.0, newest), (shares, 1.0, mix, 1)])


def markov_ranks(log: InteractionLog, queries: Queries, shares: ItemTable) -> Ranks:
    """Ranks where an item scores its share of what followed the last item of the history."""
    return _in_blocks(log, queries, [(shares, 1.0, 1.0, 1)])[0]


def _in_blocks(log: InteractionLog, queries: Queries, readings) -> list[Ranks]:
    """Ranks per layer; a reading is (table, decay, weight, newest items)."""
    layers = [
        (table, decay, weight, history_items(log, queries, newest))
        for table, decay, weight, newest in readings
    ]
    entries = queries.end_positions.astype(np.int64)  # what has been seen takes memory too
    for table, _, _, history in layers:
        np.add.at(entries, history.query_ids, table.row_sizes(history.item_ids))
    found = np.empty((len(layers), 2, len(entries)), np.int32)
    for first, last in blocks(entries, _ENTRIES_PER_BLOCK):
        rows = slice(first, last)
        part = queries.take(rows)
        votes = []
        for table, decay, weight, history in layers:
            items = slice(*np.searchsorted(history.query_ids, (first, last)))
            weights = weight * decay ** history.ages[items]
            votes.append(
                table.votes(history.query_ids[items] - first, history.item_ids[items], weights)
            )
        seen = seen_pairs(log, part)
        found[:, :, rows] = rank_sparse_scores(votes, part.target_ids, seen, log.num_items)
    return [(unfiltered, filtered) for unfiltered, filtered in found]
