"""A sparse table from items to scored items, and the votes that read it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from raserec_jax.evaluation.sparse_ranking import SparseScores


class ItemTable(NamedTuple):
    """Row i holds the items that item i speaks for.

    offsets: [V + 2] int64; row i is the entries offsets[i] : offsets[i + 1], row 0 (padding) is empty.
    item_ids: [entries] int32, 1..V.
    values: [entries] float32, > 0.
    """

    offsets: np.ndarray
    item_ids: np.ndarray
    values: np.ndarray

    def row_sizes(self, item_ids: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Entries of the rows of these items."""
        return self.offsets[item_ids + 1] - self.offsets[item_ids]

    def votes(
        self,
        query_ids: Int[np.ndarray, " votes"],
        item_ids: Int[np.ndarray, " votes"],
        weights: Float[np.ndarray, " votes"],
    ) -> SparseScores:
        """Reads one row per vote for a query: each of its entries scores weight * value."""
        sizes = self.row_sizes(item_ids)
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        places = np.arange(total) + np.repeat(self.offsets[item_ids] - (ends - sizes), sizes)
        return SparseScores(
            np.repeat(query_ids, sizes),
            self.item_ids[places],
            np.repeat(weights, sizes) * self.values[places],
        )


def table_of(row_ids, item_ids, values, num_items: int) -> ItemTable:
    """The table of entries (row, item, value) that come sorted by row."""
    sizes = np.bincount(row_ids, minlength=num_items + 1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return ItemTable(offsets, item_ids.astype(np.int32), values.astype(np.float32))


def count_pairs(codes: Int[np.ndarray, " pairs"], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(distinct codes ascending, how often each occurs) of codes in 0..cells-1; counts or sorts, what is cheaper."""
    if cells <= 8 * len(codes):
        counts = np.bincount(codes, minlength=cells)
        distinct = np.flatnonzero(counts)
        return distinct, counts[distinct]
    return np.unique(codes, return_counts=True)
