"""One column of a table, as far as it was read: ids, numbers or strings, parsed with NumPy over the text's bytes."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from raserec_jax.data.checks import NUMBER_LIMIT
from raserec_jax.data.sources import PathLike, shown
from raserec_jax.errors import DataError

MAX_ID_BYTES = 256
_MAX_NUMBER_BYTES = 40
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NUMBER_BYTES = np.isin(np.arange(256), list(b"\0+-.0123456789eE"))
_WHOLE = 2.0**53  # floats below hold whole numbers exactly


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """Some rows of one column: where each field lies in `buffer`.

    Attributes:
      path, name: for messages.
      buffer: [bytes] uint8, valid UTF-8 without NUL; every start lies within.
      starts, lengths: [rows] int64.
      lines: [rows] where each row starts in the file, from 1.
      unit: what `lines` counts.
    """

    path: PathLike
    name: str
    buffer: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    lines: np.ndarray
    unit: str = "line"

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
        integers, whole = self._integers(or_none=True)
        return integers if whole.all() else self._byte_strings()

    def numbers(self) -> np.ndarray:
        """[rows] int64 if all fields are whole numbers, else float64.

        Integers in their usual spelling are exact; other spellings of whole numbers are, below 2**53.

        Raises:
          DataError: a field is no finite number below 2**63.
        """
        integers, whole = self._integers()
        if whole.all():
            return integers
        floats = self._floats()
        huge = np.flatnonzero(~whole & ~(np.abs(floats) < NUMBER_LIMIT))
        if huge.size:
            raise self.error(huge[0], "a finite number below 2**63", "repair or drop the row")
        if np.all(whole | ((floats == np.floor(floats)) & (np.abs(floats) < _WHOLE))):
            return np.where(whole, integers, np.where(whole, 0.0, floats).astype(np.int64))
        return floats + 0.0  # -0.0 becomes 0.0: equal times have equal bytes

    def error(self, row: int | np.integer, expected: str, way_out: str) -> DataError:
        """The error about one field, to be raised."""
        place = f"{self.path}, {self.unit} {int(self.lines[row])}, column {self.name!r:.80}"
        return DataError(f"{place}: found {shown(self.text(row))}, expected {expected}; {way_out}")

    def _integers(self, or_none: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Values [rows] int64, and where fields are the usual spelling of one [rows] bool: "007" is not.

        With `or_none` the values mean nothing unless all fields are.
        """
        first = self._word(self.starts, self.lengths)
        negative = first >> np.uint64(56) == ord("-")
        starts, digits = self.starts + negative, self.lengths - negative
        whole = (digits >= 1) & (digits <= 19)  # 19 digits fit uint64
        values = np.zeros(starts.shape, np.uint64)
        for place in range(0, max(min(int(digits.max()), 19), 1), 8):
            if or_none and not whole.all():
                break
            count = np.clip(digits - place, 0, 8)
            word = self._word(starts + place, count) if place or negative.any() else first
            if not place:
                leading_zero = word >> np.uint64(56) == ord("0")
                whole &= ~(leading_zero & ((digits > 1) | negative))
            digits_value, are_digits = _digits(word, count)
            whole &= are_digits
            values = values * _POWERS_OF_TEN[count] + digits_value
        whole &= values <= np.iinfo(np.int64).max
        signed = values.view(np.int64)
        return np.where(negative, -signed, signed) if negative.any() else signed, whole

    def _byte_strings(self) -> np.ndarray:
        """[rows] `S` of a multiple of 8 bytes, padded with NUL, which the text never holds."""
        words = max(-(-int(self.lengths.max()) // 8), 1)
        matrix = np.zeros((self.starts.size, words), ">u8")
        for word in range(words):
            rows = slice(None) if word == 0 else np.flatnonzero(self.lengths > 8 * word)
            starts, lengths = self.starts[rows] + 8 * word, self.lengths[rows] - 8 * word
            matrix[rows, word] = self._word(starts, lengths)
        return matrix.view(f"S{8 * words}")[:, 0]

    def _word(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Up to 8 bytes of each field as one number, the first byte highest, 0 beyond the field's end."""
        words = self._at_any_byte[np.minimum(starts, self.buffer.size)].astype(np.uint64)
        return words & _FIRST_BYTES[np.clip(lengths, 0, 8)]

    @functools.cached_property
    def _at_any_byte(self) -> np.ndarray:
        """[bytes + 1] the 8 bytes from each byte on, as one number."""
        padded = np.concatenate([self.buffer, np.zeros(8, np.uint8)])
        return np.ndarray(padded.size - 7, ">u8", padded, strides=(1,))

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


def _digits(words: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that the first `counts` bytes of each word spell, and whether all of those bytes are digits.

    All eight bytes of a word at once: as many additions for eight digits as for one.
    """
    shift = np.minimum(8 * (8 - counts), 63)  # 64 is undefined; without digits the word is 0 anyway
    each = (words >> shift.astype(np.uint64)) - _ZEROS[counts]
    # A byte below "0" has borrowed and one of 10 or more carries: either sets the highest bit of it.
    are_digits = ((each + _EACH_118) | each) & _EACH_128 == 0
    pairs = (each >> np.uint64(8) & _LOW_8) * np.uint64(10) + (each & _LOW_8)
    fours = (pairs >> np.uint64(16) & _LOW_16) * np.uint64(100) + (pairs & _LOW_16)
    return (fours >> np.uint64(32)) * np.uint64(10_000) + (fours & _LOW_32), are_digits


_EACH_118, _EACH_128 = np.uint64(0x7676767676767676), np.uint64(0x8080808080808080)
_LOW_8, _LOW_16 = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
_LOW_32 = np.uint64(0x00000000FFFFFFFF)
_ZEROS = np.array([int("30" * n or "0", 16) for n in range(9)], np.uint64)
_POWERS_OF_TEN = np.array([10**n for n in range(9)], np.uint64)
_FIRST_BYTES = np.array([(2**64 - 1) << (8 * (8 - n)) & (2**64 - 1) for n in range(9)], np.uint64)


def column_of_strings(
    path: PathLike, name: str, values: Sequence[str], lines: np.ndarray, unit: str = "line"
) -> Column:
    """A column of str, encoded.

    Raises:
      DataError: a value holds a NUL or half a character.
    """
    return Column(path, name, *encoded(path, values, lines, unit), lines, unit)


def encoded(
    path: PathLike, values: Sequence[str], lines: np.ndarray, unit: str = "line"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The buffer, starts and lengths of a `Column`; several values may share a line.

    Raises:
      DataError: as `column_of_strings`.
    """
    # A line break after each field: an empty one at the end, too, must start within the buffer.
    try:
        content = ("\n".join(values) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        content = b"\0"
    if b"\0" in content:
        _refuse_wrong_text(path, values, lines, unit)
    buffer = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(buffer == ord("\n"))
    if ends.size != len(values):  # some lie inside of fields
        ends = np.cumsum([len(value.encode("utf-8")) + 1 for value in values], dtype=np.int64) - 1
    lengths = np.diff(ends, prepend=-1) - 1
    return buffer, ends - lengths, lengths


def _refuse_wrong_text(path: PathLike, values: Sequence[str], lines: np.ndarray, unit: str) -> None:
    for place, value in enumerate(values):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            line = int(lines[place * len(lines) // len(values)])
            raise DataError(
                f"{path}, {unit} {line}: found {shown(value)}, expected text without NUL or half "
                "characters; repair or drop the row"
            )


def _is_number(field: str) -> bool:
    return len(field) <= _MAX_NUMBER_BYTES and _NUMBER.fullmatch(field) is not None
