"""Fields parsed with NumPy: equal to Python's own parsing, one by one."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raserec_jax.data.columns import column_of_strings
from raserec_jax.errors import DataError


def column(values):
    return column_of_strings("file", "name", values, np.arange(1, len(values) + 1))


def is_canonical(field):
    digits = field.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(field)) == field


integers = st.integers(-(2**63) + 1, 2**63 - 1).map(str) | st.integers(-9, 99).map(str)
near_integers = st.text("0123456789-+. ", min_size=1, max_size=22).filter(str.strip)


@settings(max_examples=300)
@given(st.lists(integers | near_integers, min_size=1, max_size=5))
@example(["9223372036854775807", "-9223372036854775807", "-0"])
@example(["9223372036854775808"])
@example(["18446744073709551617"])  # 2**64 + 1
@example(["99999999999999999999999999"])
@example(["-", "1"])
@example(["/", ":"])  # the neighbours of the digits
@example(["1/", "1:", "12345678:"])
def test_ids_are_integers_where_all_are_in_their_usual_spelling(values):
    ids = column(values).ids()
    canonical = [is_canonical(value) and abs(int(value)) < 2**63 for value in values]
    if all(canonical):
        assert ids.tolist() == list(map(int, values))
        assert ids.dtype == np.int64
    else:
        assert ids.tolist() == [value.encode() for value in values]


@settings(max_examples=200)
@example(["9223372036854775807", "1.0"])  # as a float it would be 2**63
@given(
    st.lists(
        integers | st.floats(-1e18, 1e18).map(repr) | st.integers(0, 99).map("0{}".format),
        min_size=1,
        max_size=5,
    )
)
def test_numbers_are_exact(values):
    numbers = column(values).numbers()
    parsed = [int(value) if is_canonical(value) else float(value) for value in values]
    whole = [
        isinstance(value, int) or (value.is_integer() and abs(value) < 2**53) for value in parsed
    ]
    assert numbers.dtype == (np.int64 if all(whole) else np.float64)
    assert numbers.tolist() == [(int if all(whole) else float)(value) for value in parsed]


@given(st.lists(st.text(max_size=20).filter(lambda text: "\0" not in text), max_size=6))
def test_strings_come_back(values):
    assert column(values).strings() == values


@pytest.mark.parametrize("wrong", ["a\0b", "\ud800"])
def test_text_that_has_no_utf8_or_holds_nul(wrong):
    with pytest.raises(DataError, match=r"file, line 2: found .* expected text without NUL"):
        column(["a", wrong])


def test_longest_id():
    assert column(["é" * 128]).ids().tolist() == ["é".encode() * 128]
    with pytest.raises(
        DataError, match="line 2, column 'name': found 'x{80}'…, expected an id of at"
    ):
        column(["a", "x" * 257]).ids()
