"""Cutting work into blocks of bounded memory."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int


def blocks(sizes: Int[np.ndarray, " rows"], most: int) -> Iterator[tuple[int, int]]:
    """Stretches (first, last) of rows, last excluded, whose sizes add up to at most `most`, or of a single row."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + most, side="right")), first + 1)
        yield first, last
        first = last
