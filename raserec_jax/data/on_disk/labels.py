"""Distinct ids that arrive in pieces: integers until one is none, then text; what order they have in the end."""

import numpy as np

from raserec_jax.data.labels import canonical_integers, decoded
from raserec_jax.data.sorting import distinct

_PENDING = 2**18  # labels, before they are merged
_BLOCK = 2**16


def as_kind(labels: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Labels [n], int64 or UTF-8 bytes, as int64 or as bytes of that width, which holds them."""
    if kind.kind == "i" or labels.dtype.kind == "S":
        return labels.astype(kind)
    return labels.astype("S20").astype(kind)  # an integer has one spelling here


class LabelSet:
    """The distinct ids of a column whose pieces are added one by one."""

    def __init__(self):
        self._pieces: list[np.ndarray] = []

    def add(self, labels: np.ndarray) -> None:
        """Takes labels [n], int64 or UTF-8 bytes."""
        self._pieces.append(labels)
        if len(self._pieces) > 1 and sum(map(len, self._pieces[1:])) > max(
            _PENDING, len(self._pieces[0])
        ):
            self._pieces = [self._merged()]

    def finish(self) -> np.ndarray:
        """[n] increasing: int64 if every id is the usual spelling of an integer, else UTF-8 bytes."""
        labels = self._merged()
        self._pieces = []
        if labels.dtype.kind == "S" and all_integers(labels):
            labels = np.sort(labels.astype(np.int64))
        return labels

    def _merged(self) -> np.ndarray:
        return distinct(np.concatenate(_of_one_kind(self._pieces)))[0]


def _of_one_kind(found: list[np.ndarray]) -> list[np.ndarray]:
    if all(labels.dtype.kind == "i" for labels in found):
        return found
    width = max(20 if labels.dtype.kind == "i" else labels.dtype.itemsize for labels in found)
    return [as_kind(labels, np.dtype(f"S{width}")) for labels in found]


def all_integers(labels: np.ndarray) -> bool:
    """Whether labels [n] of UTF-8 bytes are all usual spellings of integers."""
    blocks = (labels[start : start + _BLOCK] for start in range(0, len(labels), _BLOCK))
    return all(canonical_integers(decoded(block, "")) is not None for block in blocks)


def num_characters(labels: np.ndarray) -> int:
    """Of the longest of labels [n], int64 or UTF-8 bytes."""
    if labels.dtype.kind == "i":
        return max(len(str(labels.min())), len(str(labels.max())))
    content = np.ascontiguousarray(labels).view(np.uint8).reshape(len(labels), -1)
    begins = (content != 0) & ((content & 0xC0) != 0x80)  # of a character in UTF-8
    return int(begins.sum(axis=1).max())
