"""One column of a text table, parsed with NumPy over the file's bytes: ids, numbers or strings."""

import dataclasses
import re

import numpy as np

from raserec_jax.data.checks import NUMBER_LIMIT, as_numbers
from raserec_jax.data.sources import PathLike, at_line, shown
from raserec_jax.errors import DataError

MAX_ID_BYTES = 256
_MAX_NUMBER_BYTES = 40
_ZERO = np.uint8(ord("0"))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NUMBER_BYTES = np.isin(np.arange(256), list(b"\0+-.0123456789eE"))


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column of a table: where each field lies in `buffer`.

    Attributes:
      path, name: for messages.
      buffer: [bytes] uint8.
      starts, lengths: [rows] int64.
      lines: [rows] line of the file at which each row starts, from 1.
    """

    path: PathLike
    name: str
    buffer: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    lines: np.ndarray

    def text(self, row: int | np.integer) -> str:
        """The field of a row as it stands in the file."""
        start = self.starts[row]
        return self.buffer[start : start + self.lengths[row]].tobytes().decode("utf-8")

    def strings(self) -> list[str]:
        """All fields, as str."""
        content = self.buffer.tobytes()
        ends = (self.starts + self.lengths).tolist()
        return [
            content[a:b].decode("utf-8") for a, b in zip(self.starts.tolist(), ends, strict=True)
        ]

    def ids(self) -> np.ndarray:
        """[rows] int64 if all fields are integers in their usual spelling, else UTF-8 bytes (`S`).

        Raises:
          DataError: an id is empty or longer than 256 bytes.
        """
        blank = (self.lengths == 0) | (self.buffer[self.starts] <= ord(" "))
        for row in np.flatnonzero(blank).tolist():
            if not self.text(row).strip():
                raise self.error(row, "an id", "fill it in or drop the row")
        long = np.flatnonzero(self.lengths > MAX_ID_BYTES)
        if long.size:
            raise self.error(
                long[0], f"an id of at most {MAX_ID_BYTES} bytes", "is this a column of text?"
            )
        integers = self._integers()
        return self._byte_strings() if integers is None else integers

    def numbers(self) -> np.ndarray:
        """[rows] int64 if all fields are whole numbers, else float64.

        Raises:
          DataError: a field is no finite number below 2**63.
        """
        integers = self._integers()
        if integers is not None:
            return integers
        values = self._floats()
        huge = np.flatnonzero(~(np.abs(values) < NUMBER_LIMIT))
        if huge.size:
            raise self.error(huge[0], "a finite number below 2**63", "repair or drop the row")
        return as_numbers(values, self.name)

    def error(self, row: int | np.integer, expected: str, way_out: str) -> DataError:
        """The error about one field, to be raised."""
        place = f"{at_line(self.path, int(self.lines[row]))}, column {self.name!r}"
        return DataError(f"{place}: found {shown(self.text(row))}, expected {expected}; {way_out}")

    def _integers(self) -> np.ndarray | None:
        """[rows] int64 if every field is the usual spelling of one, else None: "007" is not."""
        last = self.buffer.size - 1
        negative = self.buffer[self.starts] == ord("-")
        starts, digits = self.starts + negative, self.lengths - negative
        if digits.min() < 1 or digits.max() > 19:  # 19 digits fit uint64
            return None
        leading_zero = self.buffer[np.minimum(starts, last)] == _ZERO
        if np.any(leading_zero & ((digits > 1) | negative)):
            return None
        values = np.zeros(starts.shape, np.uint64)
        for place in range(int(digits.max())):
            used = digits > place
            digit = self.buffer[np.minimum(starts + place, last)] - _ZERO  # wraps below "0"
            if np.any(digit[used] > 9):
                return None
            values = np.where(used, values * np.uint64(10) + digit, values)
        if values.max() > np.iinfo(np.int64).max:
            return None
        signed = values.astype(np.int64)
        return np.where(negative, -signed, signed)

    def _byte_strings(self) -> np.ndarray:
        """[rows] `S`, padded with NUL, which the text never holds."""
        matrix = np.zeros((self.starts.size, max(int(self.lengths.max()), 1)), np.uint8)
        for place in range(matrix.shape[1]):
            rows = np.flatnonzero(self.lengths > place)
            matrix[rows, place] = self.buffer[self.starts[rows] + place]
        return matrix.view(f"S{matrix.shape[1]}")[:, 0]

    def _floats(self) -> np.ndarray:
        if self.lengths.max() <= _MAX_NUMBER_BYTES and self.lengths.min() > 0:
            strings = self._byte_strings()
            # The alphabet keeps out "nan", "inf", "1_000" and blanks, which NumPy would accept.
            if _NUMBER_BYTES[np.frombuffer(strings.tobytes(), np.uint8)].all():
                try:
                    with np.errstate(over="ignore"):  # "1e999" is told by the caller
                        return strings.astype(np.float64)
                except ValueError:
                    pass  # such as "1-2": found below
        row = next(row for row, field in enumerate(self.strings()) if not _is_number(field))
        raise self.error(row, "a number", "dates must be seconds; repair or drop the row")


def _is_number(field: str) -> bool:
    return len(field) <= _MAX_NUMBER_BYTES and _NUMBER.fullmatch(field) is not None
