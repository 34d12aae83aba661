"""The second pass: every row to the part that holds its user; parts are ranges of user ids, so they are in order."""

import pathlib
from collections.abc import Callable

import numpy as np

from raserec_jax.data.on_disk.gather import PIECE_SIZE, Gathered
from raserec_jax.data.on_disk.labels import as_kind
from raserec_jax.data.on_disk.pieces import add_piece, pieces

PART_ROWS = 2**20
PART_SIZE = 5  # arrays: user codes and labels, item codes, position, timestamp


def part_path(folder: pathlib.Path, part: int) -> pathlib.Path:
    """Where the rows of a part lie."""
    return folder / f"part-{part:05d}"


def divide(
    found: Gathered,
    folder: pathlib.Path,
    *,
    part_rows: int = PART_ROWS,
    rows_done: Callable[[int], object] = lambda rows: None,
) -> int:
    """Deals the pieces out into the files of the parts; item ids become their places among all items.

    Args:
      found: the pieces; their file is removed at the end.
      folder: for the parts.
      part_rows: rows per part, about; a user's are never divided.
      rows_done: called with the number of rows of each piece.

    Returns:
      The number of parts.

    Raises:
      OSError: a file cannot be written.
    """
    kind = np.dtype(np.int64 if found.users_are_integers else f"S{found.user_bytes}")
    bounds = _bounds(found, kind, -(-found.rows // part_rows))
    for user_codes, user_labels, item_codes, item_labels, position, timestamp in pieces(
        found.path, PIECE_SIZE
    ):
        user_codes, user_labels = _sorted(user_codes, as_kind(user_labels, kind))
        items = as_kind(item_labels, found.item_labels.dtype)
        item_ids = np.searchsorted(found.item_labels, items).astype(np.int32)[item_codes]
        position, timestamp = _typed(position, found.position), _typed(timestamp, found.timestamp)
        # Labels are in order, so each part has a stretch of them.
        ends = [*np.searchsorted(user_labels, bounds), len(user_labels)]
        part_of_label = np.repeat(np.arange(len(ends)), np.diff([0, *ends]))
        part_of_row = part_of_label.astype(np.int32)[user_codes]
        by_part = np.argsort(part_of_row, kind="stable")
        row_ends = np.cumsum(np.bincount(part_of_row, minlength=len(ends)))
        first_label = first_row = 0
        for part, (label_end, row_end) in enumerate(zip(ends, row_ends.tolist(), strict=True)):
            rows = by_part[first_row:row_end]
            if rows.size:
                arrays = (
                    user_codes[rows] - np.int32(first_label),
                    user_labels[first_label:label_end],
                    item_ids[rows],
                    None if position is None else position[rows],
                    None if timestamp is None else timestamp[rows],
                )
                add_piece(part_path(folder, part), arrays)
            first_label, first_row = label_end, row_end
        rows_done(len(user_codes))
    found.path.unlink()
    return len(bounds) + 1


def _bounds(found: Gathered, kind: np.dtype, num_parts: int) -> np.ndarray:
    """The first label of each part but the first, increasing."""
    sample = np.sort(np.concatenate([as_kind(labels, kind) for labels in found.user_sample]))
    return np.unique(sample[np.arange(1, num_parts) * len(sample) // num_parts])


def _sorted(codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of labels that are in order; those of another kind were so in theirs."""
    if np.all(labels[1:] > labels[:-1]):
        return codes, labels
    order = np.argsort(labels)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[codes], labels[order]


def _typed(numbers: np.ndarray | None, kind: type | None) -> np.ndarray | None:
    return None if kind is None or numbers is None else numbers.astype(kind)
