"""Any TFDS data set of interactions -> `Chunk`s: one example per interaction, features that are users, items, times.

    tfds:movielens/100k-ratings          all splits of a data set that TFDS has prepared in its data_dir
    tfds:movielens/100k-ratings#train    one split of it
    FOLDER                               a data set's files, with dataset_info.json and features.json

It must have been prepared in a format of random access; nothing is downloaded here.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from raserec_jax.data.checks import NUMBER_LIMIT, as_numbers
from raserec_jax.data.columns import Column
from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.records.libraries import extra
from raserec_jax.data.roles import find_roles
from raserec_jax.data.sources import PathLike, shown
from raserec_jax.errors import DataError

PREFIX = "tfds:"
_INFO = ("dataset_info.json", "features.json")
_ROWS_AT_ONCE = 2**14


def is_tfds(path: PathLike) -> bool:
    """Whether `read_tfds` is meant."""
    try:
        return str(path).startswith(PREFIX) or all(
            os.path.isfile(os.path.join(path, name)) for name in _INFO
        )
    except ValueError:  # a NUL in the path
        return False


def tfds_name(path: PathLike) -> str:
    """What a log of the data set is called: movielens_100k_ratings; of a folder, whose last name is a version, the one
    before it; "" where `read_tfds` is not meant."""
    if str(path).startswith(PREFIX):
        name = str(path).removeprefix(PREFIX).partition("#")[0]
        return name.replace("/", "_").replace("-", "_")
    return pathlib.Path(path).resolve().parent.name if is_tfds(path) else ""


def read_tfds(path: PathLike, columns: Mapping[str, str]) -> Iterator[Chunk]:
    """The interactions of a data set, in the order of its examples.

    Args:
      path: as above.
      columns: role -> feature, where it is none of `roles.KNOWN_NAMES`.

    Raises:
      ConfigError: the extra is missing.
      DataError: no such data set, split or feature, or a feature of another kind; names the example.
    """
    builder, split = _builder(path)
    if not builder.info.splits:
        raise DataError(f"{path}: {_not_prepared(builder)}")
    if split and split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise DataError(f"{path}: no split {split!r:.80}; it has {known}")
    names = tuple(builder.info.features)
    places = find_roles(path, names, columns, ("features", "name one with columns, role=feature"))
    roles = {role: names[place] for role, place in places.items()}
    row = 1
    for name in [split] if split else builder.info.splits:
        examples = _examples(path, builder, name)
        for first in range(0, len(examples), _ROWS_AT_ONCE):
            found = _taken(path, examples, first)
            columns_of = {
                role: TfdsColumn(path, feature, [example[feature] for example in found], row)
                for role, feature in roles.items()
            }
            yield Chunk(**columns_of)
            row += len(found)
    if row == 1:
        raise DataError(f"{path}: no examples in it; expected one per interaction")


def _builder(path: PathLike):
    tfds = extra("tensorflow_datasets")
    name, _, split = str(path).removeprefix(PREFIX).partition("#")
    try:
        if str(path).startswith(PREFIX):
            return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR")), split
        return tfds.builder_from_directory(path), ""
    except Exception as error:  # TFDS answers with errors of many kinds
        reason = " ".join(str(error).partition("Available")[0].split())[:200]
        raise DataError(
            f"{path}: no TFDS data set that can be read ({reason or type(error).__name__}); give tfds:NAME/CONFIG with "
            "TFDS_DATA_DIR set to where it was prepared, or the folder that holds its dataset_info.json"
        ) from None


def _not_prepared(builder) -> str:
    return (
        f"not prepared in {builder.data_dir}; prepare it with tfds build --file_format=array_record, or set "
        "TFDS_DATA_DIR to where it lies"
    )


def _examples(path: PathLike, builder, split: str):
    try:
        return builder.as_data_source(split=split)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{path}: cannot be read by place ({reason}); {_not_prepared(builder)}"
        ) from None


def _taken(path: PathLike, examples, first: int) -> list[dict]:
    rows = list(range(first, min(first + _ROWS_AT_ONCE, len(examples))))
    try:
        return examples.__getitems__(rows)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: damaged data set ({reason}); prepare it again") from None


class TfdsColumn:
    """Some examples' values of one feature; parsed when asked.

    Args:
      path, name: for messages.
      values: NumPy scalars, bytes or str.
      first_row: number of the first of them, from 1.
    """

    def __init__(self, path: PathLike, name: str, values: list, first_row: int):
        self.path, self.name, self.values, self.first_row = path, name, values, first_row

    def ids(self) -> np.ndarray:
        """As `Column.ids`; of strings and integers.

        Raises:
          DataError: as there, or anything else.
        """
        kind = self._kind()
        if kind == "text":
            return self._text().ids()
        if kind not in "iu":
            raise self._error(0, "ids that are strings or integers")
        values = np.array(self.values)
        if values.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
            return values.astype("S20")
        return values.astype(np.int64)

    def numbers(self) -> np.ndarray:
        """As `Column.numbers`; of numbers, or strings that are numbers.

        Raises:
          DataError: as there, or anything else.
        """
        kind = self._kind()
        if kind == "text":
            return self._text().numbers()
        if kind not in "iuf":
            raise self._error(0, "numbers")
        values = np.array(self.values)
        bad = np.flatnonzero(~(np.abs(values.astype(np.float64)) < NUMBER_LIMIT))
        if bad.size:
            raise self._error(int(bad[0]), "a finite number below 2**63")
        return as_numbers(values, self.name)

    def _kind(self) -> str:
        if all(isinstance(value, (bytes, str)) for value in self.values):
            return "text"
        values = np.asarray(self.values[0])
        return values.dtype.kind if values.ndim == 0 else "array"

    def _text(self) -> Column:
        content = [value.encode() if isinstance(value, str) else value for value in self.values]
        for row, value in enumerate(content):
            if b"\0" in value or not _is_utf8(value):
                raise self._error(row, "UTF-8 text without NUL")
        lengths = np.array([len(value) for value in content], np.int64)
        buffer = np.frombuffer(b"".join([*content, b"\n"]), np.uint8)
        rows = np.arange(self.first_row, self.first_row + len(content))
        starts = np.cumsum(lengths) - lengths
        return Column(self.path, self.name, buffer, starts, lengths, rows, unit="example")

    def _error(self, row: int, expected: str) -> DataError:
        return DataError(
            f"{self.path}, example {self.first_row + row}, feature {self.name!r:.80}: found "
            f"{shown(str(self.values[row]))}, expected {expected}; name another feature with columns"
        )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
