"""A part of a log: whole histories of some users, in order; in memory, and in the files of its folder."""

import pathlib
from typing import NamedTuple

import numpy as np

from raserec_jax.data.on_disk.pieces import add_piece, pieces


class Part(NamedTuple):
    """Histories, one after the other.

    labels: [users] original ids, increasing; int64 or UTF-8 bytes.
    lengths: [users] int64 interactions of each, at least 1.
    item_ids: [interactions] int32, places among all items of the source.
    timestamps: [interactions], or None.
    """

    labels: np.ndarray
    lengths: np.ndarray
    item_ids: np.ndarray
    timestamps: np.ndarray | None

    @property
    def user_ids(self) -> np.ndarray:
        """[interactions] int32, counted within the part."""
        return np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)

    def select(self, keep: np.ndarray) -> "Part":
        """The interactions where `keep` is set; users without any are left out."""
        if keep.all():
            return self
        lengths = np.bincount(self.user_ids[keep], minlength=len(self.lengths))
        users = lengths > 0
        times = None if self.timestamps is None else self.timestamps[keep]
        return Part(self.labels[users], lengths[users], self.item_ids[keep], times)


class Parts:
    """The parts of a log in a folder, each replaced when it is saved again.

    Args:
      folder: where they lie.
      count: how many there are.
    """

    def __init__(self, folder: pathlib.Path, count: int):
        self._folder, self.count = folder, count

    def save(self, number: int, part: Part) -> None:
        """Writes a part.

        Raises:
          OSError: it cannot be written.
        """
        histories, beside = self._paths(number)
        for path, arrays in (
            (histories, (part.lengths, part.item_ids)),
            (beside, (part.labels, part.timestamps)),
        ):
            path.unlink(missing_ok=True)
            add_piece(path, arrays)

    def load(self, number: int) -> Part:
        """A part that was saved."""
        lengths, item_ids = self.histories(number)
        ((labels, timestamps),) = pieces(self._paths(number)[1], 2)
        return Part(labels, lengths, item_ids, timestamps)

    def histories(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Lengths and item ids alone, of a part that was saved."""
        ((lengths, item_ids),) = pieces(self._paths(number)[0], 2)
        return lengths, item_ids

    def __iter__(self):
        return map(self.load, range(self.count))

    def _paths(self, number: int) -> tuple[pathlib.Path, pathlib.Path]:
        return self._folder / f"histories-{number:05d}", self._folder / f"beside-{number:05d}"
