"""Histories in another order: what a model loses by it is what it knew from the order."""

import numpy as np
from jaxtyping import Int


def shuffled_segments(
    values: Int[np.ndarray, "rows seq"], segment_ids: Int[np.ndarray, "rows seq"], seed: int
) -> Int[np.ndarray, "rows seq"]:
    """The values of each segment in a random order; what is in no segment stays.

    Args:
      values: of packed rows, such as the places of the tokens.
      segment_ids: which segment of its row a value belongs to, 0 = none; the values of a segment stand side by side,
        and ids of one row rise from left to right.
      seed: equal seeds give equal orders.
    """
    values, segment_ids = np.asarray(values), np.asarray(segment_ids)
    rows, columns = np.nonzero(segment_ids)
    keys = np.random.default_rng(seed).random(len(rows))
    # Sorted by row and segment nothing leaves its segment, as these are in order already.
    order = np.lexsort((keys, segment_ids[rows, columns], rows))
    shuffled = values.copy()
    shuffled[rows, columns] = values[rows[order], columns[order]]
    return shuffled
