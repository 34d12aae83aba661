"""Groups of arrays one after the other in a file, to be read back in order; nothing of it is pickled."""

import pathlib
from collections.abc import Iterator

import numpy as np


def add_piece(path: pathlib.Path, arrays: tuple[np.ndarray | None, ...]) -> None:
    """Appends a group of flat arrays of numbers or bytes to the file; None is kept as such.

    Raises:
      OSError: it cannot be written.
    """
    with open(path, "ab") as file:
        for array in arrays:
            kept = np.zeros((), bool) if array is None else array
            np.lib.format.write_array(file, kept, allow_pickle=False)


def pieces(path: pathlib.Path, size: int) -> Iterator[tuple[np.ndarray | None, ...]]:
    """The groups, of `size` arrays each, in the order in which they were added; none if there is no such file."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        while file.peek(1):
            yield tuple(_read(file) for _ in range(size))


def _read(file) -> np.ndarray | None:
    array = np.lib.format.read_array(file, allow_pickle=False)
    return array if array.ndim else None
