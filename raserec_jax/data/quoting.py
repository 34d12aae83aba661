"""CSV with quotes: blocks whose quotes are plain go through NumPy, the rest of a file through the csv module."""

import csv
import io
import itertools
from collections.abc import Iterator

import numpy as np

from raserec_jax.data import sources
from raserec_jax.data.columns import encoded
from raserec_jax.data.sources import PathLike, TextBlock, at_line, shown
from raserec_jax.errors import DataError

Fields = tuple[np.ndarray, np.ndarray, np.ndarray]


def header(path: PathLike, block: TextBlock) -> tuple[list[str], int]:
    """The fields of the first row, and how many lines it takes.

    Raises:
      DataError: broken quotes.
    """
    reader = csv.reader(io.StringIO(block.content.decode("utf-8"), newline="\n"), strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error as error:
        raise _broken(path, block.first_line, error) from None


def split(
    path: PathLike, block: TextBlock, following: Iterator[TextBlock], width: int, model: str
) -> Iterator[tuple[Fields, np.ndarray]]:
    """Splits a block that holds quotes, and all following ones if a row is hard to find the end of.

    Args:
      path: for messages.
      block: starts where a row does.
      following: the blocks after it.
      width: columns that each row must have.
      model: what says so, for messages.

    Returns:
      An iterator over `Table`'s fields and lines.

    Raises:
      DataError: a row of another width, or broken quotes.
    """
    simple = _split_simple(path, block, width, model)
    if simple is not None:
        yield simple
        return
    contents = (part.content for part in itertools.chain([block], following))
    lines = itertools.chain.from_iterable(
        io.StringIO(content.decode("utf-8"), newline="\n") for content in contents
    )
    reader = csv.reader(lines, strict=True)
    line = block.first_line
    while True:
        rows, starts, size = [], [], 0
        try:
            for row in reader:
                if len(row) != width:
                    raise wrong_width(path, line, len(row), width, ",".join(row), model)
                rows.append(row)
                starts.append(line)
                line = block.first_line + reader.line_num
                size += sum(map(len, row))
                if size >= sources.BLOCK_BYTES // 4:  # the strings take more room than their text
                    break
        except csv.Error as error:
            raise _broken(path, line, error) from None
        if not rows:
            return
        lines_of_rows = np.array(starts)
        fields = encoded(path, list(itertools.chain.from_iterable(rows)), lines_of_rows)
        yield (fields[0], fields[1].reshape(-1, width), fields[2].reshape(-1, width)), lines_of_rows


def _split_simple(
    path: PathLike, block: TextBlock, width: int, model: str
) -> tuple[Fields, np.ndarray] | None:
    """The block's rows if every quote opens or closes a whole field; None if not."""
    buffer = np.frombuffer(block.content, np.uint8)
    quotes = np.flatnonzero(buffer == ord('"'))
    if quotes.size % 2:
        return None
    separates = (buffer == ord("\n")) | (buffer == ord(","))
    opening, closing = quotes[::2], quotes[1::2]
    if not (np.all(separates[closing + 1]) and np.all((opening == 0) | separates[opening - 1])):
        return None
    marks = np.flatnonzero(separates)
    marks = marks[np.searchsorted(quotes, marks) % 2 == 0]  # not inside a pair of quotes
    is_break = buffer[marks] == ord("\n")
    rows, rest = divmod(marks.size, width)
    ends = marks[is_break]
    all_breaks = np.flatnonzero(buffer == ord("\n"))
    first_marks = np.concatenate([[0], ends[:-1] + 1])
    lines = block.first_line + np.searchsorted(all_breaks, first_marks)
    if rest or ends.size != rows or not is_break[width - 1 :: width].all():
        counts = np.diff(np.flatnonzero(is_break), prepend=-1)
        row = int(np.flatnonzero(counts != width)[0])
        found = block.content[first_marks[row] : ends[row]].decode("utf-8").replace('"', "")
        raise wrong_width(path, int(lines[row]), int(counts[row]), width, found, model)
    starts = np.concatenate([[0], marks[:-1] + 1])
    quoted = buffer[starts] == ord('"')
    lengths = marks - starts - 2 * quoted
    starts = starts + quoted
    return (buffer, starts.reshape(-1, width), lengths.reshape(-1, width)), lines


def wrong_width(
    path: PathLike, line: int, found: int, expected: int, text: str, model: str
) -> DataError:
    """The error about a row with too few or too many fields, to be raised."""
    return DataError(
        f"{at_line(path, line)}: {found} fields in {shown(text)}, expected {expected} as in "
        f"{model}; repair or drop the row"
    )


def _broken(path: PathLike, line: int, error: csv.Error) -> DataError:
    return DataError(
        f"{at_line(path, line)}: broken quotes ({error}); "
        "close every quote, double those inside a field"
    )
