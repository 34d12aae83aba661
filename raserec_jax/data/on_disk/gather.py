"""The first pass: a source of any format and size as pieces of numbered columns, and what is true of all of it."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from raserec_jax.data.collecting import IdCollector, NumberCollector
from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.on_disk.labels import LabelSet, all_integers, num_characters
from raserec_jax.data.on_disk.pieces import add_piece

PIECE_ROWS = 2**20
PIECE_SIZE = 6  # arrays: user codes and labels, item codes and labels, position, timestamp
_MOST_SAMPLED = 2**18


@dataclasses.dataclass
class Gathered:
    """What the pieces hold.

    Attributes:
      path: the file of pieces.
      rows: interactions in it.
      item_labels: [items] increasing; int64 or UTF-8 bytes.
      users_are_integers: whether every user id is the usual spelling of one.
      user_width, item_width: characters of the longest id, were all of them text.
      user_bytes: of the longest user id, in UTF-8.
      user_sample: labels of some rows, evenly over the source; int64 or UTF-8 bytes.
      position, timestamp: the type of the column, or None where there is none.
    """

    path: pathlib.Path
    rows: int = 0
    item_labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    users_are_integers: bool = True
    user_width: int = 1
    item_width: int = 1
    user_bytes: int = 20
    user_sample: list[np.ndarray] = dataclasses.field(default_factory=list)
    position: type | None = None
    timestamp: type | None = None


def gather(
    chunks: Iterable[tuple[Chunk, np.ndarray | slice]],
    path: pathlib.Path,
    *,
    piece_rows: int = PIECE_ROWS,
    rows_done: Callable[[int], object] = lambda rows: None,
) -> Gathered:
    """Writes the rows of a source to a file of pieces.

    Args:
      chunks: of the source, each with the rows of it that are wanted.
      path: the file to be made.
      piece_rows: rows per piece, about.
      rows_done: called with the number of rows of each piece.

    Raises:
      DataError: what is wrong with the source.
      OSError: the file cannot be written.
    """
    found, items, sample = Gathered(path), LabelSet(), _Sample()
    piece = _Piece()
    for chunk, rows in chunks:
        piece.add(chunk, rows)
        if piece.rows >= piece_rows:
            _keep(piece, found, items, sample)
            rows_done(piece.rows)
            piece = _Piece()
    if piece.rows:
        _keep(piece, found, items, sample)
        rows_done(piece.rows)
    if found.rows:
        found.item_labels = items.finish()
        found.item_width = num_characters(found.item_labels)
        found.user_sample = sample.labels
    return found


class _Piece:
    """Rows that are collected before they are written."""

    def __init__(self):
        self.rows = 0
        self.users, self.items = IdCollector("user"), IdCollector("item")
        self.numbers: dict[str, NumberCollector] = {}

    def add(self, chunk: Chunk, rows: np.ndarray | slice) -> None:
        user_ids = chunk.user_id.ids()[rows]
        self.users.add(user_ids)
        self.items.add(chunk.item_id.ids()[rows])
        self.rows += len(user_ids)
        for role in ("position", "timestamp"):
            column = getattr(chunk, role)
            if column is not None:
                collector = self.numbers.setdefault(role, NumberCollector())
                collector.add(column.numbers()[rows])


def _keep(piece: _Piece, found: Gathered, items: LabelSet, sample: "_Sample") -> None:
    user_codes, user_labels = piece.users.grouped()
    item_codes, item_labels = piece.items.grouped()
    numbers = {role: collector.finish() for role, collector in piece.numbers.items()}
    columns = (user_codes, user_labels, item_codes, item_labels)
    add_piece(found.path, (*columns, numbers.get("position"), numbers.get("timestamp")))
    found.rows += piece.rows
    items.add(item_labels)
    sample.add(user_codes, user_labels)
    found.user_width = max(found.user_width, num_characters(user_labels))
    if user_labels.dtype.kind == "S":
        found.user_bytes = max(found.user_bytes, user_labels.dtype.itemsize)
        found.users_are_integers = found.users_are_integers and all_integers(user_labels)
    for role, column in numbers.items():
        if getattr(found, role) is not np.float64:
            setattr(found, role, column.dtype.type)


class _Sample:
    """Every so many-th row's user; the steps double when there are too many."""

    def __init__(self):
        self.labels: list[np.ndarray] = []
        self._step, self._next = 1, 0

    def add(self, codes: np.ndarray, labels: np.ndarray) -> None:
        rows = np.arange(self._next, len(codes), self._step)
        self._next = (rows[-1] + self._step if rows.size else self._next) - len(codes)
        self.labels.append(labels[codes[rows]])
        while sum(map(len, self.labels)) > _MOST_SAMPLED:
            self.labels = [kept[::2] for kept in self.labels]
            self._step *= 2
