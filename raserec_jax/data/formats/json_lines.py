"""JSON lines: one object per interaction, as Amazon's reviews and reviews in general come."""

import operator
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from raserec_jax.data.columns import Column, column_of_strings
from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.json_objects import objects
from raserec_jax.data.roles import KNOWN_NAMES, find_roles
from raserec_jax.data.sources import PathLike, TextBlock, at_line, shown
from raserec_jax.errors import DataError

_ABSENT = object()


def read_json_lines(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """Objects with a user and an item, named as `roles.KNOWN_NAMES` or by the caller.

    The first object says which of the optional ones there are; every object then has them. Ids are strings or
    integers; numbers may stand in quotes.
    """
    names: dict[str, str] | None = None
    for block in blocks:
        rows, lines = objects(path, block)
        if not rows:
            continue
        if names is None:
            source = (f"line {lines[0]}", "name it so in every object")
            places = find_roles(path, list(rows[0]), columns, source)
            names = {role: list(rows[0])[place] for role, place in places.items()}
        _refuse_late_times(path, names, rows, lines)
        found = {}
        for role, name in names.items():
            found[role] = JsonColumn(path, name, _values(rows, name), lines)
        yield Chunk(**found)
    if names is None:
        raise DataError(f"{path}: no JSON object in it; expected one per line")


class JsonColumn:
    """One value per object; parsed when asked.

    Attributes:
      path, name: for messages.
      values: whatever JSON has.
      lines: [rows].
    """

    def __init__(self, path: PathLike, name: str, values: Sequence, lines: np.ndarray):
        self.path, self.name, self.values, self.lines = path, name, values, lines

    def ids(self) -> np.ndarray:
        """As `Column.ids`; of strings and integers.

        Raises:
          DataError: as there, or anything else.
        """
        integers = self._integers()
        if integers is not None:
            return integers
        return self._column((str, int), "an id, a string or an integer").ids()

    def numbers(self) -> np.ndarray:
        """As `Column.numbers`; of numbers, in quotes or not.

        Raises:
          DataError: as there, or anything else.
        """
        integers = self._integers()
        if integers is not None:
            return integers
        return self._column((str, int, float), "a number").numbers()

    def _integers(self) -> np.ndarray | None:
        """[rows] int64 if all are integers of that size."""
        if set(map(type, self.values)) != {int}:
            return None
        try:
            return np.array(self.values, np.int64)
        except OverflowError:
            return None

    def _column(self, kinds: tuple[type, ...], expected: str) -> Column:
        if not set(map(type, self.values)) <= set(kinds):
            row = next(row for row, value in enumerate(self.values) if type(value) not in kinds)
            value = self.values[row]
            found = "nothing" if value is _ABSENT else shown(str(value))
            raise DataError(
                f"{at_line(self.path, int(self.lines[row]))}, column {self.name!r:.80}: found {found}, "
                f"expected {expected}; repair or drop the line"
            )
        return column_of_strings(self.path, self.name, list(map(str, self.values)), self.lines)


def _values(rows: Sequence[dict], name: str) -> list:
    try:
        return list(map(operator.itemgetter(name), rows))
    except KeyError:
        return [row.get(name, _ABSENT) for row in rows]


def _refuse_late_times(
    path: PathLike, names: Mapping[str, str], rows: Sequence[dict], lines: np.ndarray
) -> None:
    """A time or position that the first object does not have must not be dropped in silence."""
    for role in ("timestamp", "position"):
        for name in KNOWN_NAMES[role] if role not in names else ():
            row = next((row for row, found in enumerate(rows) if name in found), None)
            if row is not None:
                raise DataError(
                    f"{at_line(path, int(lines[row]))}: has {name!r}, which the first object of the file has not; "
                    "give it to all or none"
                )
