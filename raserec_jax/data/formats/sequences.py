"""One user per line, `user item item ...`, or one pair, `user item`: no header, oldest first, order of the file."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from raserec_jax.data.columns import Column
from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.roles import refuse_header
from raserec_jax.data.sources import PathLike, TextBlock, at_line, shown
from raserec_jax.errors import ConfigError, DataError

_BREAK = ord("\n")
_COMMA = ord(",")
_BLANKS = (ord(" "), ord("\t"))


def read_sequences(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """Lines of a user and items; a user's lines continue each other.

    Fields are separated by blanks or tabs, any number of them; by commas if the first line has neither.
    """
    return _read(path, blocks, columns, pairs=False)


def read_pairs(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """As `read_sequences`, with exactly one item per line."""
    return _read(path, blocks, columns, pairs=True)


def _read(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str], *, pairs: bool
) -> Iterator[Chunk]:
    if columns:
        raise ConfigError(
            f"columns={dict(columns)} does not go with lines of a user and items, which have no "
            "names; leave it out, or say another format"
        )
    separators = None
    for block in blocks:
        if separators is None:
            separators = _separators(path, block)
        yield _split(path, block, separators, pairs)


def _separators(path: PathLike, block: TextBlock) -> tuple[int, ...]:
    line = block.content[: block.content.index(b"\n")].strip()
    refuse_header(path, block.first_line, re.split(r"[ \t,]+", line.decode("utf-8")))
    has_blanks = any(byte in line for byte in _BLANKS)
    if has_blanks and _COMMA in line:
        raise DataError(
            f"{at_line(path, block.first_line)}: blanks and commas in {shown(line.decode('utf-8'))}, expected "
            "fields separated by one of them"
        )
    return _BLANKS if has_blanks else (_COMMA,)


def _split(path: PathLike, block: TextBlock, separators: tuple[int, ...], pairs: bool) -> Chunk:
    buffer = np.frombuffer(block.content, np.uint8)
    between = buffer == _BREAK
    breaks = np.flatnonzero(between)
    for separator in separators:
        between |= buffer == separator
    edges = np.flatnonzero(np.diff(between, prepend=True))  # alternate: a field begins, it ends
    starts, ends = edges[::2], edges[1::2]
    line = np.searchsorted(breaks, starts)  # of each field, from 0
    counts = np.bincount(line, minlength=breaks.size)
    wrong = np.flatnonzero(counts != 2 if pairs else counts < 2)
    if wrong.size:
        row = int(wrong[0])
        found = shown(block.content.split(b"\n", row + 1)[row].decode("utf-8"))
        expected = "exactly a user and an item" if pairs else "a user and at least one item"
        raise DataError(
            f"{at_line(path, block.first_line + row)}: {counts[row]} fields in {found}, expected {expected}, "
            "separated by blanks; repair or drop the line"
        )
    first_fields = np.cumsum(counts) - counts
    is_item = np.ones(starts.size, bool)
    is_item[first_fields] = False
    user_fields, item_fields = first_fields[line[is_item]], np.flatnonzero(is_item)
    lengths = ends - starts
    lines = block.first_line + line[is_item]
    users, items = (
        Column(path, name, buffer, starts[fields], lengths[fields], lines)
        for name, fields in (("user", user_fields), ("item", item_fields))
    )
    return Chunk(users, items)
