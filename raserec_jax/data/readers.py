"""Files of interactions -> InteractionLog.

A format is a function from a parsed table to `Columns`; `_FORMATS` lists them, and `_sniff` chooses
by content.
"""

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from raserec_jax.data import storage
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import read_item_text
from raserec_jax.data.recbole import has_recbole_header, without_types
from raserec_jax.data.sources import PathLike, read_text
from raserec_jax.data.tables import Table, parse_table
from raserec_jax.errors import ConfigError

__all__ = ["read_interactions", "read_item_text"]

_REQUIRED = ("user_id", "item_id")
_OPTIONAL = ("position", "timestamp")


class Columns(NamedTuple):
    """What a format yields: one value per interaction.

    Attributes:
      users, items: [N] int64, or UTF-8 bytes.
      position, timestamp: [N] int64 or float64, or None.
    """

    users: np.ndarray
    items: np.ndarray
    position: np.ndarray | None
    timestamp: np.ndarray | None


def read_interactions(
    path: PathLike,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
) -> InteractionLog:
    """Reads one interaction per row; order within a user as `InteractionLog.from_columns` says.

    Args:
      path: a TSV or CSV file with a header line, a RecBole .inter file, either gzipped or not; or
        the folder of a saved log.
      format: "table", "recbole", or "auto" (by the header).
      columns: what the file calls a column, where it is not user_id, item_id, position or
        timestamp: {"item_id": "asin"}. Further columns of the file are ignored.
      name: what reports call the log; by default after the file.

    Raises:
      DataError: the file is missing, damaged, or not such a table; names file, line, column and
        what to do.
      ConfigError: an unknown format or column.
    """
    columns = _checked_columns(columns)
    if format != "auto" and format not in _FORMATS:
        raise ConfigError(
            f"format {format!r} is unknown; use auto, "
            f"{', '.join(_FORMATS)}{_nearest(format, _FORMATS)}"
        )
    if storage.is_saved_folder(path):
        log = InteractionLog.load(path)
        return log if name is None else dataclasses.replace(log, name=name)
    table = parse_table(path, read_text(path))
    found = _FORMATS[_sniff(table) if format == "auto" else format](table, columns)
    return InteractionLog.from_columns(
        found.users,
        found.items,
        position=found.position,
        timestamp=found.timestamp,
        name=name or _name_of(path),
    )


def _read_table(table: Table, columns: Mapping[str, str]) -> Columns:
    """TSV or CSV whose header names the columns."""
    ids = [table.column(columns.get(role, role), role).ids() for role in _REQUIRED]
    numbers = [
        table.column(columns.get(role, role), role).numbers()
        if role in columns or table.has(role)
        else None
        for role in _OPTIONAL
    ]
    return Columns(*ids, *numbers)


def _read_recbole(table: Table, columns: Mapping[str, str]) -> Columns:
    """RecBole's atomic .inter file: a table whose header has `name:type`."""
    return _read_table(without_types(table), columns)


_FORMATS: dict[str, Callable[[Table, Mapping[str, str]], Columns]] = {
    "table": _read_table,
    "recbole": _read_recbole,
}


def _sniff(table: Table) -> str:
    return "recbole" if has_recbole_header(table) else "table"


def _checked_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    known = _REQUIRED + _OPTIONAL
    for role in columns or {}:
        if role not in known:
            raise ConfigError(
                f"columns: {role!r} is not one of {', '.join(known)}{_nearest(role, known)}; "
                "map the library's name to the file's, as in {'item_id': 'asin'}"
            )
    return dict(columns or {})


def _nearest(word: str, known) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _name_of(path: PathLike) -> str:
    """The folder's name for amazon_beauty/interactions.tsv.gz, else the file's, no extensions."""
    path = pathlib.Path(path)
    stem = re.sub(r"(\.(gz|tsv|csv|txt|inter))+$", "", path.name, flags=re.IGNORECASE)
    if stem == "interactions":
        return path.resolve().parent.name or stem
    return stem or "log"
