"""Files of items, piece by piece: the id of each row and its other columns as text."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from raserec_jax.data.columns import Column
from raserec_jax.data.formats.json_lines import JsonColumn
from raserec_jax.data.formats.parquet import ParquetColumn
from raserec_jax.data.json_objects import objects
from raserec_jax.data.labels import as_names
from raserec_jax.data.parquet_files import ParquetFile, is_parquet, parquet_errors_told
from raserec_jax.data.recbole import is_typed, without_types
from raserec_jax.data.roles import KNOWN_NAMES
from raserec_jax.data.sources import PathLike, TextBlock, at_line, text_blocks
from raserec_jax.data.tables import (
    DAT_DELIMITER,
    HEADER,
    Table,
    column_place,
    tables,
    tables_without_header,
)
from raserec_jax.errors import DataError

_DAT_NAMES = ("item_id", "title", "genres")
_DEPTH = 100  # of lists within lists


class ItemRows(NamedTuple):
    """Some items.

    ids: original ids, [rows] str.  columns: name -> [rows] str, "" where unknown.
    """

    ids: list[str]
    columns: dict[str, list[str]]


def item_rows(path: PathLike) -> Iterator[ItemRows]:
    """Reads a file of items; formats as `item_text.read_item_text` says.

    Returns:
      An iterator over pieces of at least one row, one piece or more.

    Raises:
      DataError: what is wrong with the file; on the way.
      ConfigError: a Parquet file, and pyarrow is missing.
    """
    if is_parquet(path):
        yield from _from_parquet(path)
        return
    blocks = text_blocks(path, latin1_dat=True)
    first = next(blocks)
    line = first.content[: first.content.index(b"\n")]
    blocks = itertools.chain([first], blocks)
    if line.lstrip()[:1] in (b"{", b"["):
        yield from _from_json(path, blocks)
    elif DAT_DELIMITER in line:
        yield from map(_from_dat, tables_without_header(path, blocks))
    else:
        yield from map(_from_table, tables(path, blocks))


def _from_table(table: Table) -> ItemRows:
    table = without_types(table) if all(map(is_typed, table.names)) else table
    id_place = _id_place(table.path, table.names, HEADER)
    names = [name for name in table.names if name not in (table.names[id_place], "")]
    if not names:
        raise DataError(
            f"{at_line(table.path, 1)}: no column beside {table.names[id_place]!r:.80}; add text, such as a "
            "'title' column"
        )
    columns = {name: table.column(name).strings() for name in names}
    return ItemRows(_names(table.column_at(id_place)), columns)


def _from_dat(table: Table) -> ItemRows:
    if len(table.names) != len(_DAT_NAMES):
        raise DataError(
            f"{at_line(table.path, 1)}: {len(table.names)} fields separated by '::', expected MovieLens's three, "
            "movie, title and genres; give a table with a header"
        )
    columns = {name: table.column_at(place).strings() for place, name in enumerate(_DAT_NAMES)}
    del columns[_DAT_NAMES[0]]
    return ItemRows(_names(table.column_at(0)), columns)


def _from_json(path: PathLike, blocks: Iterator[TextBlock]) -> Iterator[ItemRows]:
    id_name = None
    for block in blocks:
        rows, lines = objects(path, block)
        if not rows:
            continue
        if id_name is None:
            source = (f"line {lines[0]}", "name it so in every object")
            names = tuple(rows[0])
            id_name = names[_id_place(path, names, source)]
        ids = JsonColumn(path, id_name, [row.get(id_name) for row in rows], lines)
        try:
            columns = _text_columns(rows, id_name)
        except RecursionError:
            raise DataError(
                f"{at_line(path, int(lines[0]))} or below: values nested too deeply; drop them"
            ) from None
        yield ItemRows(_names(ids), columns)


def _from_parquet(path: PathLike) -> Iterator[ItemRows]:
    with ParquetFile(path) as file:
        id_name = file.names[_id_place(path, file.names, ("schema", "name it so in the file"))]
        for first_row, arrays in file.batches():
            ids = ParquetColumn(path, id_name, arrays.pop(id_name), first_row)
            with parquet_errors_told(path):
                columns = {
                    name: list(map(as_text, array.to_pylist())) for name, array in arrays.items()
                }
            yield ItemRows(_names(ids), columns)


def as_text(value) -> str:
    """A value of JSON as text: lists become their entries joined by "|", at any depth; null and nothing ""."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "|".join(text for text in map(as_text, _flat(value)) if text)
    if value is None:
        return ""
    if isinstance(value, (dict, bool)):
        return json.dumps(value, ensure_ascii=False, default=str) if value != {} else ""
    return str(value)


def _flat(values: list, depth: int = 0) -> Iterator:
    if depth > _DEPTH:
        raise RecursionError
    for value in values:
        if isinstance(value, list):
            yield from _flat(value, depth + 1)
        else:
            yield value


def _text_columns(rows: Sequence[Mapping], id_name: str) -> dict[str, list[str]]:
    names = dict.fromkeys(name for row in rows for name in row if name not in (id_name, ""))
    return {name: [as_text(row.get(name)) for row in rows] for name in names}


def _id_place(path: PathLike, names: tuple[str, ...], source: tuple[str, str]) -> int:
    known = next((name for name in KNOWN_NAMES["item_id"] if name in names), "item_id")
    return column_place(path, names, known, source=source)


def _names(column: Column | JsonColumn | ParquetColumn) -> list[str]:
    names: np.ndarray = as_names(column.ids(), "item")
    return names.tolist()
