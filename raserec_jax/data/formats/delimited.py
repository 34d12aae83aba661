"""Tables with a header (ours, RecBole's, MovieLens's, Amazon's 2023), and ratings without one (`.dat`, Amazon's)."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from raserec_jax.data.columns import Column
from raserec_jax.data.formats.chunks import Chunk, chunk_of_table
from raserec_jax.data.recbole import without_types
from raserec_jax.data.roles import refuse_header
from raserec_jax.data.sources import PathLike, TextBlock, at_line
from raserec_jax.data.tables import Table, tables, tables_without_header
from raserec_jax.errors import DataError

_ASIN_LENGTH = 10


def read_table(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """TSV or CSV whose header names the columns."""
    return (chunk_of_table(table, columns) for table in tables(path, blocks))


def read_recbole(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """RecBole's atomic .inter file: a table whose header has `name:type`."""
    return (chunk_of_table(without_types(table), columns) for table in tables(path, blocks))


def read_user_first(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """No header: user, item, rating, timestamp (MovieLens's .dat and u.data, Amazon 2014); the last two may lack."""
    return _read_places(path, tables_without_header(path, blocks), columns, item_first=False)


def read_item_first(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """No header: item, user, rating, timestamp (Amazon 2018)."""
    return _read_places(path, tables_without_header(path, blocks), columns, item_first=True)


def read_amazon_ratings(
    path: PathLike, blocks: Iterator[TextBlock], columns: Mapping[str, str]
) -> Iterator[Chunk]:
    """Amazon's ratings without a header, of 2014 or 2018.

    The item is the one of the first two columns where every row of the file's first block is an ASIN: exactly ten
    digits and capital letters.

    Raises:
      DataError: both columns are so, or neither.
    """
    rest = tables_without_header(path, blocks)
    first = next(rest)
    item_first = _item_comes_first(first)
    yield from _read_places(path, itertools.chain([first], rest), columns, item_first=item_first)


def _read_places(
    path: PathLike, parts: Iterator[Table], columns: Mapping[str, str], *, item_first: bool
) -> Iterator[Chunk]:
    order = ("item_id", "user_id") if item_first else ("user_id", "item_id")
    for number, table in enumerate(parts):
        if number == 0:
            first_row = [table.column_at(place).text(0) for place in range(len(table.names))]
            refuse_header(path, int(table.lines[0]), first_row)
        width = len(table.names)
        usual = dict(zip((*order, "rating", "timestamp"), table.names, strict=False))
        known = {role: name for role, name in usual.items() if name not in columns.values()}
        if not columns and not 2 <= width <= 4:
            raise DataError(
                f"{at_line(path, 1)}: {width} columns and no header, expected user, item, rating and timestamp, or "
                "the first two; say what the columns are, counted from 1, as columns: user_id=1,item_id=2"
            )
        yield chunk_of_table(table, {**known, **columns})


def _item_comes_first(table: Table) -> bool:
    if len(table.names) < 2:
        return False  # told when the columns are looked for
    first, second = (_all_asins(table.column_at(place)) for place in (0, 1))
    if first == second:
        problem = "both look" if first else "neither looks"
        raise DataError(
            f"{at_line(table.path, 1)}: ratings without a header, and of the first two columns {problem} like "
            "ten-character ASINs; say format='ratings_user_item' (user,item,rating,timestamp; Amazon 2014) or "
            "'ratings_item_user' (Amazon 2018)"
        )
    return first


def _all_asins(column: Column) -> bool:
    if not np.all(column.lengths == _ASIN_LENGTH):
        return False
    characters = column.buffer[column.starts[:, None] + np.arange(_ASIN_LENGTH)]
    digit = (characters >= ord("0")) & (characters <= ord("9"))
    capital = (characters >= ord("A")) & (characters <= ord("Z"))
    return bool(np.all(digit | capital))
