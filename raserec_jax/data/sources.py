"""Bytes of an input file, unpacked and checked to be text; what it says is left to `tables`."""

import gzip
import os
import pathlib
import zlib

from raserec_jax.errors import DataError

PathLike = str | os.PathLike
_GZIP = b"\x1f\x8b"
_BINARY = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PAR1": "a Parquet file: convert it to TSV or CSV",
    b"BZh": "bzip2: unpack it first",
    b"\xfd7zXZ\x00": "xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "Zstandard: unpack it first",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}


def read_text(path: PathLike) -> bytes:
    """Reads a text file, gzipped or not (told by its content, not its name).

    Returns:
      Valid UTF-8 without byte order mark, NUL or carriage returns at line ends; one line break at
      the end.

    Raises:
      DataError: missing, a folder, unreadable, empty, damaged gzip, binary, or not UTF-8.
    """
    content = _unpacked(path, _read(path))
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise DataError(f"{path}: empty file; expected a header line and rows below it")
    for magic, advice in _BINARY.items():
        if content.startswith(magic):
            raise DataError(f"{path}: not a text file, it looks like {advice}")
    _check_text(path, content)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
    return content.rstrip(b"\n") + b"\n"


def at_line(path: PathLike, line: int) -> str:
    """How messages name a place; lines count from 1."""
    return f"{path}, line {line}"


def shown(value: str) -> str:
    """A value as messages show it: quoted, on one line, at most 80 characters of it."""
    return repr(value[:80]) + ("…" if len(value) > 80 else "")


def _read(path: PathLike) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give the file in it that holds the table") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path!s:.200}: cannot be read ({reason}); check its permissions"
        ) from error


def _unpacked(path: PathLike, content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except EOFError:
        raise DataError(
            f"{path}: truncated gzip file, its end is missing; copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); copy or download it again") from None


def _check_text(path: PathLike, content: bytes) -> None:
    position = content.find(b"\0")
    if position >= 0:
        raise DataError(
            f"{_place(path, content, position)}: a NUL byte, expected text; is this a binary file?"
        )
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        found = content[error.start : error.start + 8]
        raise DataError(
            f"{_place(path, content, error.start)}: bytes {found!r}, expected UTF-8 text; "
            "save the file as UTF-8"
        ) from None


def _place(path: PathLike, content: bytes, position: int) -> str:
    line_start = content.rfind(b"\n", 0, position) + 1
    line = content.count(b"\n", 0, position) + 1
    return f"{at_line(path, line)}, byte {position - line_start + 1}"
