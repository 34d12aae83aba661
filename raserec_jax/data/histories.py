"""Files of histories to recommend for: one user per line, streamed, so that their number does not matter.

Two formats, told by the content: a tab-separated table with the columns `user_id` and `history` (original item ids
separated by spaces, oldest first; further columns are ignored), and JSON lines
`{"user_id": "u1", "history": ["B00A", "B00B"]}` for ids that hold spaces. Either may be gzipped.
"""

import difflib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from raserec_jax.data.columns import MAX_ID_BYTES
from raserec_jax.data.sources import PathLike, at_line, shown
from raserec_jax.errors import DataError

_COLUMNS = ("user_id", "history")
_GZIP = b"\x1f\x8b"
_LONGEST_LINE = 2**26  # bytes; more than that on one line is no file of histories
_EXAMPLE = '{"user_id": "u1", "history": ["B00A", "B00B"]}'


class HistoryRow(NamedTuple):
    """One user's history.

    line: of the file, from 1.  user_id: original id.  items: original item ids, oldest first, at least one.
    """

    line: int
    user_id: int | str
    items: list[int | str]


def read_histories(path: PathLike) -> Iterator[HistoryRow]:
    """Yields the rows of a file of histories.

    Args:
      path: TSV or JSON lines, gzipped or not; the first characters decide.

    Returns:
      An iterator. The file's first row is read at once, so a wrong file is told at once; later mistakes when they
      are reached.

    Raises:
      DataError: the file is missing, empty, damaged or not such a file, or a history is empty; names file and line.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: no histories; expected one line per user, such as {_EXAMPLE}")
    return itertools.chain([first], rows)


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
    return _checked(path, number, fields[user_place].strip(), items)


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
    items = found["history"]
    if not isinstance(items, list) or not all(_is_id(item) for item in items):
        raise DataError(
            f"{place}: history is {shown(json.dumps(items))}, expected a list of item ids, integers or strings"
        )
    if not _is_id(found["user_id"]):
        raise DataError(
            f"{place}: user_id is {shown(json.dumps(found['user_id']))}, expected an integer or a string"
        )
    return _checked(path, number, found["user_id"], items)


def _is_id(value) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _checked(path: PathLike, number: int, user_id: int | str, items: list) -> HistoryRow:
    place = at_line(path, number)
    if user_id == "":
        raise DataError(f"{place}: empty user_id; fill it in or drop the row")
    try:
        str(user_id).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: user_id {user_id!r:.80} is no valid text; repair or drop the line"
        ) from None
    if not items:
        raise DataError(
            f"{place}: empty history of user {shown(str(user_id))}, expected at least one item id; drop the row"
        )
    longest = max(map(str, [user_id, *items]), key=len)
    if len(longest) > MAX_ID_BYTES:
        raise DataError(
            f"{place}: found the id {shown(longest)}, expected at most {MAX_ID_BYTES} characters; are the items "
            "separated by spaces?"
        )
    return HistoryRow(number, user_id, items)
