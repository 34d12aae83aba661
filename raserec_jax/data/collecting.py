"""Columns that arrive in pieces: ids numbered and numbers joined, as if each had come whole."""

import numpy as np

from raserec_jax.data.checks import as_numbers
from raserec_jax.data.labels import finished
from raserec_jax.data.sorting import distinct, group_text

_PENDING_BYTES = 2**27  # of labels, before they are merged


class IdCollector:
    """Numbers the ids of a column piece by piece; what it keeps per row is one integer.

    Args:
      what: "user" or "item", for messages.
    """

    def __init__(self, what: str):
        self._what = what
        self._integers: list[np.ndarray] = []
        self._codes: list[np.ndarray] = []  # of pieces with text, each about its entry of _labels
        self._labels: list[np.ndarray] = []
        self._merge_at = _PENDING_BYTES

    def add(self, ids: np.ndarray) -> None:
        """Takes the next rows, [n] int64 or UTF-8 bytes (`S`)."""
        if ids.dtype.kind == "i" and not self._labels:
            self._integers.append(_narrowed(ids))
        elif ids.size:
            self._add_text(ids)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes [N] int32 and labels [n], as `labels.densify` of all rows; the collector is empty then.

        Raises:
          DataError: as `densify`.
        """
        return finished(*self.grouped(), self._what)

    def grouped(self) -> tuple[np.ndarray, np.ndarray]:
        """As `finish`, with labels as they came: int64 or UTF-8 bytes, increasing."""
        if not self._labels:
            whole = _joined(self._integers) if self._integers else np.zeros(0, np.int64)
            return distinct(whole)[::-1]
        self._merge()
        return self._codes.pop(), self._labels.pop()

    def _add_text(self, ids: np.ndarray) -> None:
        integers, self._integers = self._integers, []
        for piece in (*integers, ids):
            if piece.dtype.kind == "i":
                labels, codes = distinct(piece)
                labels = labels.astype("S20")  # such ids have one spelling, so they compare as text
            else:
                labels, codes = group_text(piece)
            self._codes.append(codes)
            self._labels.append(labels)
        if sum(labels.nbytes for labels in self._labels) > self._merge_at:
            self._merge()
            self._merge_at = max(_PENDING_BYTES, 3 * self._labels[0].nbytes)

    def _merge(self) -> None:
        """Makes one piece of all; also puts the labels in order if there is only one piece."""
        sizes = [labels.size for labels in self._labels]
        labels, places = distinct(np.concatenate(self._labels))
        self._labels = []
        codes = np.empty(sum(map(len, self._codes)), np.int32)
        row, first = 0, 0
        for size in sizes:
            piece = self._codes.pop(0)
            codes[row : row + len(piece)] = places[first : first + size][piece]
            row, first = row + len(piece), first + size
        self._codes, self._labels = [codes], [labels]


class NumberCollector:
    """Joins the numbers of a column."""

    def __init__(self):
        self._pieces: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> None:
        """Takes the next rows, [n] int64 or finite float64."""
        if numbers.size:
            # Rows that made the column one of fractions may have been left out.
            self._pieces.append(as_numbers(numbers, "column"))

    def finish(self) -> np.ndarray:
        """[N] int64, or float64 if a number is not whole; the collector is empty then."""
        return _joined(self._pieces)


def _narrowed(ids: np.ndarray) -> np.ndarray:
    """The ids as int32 if they fit."""
    fits = ids.size and -(2**31) <= ids.min() and ids.max() < 2**31
    return ids.astype(np.int32) if fits else ids


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """All pieces, which are released one by one."""
    kind = np.float64 if any(piece.dtype.kind == "f" for piece in pieces) else np.int64
    whole = np.empty(sum(map(len, pieces)), kind)
    row = 0
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        whole[row : row + len(piece)] = piece
        row += len(piece)
    return whole
