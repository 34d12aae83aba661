"""An input file as blocks of checked text, unpacked and streamed; what the text says is left to `tables` and others.

Only one block is in memory at a time, so the size of a file does not matter. Pipes work too: nothing is read twice.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from raserec_jax.errors import DataError

PathLike = str | os.PathLike
BLOCK_BYTES = 2**22  # of text at a time; the arrays about it then fit a cache
LONGEST_LINE = 2**26  # bytes; more than that on one line is no file of ours
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_BINARY = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PAR1": "a Parquet file: unpack it first",
    b"BZh": "bzip2: unpack it first",
    b"\xfd7zXZ\x00": "xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "Zstandard: unpack it first",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}


class TextBlock(NamedTuple):
    """Some whole lines of a file.

    first_line: the number of the first of them in the file, from 1.  content: valid UTF-8 without byte order mark,
    NUL or carriage returns at line ends; never empty, ends with a line break.
    """

    first_line: int
    content: bytes


def text_blocks(
    path: PathLike,
    *,
    latin1_dat: bool = False,
    tell: Callable[[int], object] | None = None,
    expected: str = "a header line and rows below it",
) -> Iterator[TextBlock]:
    """Reads a text file, gzipped or not (told by its content, not its name).

    Args:
      path: the file.
      latin1_dat: take text that is not UTF-8 as Latin-1 where fields are separated by "::", as MovieLens has it.
      tell: called with the bytes of the file, as it lies on the disk, that are read so far.
      expected: what the message about an empty file asks for.

    Returns:
      An iterator over the file's lines without empty ones at its end; at least one block.

    Raises:
      DataError: missing, a folder, unreadable, empty, damaged gzip, binary, or not UTF-8; on the way.
    """
    line, empty_lines, started = 1, 0, False
    for content in _whole_lines(path, tell):
        if content is None:
            raise DataError(
                f"{at_line(path, line)}: longer than {LONGEST_LINE >> 20} MiB, expected a row per line; "
                "is this a text file?"
            )
        if not started:
            content = content.removeprefix(_BOM)
            _refuse_binary(path, content)
        content = _checked_text(path, line, content, latin1_dat)
        if b"\r" in content:
            content = content.replace(b"\r\n", b"\n")
        first = line - empty_lines
        line += _count_lines(content)
        # Empty lines may be the last of the file: they wait for what follows.
        text = b"\n" * empty_lines + content
        kept = text.rstrip(b"\n") + b"\n"
        if kept == b"\n":
            empty_lines = len(text)
            continue
        empty_lines = len(text) - len(kept)
        if not started and not kept.strip():
            continue
        started = True
        yield TextBlock(first, kept)
    if not started:
        raise DataError(f"{path}: empty file; expected {expected}")


def at_line(path: PathLike, line: int) -> str:
    """How messages name a place; lines count from 1."""
    return f"{path}, line {line}"


def shown(value: str) -> str:
    """A value as messages show it: quoted, on one line, at most 80 characters of it."""
    return repr(value[:80]) + ("…" if len(value) > 80 else "")


def _whole_lines(path: PathLike, tell) -> Iterator[bytes | None]:
    """Yields bytes that end at line ends, the last line with a break if it has none; None for a line too long."""
    parts: list[bytes] = []  # of a line whose end is not read yet
    whole = b""  # waits, so that a last line without a break comes with those before it
    for piece in _pieces(path, tell):
        cut = piece.rfind(b"\n") + 1
        if cut:
            if whole:
                yield whole
            whole = b"".join([*parts, piece[:cut]])
            parts = []
        parts.append(piece[cut:])
        if sum(map(len, parts)) > LONGEST_LINE:
            if whole:
                yield whole
            yield None
    last = b"".join([whole, *parts])
    if last:
        yield last if last.endswith(b"\n") else last + b"\n"


def _count_lines(content: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord("\n")))


def _pieces(path: PathLike, tell) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            source = gzip.open(file) if file.peek(2)[:2] == _GZIP else file
            for piece in iter(lambda: source.read(BLOCK_BYTES), b""):
                if tell is not None and file.seekable():
                    tell(file.tell())
                yield piece
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give the file in it that holds the table") from None
    except EOFError:
        raise DataError(
            f"{path}: truncated gzip file, its end is missing; copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); copy or download it again") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path!s:.200}: cannot be read ({reason}); check its permissions"
        ) from error


def _refuse_binary(path: PathLike, content: bytes) -> None:
    for magic, advice in _BINARY.items():
        if content.startswith(magic):
            raise DataError(f"{path}: not a text file, it looks like {advice}")


def _checked_text(path: PathLike, first_line: int, content: bytes, latin1_dat: bool) -> bytes:
    position = content.find(b"\0")
    if position >= 0:
        place = _place(path, first_line, content, position)
        raise DataError(f"{place}: a NUL byte, expected text; is this a binary file?")
    try:
        if not content.isascii():
            content.decode("utf-8")
    except UnicodeDecodeError as error:
        if latin1_dat and b"::" in content[: content.index(b"\n")]:
            return content.decode("latin-1").encode("utf-8")
        found = content[error.start : error.start + 8]
        raise DataError(
            f"{_place(path, first_line, content, error.start)}: bytes {found!r}, expected UTF-8 text; "
            "save the file as UTF-8"
        ) from None
    return content


def _place(path: PathLike, first_line: int, content: bytes, position: int) -> str:
    line_start = content.rfind(b"\n", 0, position) + 1
    line = first_line + content.count(b"\n", 0, position)
    return f"{at_line(path, line)}, byte {position - line_start + 1}"
