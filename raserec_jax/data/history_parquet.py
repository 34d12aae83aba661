"""Histories in Parquet files: the columns user_id and history, the latter lists of ids, or ids separated by spaces."""

from collections.abc import Iterator

from raserec_jax.data.history_rows import HistoryRow, checked_row
from raserec_jax.data.parquet_files import ParquetFile, parquet_errors_told
from raserec_jax.data.sources import PathLike, shown
from raserec_jax.errors import DataError

_COLUMNS = ("user_id", "history")
_ROWS_AT_ONCE = 1024  # as Python objects, which take many times the room of Arrow's


def parquet_histories(path: PathLike) -> Iterator[HistoryRow]:
    """Yields the rows, in the file's order.

    Raises:
      ConfigError: pyarrow is not installed.
      DataError: missing, damaged, empty, or not such a table; names the row.
    """
    with ParquetFile(path) as file:
        for name in _COLUMNS:
            if file.names.count(name) != 1:
                found = ", ".join(shown(column) for column in file.names[:20])
                raise DataError(
                    f"{path}: expected one column {name!r} in its schema, found {found}; name it so in the file"
                )
        for first_row, arrays in file.batches(_COLUMNS):
            users, histories = (arrays[name] for name in _COLUMNS)
            for start in range(0, len(users), _ROWS_AT_ONCE):
                with parquet_errors_told(path):
                    part = [column[start : start + _ROWS_AT_ONCE] for column in (users, histories)]
                    rows = zip(*(column.to_pylist() for column in part), strict=True)
                for row, (user, history) in enumerate(rows, start=first_row + start):
                    items = _split(history) if isinstance(history, str) else history
                    yield checked_row(at_row(path, row), row, user, items)


def at_row(path: PathLike, row: int) -> str:
    """How messages name a place; rows count from 1."""
    return f"{path}, row {row}"


def _split(text: str) -> list[str]:
    return [item for item in text.split(" ") if item]
