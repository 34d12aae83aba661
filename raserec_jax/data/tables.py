"""A text table, block by block, split into columns without a Python string per field.

The places of all separators of a block are found at once with NumPy, and each column that is asked for is read from
there. CSV with quotes is left to `quoting`.
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterator

import numpy as np

from raserec_jax.data import quoting
from raserec_jax.data.columns import Column
from raserec_jax.data.sources import PathLike, TextBlock, shown
from raserec_jax.errors import DataError

DAT_DELIMITER = b"::"
_STAND_IN = b"\0"  # for "::" in a buffer: one byte that text never holds


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Some rows of a table.

    Attributes:
      path: for messages.
      names: of the columns; positions ("1", "2", ...) where the file has none.
      fields: (buffer, starts [rows, columns], lengths [rows, columns]), as `Column`.
      lines: [rows].
    """

    path: PathLike
    names: tuple[str, ...]
    fields: tuple[np.ndarray, np.ndarray, np.ndarray]
    lines: np.ndarray

    def column(self, name: str, role: str | None = None) -> Column:
        """The column of that name.

        Args:
          name: as in the header.
          role: what a reader's `columns` calls it, if it has such an argument; for messages.

        Raises:
          DataError: no or several such columns; names the columns found, and the nearest.
        """
        place = column_place(self.path, self.names, name, role)
        return self.column_at(place)

    def column_at(self, place: int) -> Column:
        """The column of that place, from 0."""
        buffer, starts, lengths = self.fields
        starts, lengths = starts[:, place].copy(), lengths[:, place].copy()
        return Column(self.path, self.names[place], buffer, starts, lengths, self.lines)


HEADER = ("line 1", "name it in the first line, columns separated by tabs or commas")


def column_place(
    path: PathLike,
    names: tuple[str, ...],
    name: str,
    role: str | None = None,
    source: tuple[str, str] = HEADER,
) -> int:
    """Where a header has a column; as `Table.column`, and `source` says where names stand and how to give one."""
    where, way_out = source
    count = names.count(name)
    if count == 1:
        return names.index(name)
    if count:
        raise DataError(
            f"{path}, {where}: column {name!r:.80} occurs {count} times; rename or drop one"
        )
    found = ", ".join(shown(found) for found in names[:20])
    plain = {_plain(found): found for found in names}
    close = difflib.get_close_matches(_plain(name), plain, n=1)
    nearest = shown(plain[close[0]]) if close else None
    hint = f" (did you mean {nearest}?)" if nearest else ""
    mapped = ""
    if role:
        own = nearest or "..."
        mapped = f", or map it: --config.data.columns={role}={own}, in Python columns={{{role!r}: {own}}}"
    if role and all(re.fullmatch(r"\d+(\.\d*)?", name) for name in names):
        mapped = (
            ", or say the format of a file without a header, such as format='ratings_user_item'"
        )
    raise DataError(
        f"{path}, {where}: no column {name!r:.80} among {found}{hint}; {way_out}{mapped}"
    )


def _plain(name: str) -> str:
    """userId and USER_ID are near user_id."""
    return re.sub(r"[\W_]", "", name).lower()[:80]


def tables(path: PathLike, blocks: Iterator[TextBlock]) -> Iterator[Table]:
    """Splits a table with a header line.

    The delimiter is the tab if the header has one, else the comma. Tab-separated text has no
    quoting. In comma-separated text a field may stand in double quotes and then hold commas,
    doubled quotes and line breaks.

    Args:
      path: for messages.
      blocks: as `sources.text_blocks` yields them.

    Returns:
      An iterator over tables with the same names, one or more rows each; at least one table.

    Raises:
      DataError: no rows, a row with too few or too many fields, or broken quotes; on the way.
    """
    first = next(blocks)
    header = first.content[: first.content.index(b"\n")]
    delimiter = b"\t" if b"\t" in header or b"," not in header else b","
    if delimiter == b"," and b'"' in header:
        names, lines = quoting.header(path, first)
    else:
        names, lines = header.decode("utf-8").split(delimiter.decode()), 1
    parts = first.content.split(b"\n", lines)
    rest = [TextBlock(first.first_line + lines, parts[-1])] if parts[-1] else []
    blocks = itertools.chain(rest, blocks)
    names = tuple(name.strip() for name in names)
    any_rows = False
    for table in _split(path, blocks, names, delimiter, "the header"):
        any_rows = True
        yield table
    if not any_rows:
        raise DataError(f"{path}: a header line but no rows; expected one row per line below it")


def tables_without_header(path: PathLike, blocks: Iterator[TextBlock]) -> Iterator[Table]:
    """Splits a table without a header line; its columns are called "1", "2", ...

    The delimiter is "::" if the first line has one, else the tab, else the comma; quotes as `tables` says.

    Args, returns, raises: as `tables`.
    """
    first = next(blocks)
    line = first.content[: first.content.index(b"\n")]
    delimiter = next((mark for mark in (DAT_DELIMITER, b"\t") if mark in line), b",")
    width = line.count(delimiter) + 1
    if delimiter == b"," and b'"' in line:
        width = len(quoting.header(path, first)[0])
    names = tuple(str(place) for place in range(1, width + 1))
    yield from _split(path, itertools.chain([first], blocks), names, delimiter, "the first line")


def _split(
    path: PathLike,
    blocks: Iterator[TextBlock],
    names: tuple[str, ...],
    delimiter: bytes,
    model: str,
) -> Iterator[Table]:
    for block in blocks:
        if delimiter == b"," and b'"' in block.content:
            for fields, lines in quoting.split(path, block, blocks, len(names), model):
                yield Table(path, names, fields, lines)
        else:
            yield _split_plain(path, block, names, delimiter, model)


def _split_plain(
    path: PathLike, block: TextBlock, names: tuple[str, ...], delimiter: bytes, model: str
) -> Table:
    content, width = block.content, len(names)
    if len(delimiter) > 1:
        content, delimiter = content.replace(delimiter, _STAND_IN), _STAND_IN
    buffer = np.frombuffer(content, np.uint8)
    breaks = buffer == ord("\n")
    marks = np.flatnonzero(breaks | (buffer == ord(delimiter)))  # every field ends at one
    is_break = breaks[marks]
    rows, rest = divmod(marks.size, width)
    if rest or is_break.sum() != rows or not is_break[width - 1 :: width].all():
        counts = np.diff(np.flatnonzero(is_break), prepend=-1)
        row = int(np.flatnonzero(counts != width)[0])
        found = block.content.split(b"\n", row + 1)[row].decode("utf-8")
        line = block.first_line + row
        raise quoting.wrong_width(path, line, int(counts[row]), width, found, model)
    starts = np.concatenate([[0], marks[:-1] + 1]).reshape(-1, width)
    lengths = marks.reshape(-1, width) - starts
    lines = np.arange(block.first_line, block.first_line + rows)
    return Table(path, names, (buffer, starts, lengths), lines)
