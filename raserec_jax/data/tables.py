"""A text table with a header line, split into columns without a Python string per field.

The places of all separators are found at once with NumPy, and each column that is asked for is read
from there. Only tables with quotes (CSV) go through the csv module.
"""

import csv
import dataclasses
import difflib
import io
import re
from collections.abc import Sequence

import numpy as np

from raserec_jax.data.columns import Column
from raserec_jax.data.sources import PathLike, at_line, shown
from raserec_jax.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A parsed table.

    Attributes:
      path: for messages.
      names: columns as the header names them.
      fields: per column: (buffer, starts, lengths), as `Column`.
      lines: [rows].
    """

    path: PathLike
    names: tuple[str, ...]
    fields: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]
    lines: np.ndarray

    def has(self, name: str) -> bool:
        return name in self.names

    def renamed(self, names: Sequence[str]) -> "Table":
        """The same table with other column names."""
        return dataclasses.replace(self, names=tuple(names))

    def column(self, name: str, role: str | None = None) -> Column:
        """The column of that name.

        Args:
          name: as in the header.
          role: what a reader's `columns` calls it, if it has such an argument; for messages.

        Raises:
          DataError: no or several such columns; names the columns found, and the nearest.
        """
        count = self.names.count(name)
        if count == 0:
            raise DataError(self._missing(name, role))
        if count > 1:
            raise DataError(
                f"{at_line(self.path, 1)}: column {name!r} occurs {count} times; rename or drop one"
            )
        return Column(self.path, name, *self.fields[self.names.index(name)], self.lines)

    def _missing(self, name: str, role: str | None) -> str:
        found = ", ".join(shown(found) for found in self.names[:20])
        plain = {_plain(found): found for found in self.names}
        close = difflib.get_close_matches(_plain(name), plain, n=1)
        nearest = shown(plain[close[0]]) if close else None
        hint = f" (did you mean {nearest}?)" if nearest else ""
        mapped = f", or pass columns={{{role!r}: {nearest or '...'}}}" if role else ""
        return (
            f"{at_line(self.path, 1)}: no column {name!r} among {found}{hint}; name it in the "
            f"first line, columns separated by tabs or commas{mapped}"
        )


def _plain(name: str) -> str:
    """userId and USER_ID are near user_id."""
    return re.sub(r"[\W_]", "", name).lower()


def parse_table(path: PathLike, content: bytes) -> Table:
    """Splits a table with a header line.

    The delimiter is the tab if the header has one, else the comma. Tab-separated text has no
    quoting. In comma-separated text a field may stand in double quotes and then hold commas,
    doubled quotes and line breaks.

    Args:
      path: for messages.
      content: as `sources.read_text` returns it.

    Raises:
      DataError: no rows, a row with too few or too many fields, or broken quotes.
    """
    header = content[: content.index(b"\n")]
    delimiter = b"\t" if b"\t" in header or b"," not in header else b","
    if len(header) + 1 == len(content):
        raise DataError(f"{path}: a header line but no rows; expected one row per line below it")
    if delimiter == b"," and b'"' in content:
        return _parse_quoted(path, content)
    return _parse_plain(path, content, header, delimiter)


def _parse_plain(path: PathLike, content: bytes, header: bytes, delimiter: bytes) -> Table:
    names = tuple(name.strip() for name in header.decode("utf-8").split(delimiter.decode()))
    buffer = np.frombuffer(content, np.uint8)
    breaks = buffer == ord("\n")
    marks = np.flatnonzero(breaks | (buffer == ord(delimiter)))  # every field ends at one
    width = len(names)
    is_break = breaks[marks]
    expected = np.arange(1, marks.size + 1) % width == 0
    if not np.array_equal(is_break, expected):
        counts = np.diff(np.flatnonzero(is_break), prepend=-1)
        row = int(np.flatnonzero(counts != width)[0])
        found = content.split(b"\n", row + 1)[row].decode("utf-8")
        raise _wrong_width(path, row + 1, int(counts[row]), width, found)
    starts = np.concatenate([[0], marks[:-1] + 1]).reshape(-1, width)[1:]
    lengths = marks.reshape(-1, width)[1:] - starts
    fields = tuple((buffer, starts[:, i].copy(), lengths[:, i].copy()) for i in range(width))
    return Table(path, names, fields, np.arange(2, len(starts) + 2))


def _parse_quoted(path: PathLike, content: bytes) -> Table:
    reader = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
    rows, lines, line = [], [], 1
    try:
        for row in reader:
            rows.append(row)
            lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{at_line(path, line)}: broken quotes ({error}); "
            "close every quote, double those inside a field"
        ) from None
    width = len(rows[0])
    if len(rows) == 1:
        raise DataError(f"{path}: a header line but no rows; expected one row per line below it")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise _wrong_width(path, line, len(row), width, ",".join(row))
    names = tuple(name.strip() for name in rows[0])
    return Table(
        path, names, tuple(map(_encoded, zip(*rows[1:], strict=True))), np.array(lines[1:])
    )


def _encoded(values: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    encoded = [value.encode("utf-8") for value in values]
    lengths = np.array([len(value) for value in encoded], np.int64)
    # A line break after each field: an empty one at the end, too, must start within the buffer.
    buffer = np.frombuffer(b"\n".join(encoded) + b"\n", np.uint8)
    return buffer, np.cumsum(lengths + 1) - (lengths + 1), lengths


def _wrong_width(path: PathLike, line: int, found: int, expected: int, text: str) -> DataError:
    return DataError(
        f"{at_line(path, line)}: {found} fields in {shown(text)}, expected {expected} as in "
        "the header; repair or drop the row"
    )
