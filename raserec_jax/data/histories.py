"""Files of histories to recommend for: one user per line, streamed, so that their number does not matter.

Three formats, told by the content: a tab-separated table with the columns `user_id` and `history` (original item ids
separated by spaces, oldest first; further columns are ignored), JSON lines
`{"user_id": "u1", "history": ["B00A", "B00B"]}` for ids that hold spaces, and Parquet with these columns, the history a
list or such a string. Text may be gzipped.
"""

import difflib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator

from raserec_jax.data.history_parquet import at_row, parquet_histories
from raserec_jax.data.history_rows import HistoryRow, checked_row
from raserec_jax.data.parquet_files import is_parquet
from raserec_jax.data.sources import PathLike, at_line, shown
from raserec_jax.errors import DataError

_COLUMNS = ("user_id", "history")
_GZIP = b"\x1f\x8b"
_LONGEST_LINE = 2**26  # bytes; more than that on one line is no file of histories
_EXAMPLE = '{"user_id": "u1", "history": ["B00A", "B00B"]}'


def read_histories(path: PathLike) -> Iterator[HistoryRow]:
    """Yields the rows of a file of histories.

    Args:
      path: TSV or JSON lines, gzipped or not, or Parquet; the first characters decide.

    Returns:
      An iterator. The file's first row is read at once, so a wrong file is told at once; later mistakes when they
      are reached.

    Raises:
      DataError: the file is missing, empty, damaged or not such a file, or a history is empty; names file and line.
      ConfigError: Parquet, and pyarrow is not installed.
    """
    rows = parquet_histories(path) if is_parquet(path) else _rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: no histories; expected one line per user, such as {_EXAMPLE}")
    return itertools.chain([first], rows)


def place_of(path: PathLike, row: HistoryRow) -> str:
    """How messages name a row."""
    return at_row(path, row.line) if is_parquet(path) else at_line(path, row.line)


def _rows(path: PathLike) -> Iterator[HistoryRow]:
    lines = _lines(path)
    number, first = next(lines, (0, ""))
    if not first:
        raise DataError(
            f"{path}: empty file; expected a header line 'user_id<tab>history' and rows below it, or "
            f"lines such as {_EXAMPLE}"
        )
    if first.lstrip()[:1] in ("{", "["):
        yield from (_json_row(path, *line) for line in itertools.chain([(number, first)], lines))
    else:
        names = [name.strip() for name in first.split("\t")]
        places = [_column_place(path, number, names, name) for name in _COLUMNS]
        yield from (_table_row(path, *line, len(names), *places) for line in lines)


def _lines(path: PathLike) -> Iterator[tuple[int, str]]:
    """Yields (number, text) of each line that is not empty, from 1, without line ends."""
    try:
        with open(path, "rb") as file:
            is_gzip = file.read(2) == _GZIP
            file.seek(0)
            source = gzip.open(file) if is_gzip else file
            for number, raw in enumerate(_raw_lines(source), start=1):
                text = _decoded(path, number, raw)
                if text:
                    yield number, text
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give the file of histories in it") from None
    except EOFError:
        raise DataError(
            f"{path}: truncated gzip file, its end is missing; copy or make it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); copy or make it again") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _raw_lines(source: io.BufferedIOBase) -> Iterator[bytes]:
    return iter(lambda: source.readline(_LONGEST_LINE), b"")


def _decoded(path: PathLike, number: int, raw: bytes) -> str:
    if len(raw) == _LONGEST_LINE:
        raise DataError(
            f"{at_line(path, number)}: longer than {_LONGEST_LINE >> 20} MiB, expected one user per line; "
            "is this a file of histories?"
        )
    if b"\0" in raw:
        raise DataError(
            f"{at_line(path, number)}: a NUL byte, expected text; is this a binary file?"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = raw[error.start : error.start + 8]
        raise DataError(
            f"{at_line(path, number)}: bytes {found!r}, expected UTF-8 text; save the file as UTF-8"
        ) from None
    return (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")


def _column_place(path: PathLike, number: int, names: list[str], wanted: str) -> int:
    if names.count(wanted) == 1:
        return names.index(wanted)
    found = ", ".join(shown(name) for name in names[:20])
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f" (did you mean {shown(near[0])}?)" if near and wanted not in names else ""
    problem = f"column {wanted!r} occurs twice" if wanted in names else f"no column {wanted!r}"
    raise DataError(
        f"{at_line(path, number)}: {problem} among {found}{hint}; the first line must name user_id and "
        "history, separated by a tab"
    )


def _table_row(
    path: PathLike, number: int, text: str, width: int, user_place: int, history_place: int
) -> HistoryRow:
    fields = text.split("\t")
    if len(fields) != width:
        raise DataError(
            f"{at_line(path, number)}: {len(fields)} fields in {shown(text)}, expected {width} as in the header, "
            "separated by tabs, with spaces between the items; repair or drop the row"
        )
    items = [item for item in fields[history_place].split(" ") if item]
    return checked_row(at_line(path, number), number, fields[user_place].strip(), items)


def _json_row(path: PathLike, number: int, text: str) -> HistoryRow:
    place = at_line(path, number)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply or not a number")
        raise DataError(
            f"{place}: not JSON ({reason}) in {shown(text)}, expected such as {_EXAMPLE}; repair or drop the line"
        ) from None
    if not isinstance(found, dict):
        raise DataError(
            f"{place}: found {shown(text)}, expected one JSON object per line, such as {_EXAMPLE}"
        )
    for name in _COLUMNS:
        if name not in found:
            names = ", ".join(shown(key) for key in list(found)[:20]) or "none"
            raise DataError(f"{place}: no {name!r} among {names}; expected such as {_EXAMPLE}")
    return checked_row(place, number, found["user_id"], found["history"])
