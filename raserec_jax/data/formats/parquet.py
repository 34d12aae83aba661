"""Interactions in Parquet files."""

from collections.abc import Iterator, Mapping

import numpy as np

from raserec_jax.data.checks import NUMBER_LIMIT, as_numbers
from raserec_jax.data.columns import Column
from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.parquet_files import ParquetFile, parquet_errors_told
from raserec_jax.data.roles import find_roles
from raserec_jax.data.sources import PathLike, shown
from raserec_jax.errors import DataError


def read_parquet(path: PathLike, columns: Mapping[str, str]) -> Iterator[Chunk]:
    """Columns named as `roles.KNOWN_NAMES` or by the caller.

    Ids are strings or integers. Times may be numbers in any unit, or Parquet's own times, which come as numbers in
    their column's unit, or its dates, which come in seconds; both since 1970 in UTC.

    Raises:
      ConfigError: pyarrow is not installed.
      DataError: missing, damaged, empty, or not such a table; names the row.
    """
    with ParquetFile(path) as file:
        places = find_roles(path, file.names, columns, ("schema", "name it so in the file"))
        names = {role: file.names[place] for role, place in places.items()}
        for first_row, arrays in file.batches(list(names.values())):
            found = {
                role: ParquetColumn(path, name, arrays[name], first_row)
                for role, name in names.items()
            }
            yield Chunk(**found)


class ParquetColumn:
    """Some rows of one column; parsed when asked.

    Attributes:
      path, name: for messages.
      array: a pyarrow array.
      first_row: its number in the file, from 1.
    """

    def __init__(self, path: PathLike, name: str, array, first_row: int):
        self.path, self.name, self.array, self.first_row = path, name, array, first_row

    def ids(self) -> np.ndarray:
        """As `Column.ids`; of strings and integers.

        Raises:
          DataError: as there, or anything else.
        """
        with parquet_errors_told(self.path):
            array, kind = self._plain()
        if kind == "text":
            return self._text(array).ids()
        if kind != "integer":
            raise self._error(0, "ids that are strings or integers", "convert the column")
        values = array.to_numpy(zero_copy_only=False)
        if values.dtype.kind == "u" and values.max(initial=0) > np.iinfo(np.int64).max:
            return values.astype("S20")
        return values.astype(np.int64)

    def numbers(self) -> np.ndarray:
        """As `Column.numbers`; of numbers, times, dates, or strings that are numbers.

        Raises:
          DataError: as there, or anything else.
        """
        with parquet_errors_told(self.path):
            array, kind = self._plain()
        if kind == "text":
            return self._text(array).numbers()
        if kind not in ("integer", "fraction"):
            raise self._error(0, "numbers or times", "convert the column")
        values = array.to_numpy(zero_copy_only=False)
        bad = np.flatnonzero(~(np.abs(values.astype(np.float64)) < NUMBER_LIMIT))
        if bad.size:
            raise self._error(int(bad[0]), "a finite number below 2**63", "repair or drop the row")
        return as_numbers(values, self.name)

    def _plain(self):
        """The array without nulls and dictionaries, and its kind: text, integer, fraction, or its type's name."""
        import pyarrow as pa

        array, types = self.array, pa.types
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise self._error(row, "a value", "fill it in or drop the row")
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if types.is_date(kind):
            return array.cast(pa.timestamp("s")).cast(pa.int64()), "integer"
        if types.is_timestamp(kind):
            return array.cast(pa.int64()), "integer"
        if types.is_integer(kind):
            return array, "integer"
        if types.is_floating(kind) or types.is_decimal(kind):
            return array.cast(pa.float64()), "fraction"
        if str(kind) in ("string", "large_string", "string_view", "binary", "large_binary"):
            return array.cast(pa.large_string()), "text"
        return array, str(kind)

    def _text(self, array) -> Column:
        _, offsets, content = array.buffers()
        count, first = len(array), array.offset
        bounds = np.frombuffer(offsets, np.int64)[first : first + count + 1]
        text = np.zeros(0, np.uint8) if content is None else np.frombuffer(content, np.uint8)
        text = text[bounds[0] : bounds[-1]]
        starts = bounds[:-1] - bounds[0]
        nul = np.flatnonzero(text == 0)
        if nul.size:
            row = int(np.searchsorted(bounds - bounds[0], nul[0], side="right")) - 1
            raise self._error(row, "text without NUL", "repair or drop the row")
        buffer = np.concatenate([text, np.array([ord("\n")], np.uint8)])
        rows = np.arange(self.first_row, self.first_row + count)
        return Column(self.path, self.name, buffer, starts, np.diff(bounds), rows, unit="row")

    def _error(self, row: int, expected: str, way_out: str) -> DataError:
        with parquet_errors_told(self.path):
            found = shown(str(self.array[row].as_py()))
        return DataError(
            f"{self.path}, row {self.first_row + row}, column {self.name!r:.80}: found {found} in a column of "
            f"{shown(str(self.array.type))}, expected {expected}; {way_out}"
        )
