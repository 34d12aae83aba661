"""Ranks of targets under scores that are 0 for most items, by the protocol of `ranking.py`; host, NumPy.

Neighbour counts and transitions give each query a few hundred items with a positive score; all other items score 0.
Contributions are summed in float64 and compared in float32, so that equal sums added in another order tie. Ties count
against the model: a target that scores 0 comes last.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Below so many cells per entry a block of all items is cheaper than sorting the entries.
_CELLS_PER_ENTRY = 8


class SparseScores(NamedTuple):
    """Contributions to scores; a pair may occur more than once, its contributions are added.

    Fields:
      query_ids: [entries] int, 0..queries-1.
      item_ids: [entries] int, 1..V.
      scores: [entries] float, >= 0.
    """

    query_ids: np.ndarray
    item_ids: np.ndarray
    scores: np.ndarray


class SeenPairs(NamedTuple):
    """What each query's user has met.

    Fields:
      query_ids: [pairs] int, 0..queries-1, non-decreasing.
      item_ids: [pairs] int, 1..V, distinct within a query; the target may be among them.
    """

    query_ids: np.ndarray
    item_ids: np.ndarray


def rank_sparse_scores(
    layers: Sequence[SparseScores],
    target_ids: Int[np.ndarray, " queries"],
    seen: SeenPairs,
    num_items: int,
) -> list[tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]]:
    """0-based ranks of the targets under layer 0, under layers 0 + 1, and so on.

    Needs memory for the entries and, where these are dense, for a block of [queries, V + 1]: call it with a part of
    the queries at a time.

    Args:
      layers: contributions; each layer comes on top of those before it.
      target_ids: 1..V.
      seen: left out of the filtered rank; the target stays in.
      num_items: V.

    Returns:
      (unfiltered, filtered) int32 ranks per layer.

    Raises:
      ValueError: a negative score, or a target outside 1..V.
    """
    _check_targets(target_ids, num_items)
    for place, layer in enumerate(layers):
        if len(layer.scores) and not layer.scores.min() >= 0.0:
            raise ValueError(
                f"layer {place} has the score {layer.scores.min()}; expected scores >= 0: items "
                "without an entry score 0"
            )
    cells = len(target_ids) * (num_items + 1)
    dense = cells <= _CELLS_PER_ENTRY * sum(len(layer.scores) for layer in layers)
    block = (_DenseBlock if dense else _SortedEntries)(len(target_ids), num_items)
    ranks = []
    for layer in layers:
        block.add(layer)
        ranks.append(_ranks(block, target_ids, seen, num_items))
    return ranks


def rank_shared_scores(
    scores: Float[np.ndarray, " items_and_one"] | Int[np.ndarray, " items_and_one"],
    target_ids: Int[np.ndarray, " queries"],
    seen: SeenPairs,
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]:
    """(unfiltered, filtered) 0-based int32 ranks where all queries score the items alike, as popularity does.

    Args:
      scores: [V + 1], entry 0 is padding and never counts.
      target_ids: 1..V.
      seen: left out of the filtered rank; the target stays in.

    Raises:
      ValueError: a target outside 1..V.
    """
    num_items = len(scores) - 1
    _check_targets(target_ids, num_items)
    target_scores = scores[target_ids]
    ahead = num_items - np.searchsorted(np.sort(scores[1:]), target_scores, side="left") - 1
    return _both(ahead, scores[seen.item_ids], target_scores, target_ids, seen)


def _ranks(block, target_ids, seen: SeenPairs, num_items: int):
    target_scores = block.scores_of(np.arange(len(target_ids)), target_ids)
    ahead = block.count_at_least(target_scores) - 1
    ahead = np.where(target_scores > 0, ahead, num_items - 1)
    seen_scores = block.scores_of(seen.query_ids, seen.item_ids)
    return _both(ahead, seen_scores, target_scores, target_ids, seen)


def _both(ahead, seen_scores, target_scores, target_ids, seen: SeenPairs):
    others = seen.item_ids != target_ids[seen.query_ids]
    above = others & (seen_scores >= target_scores[seen.query_ids])
    seen_ahead = np.bincount(seen.query_ids[above], minlength=len(target_ids))
    return ahead.astype(np.int32), (ahead - seen_ahead).astype(np.int32)


class _DenseBlock:
    """Scores of all items for a few queries."""

    def __init__(self, num_queries: int, num_items: int):
        self._width = num_items + 1
        self._cells = num_queries * self._width
        self._sums: np.ndarray | None = None
        self._rounded = np.zeros((num_queries, self._width), np.float32)

    def add(self, layer: SparseScores) -> None:
        codes = layer.query_ids.astype(np.int64) * self._width + layer.item_ids
        if self._sums is None:
            self._sums = np.bincount(codes, layer.scores, minlength=self._cells)
            self._rounded[:] = self._sums.reshape(self._rounded.shape)
        else:
            np.add.at(self._sums, codes, layer.scores)
            self._rounded.reshape(-1)[codes] = self._sums[codes]

    def scores_of(self, query_ids, item_ids) -> np.ndarray:
        return self._rounded[query_ids, item_ids]

    def count_at_least(self, thresholds) -> np.ndarray:
        """Items, padding left out, by query; for thresholds above 0, which padding never reaches."""
        return np.count_nonzero(self._rounded >= thresholds[:, None], axis=1)


class _SortedEntries:
    """Scores of the items that have one, sorted by query and item."""

    def __init__(self, num_queries: int, num_items: int):
        self._num_queries, self._width = num_queries, num_items + 1
        self._all_codes: list[np.ndarray] = []
        self._all_scores: list[np.ndarray] = []

    def add(self, layer: SparseScores) -> None:
        self._all_codes.append(layer.query_ids.astype(np.int64) * self._width + layer.item_ids)
        self._all_scores.append(layer.scores)
        self._codes, entry_of = np.unique(np.concatenate(self._all_codes), return_inverse=True)
        sums = np.bincount(entry_of, np.concatenate(self._all_scores), minlength=len(self._codes))
        self._scores = sums.astype(np.float32)

    def scores_of(self, query_ids, item_ids) -> np.ndarray:
        if not len(self._codes):
            return np.zeros(len(query_ids), np.float32)
        codes = np.asarray(query_ids, np.int64) * self._width + item_ids
        place = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.where(self._codes[place] == codes, self._scores[place], np.float32(0))

    def count_at_least(self, thresholds) -> np.ndarray:
        query_ids = self._codes // self._width
        above = self._scores >= thresholds[query_ids]
        return np.bincount(query_ids[above], minlength=self._num_queries)


def _check_targets(target_ids, num_items: int) -> None:
    bad = (target_ids < 1) | (target_ids > num_items)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"target {int(target_ids[row])} of row {row} is no item; expected 1..{num_items}: drop users "
            "without a target"
        )
