"""Bounds in time: ISO dates against seconds, milli-, micro- and nanoseconds, and numbers as they are."""

import datetime

import numpy as np
import pytest

from raserec_jax.data.dates import Bound, in_words, parse_bound, usual_size
from raserec_jax.errors import ConfigError

DAY = 86_400
# 2014-07-22 23:59:59, 2014-07-23 00:00:00, 12:00:00, 23:59:59, 2014-07-24 00:00:00
TIMES = np.array([0, 1, 1 + DAY // 2, DAY, DAY + 1]) + 1_406_073_599


def held(value, times, *, is_end=False, name="to_date"):
    return Bound(name, parse_bound(name, value), is_end).holds(times, usual_size(times)).tolist()


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
@pytest.mark.parametrize(
    ("value", "is_end", "expected"),
    [
        ("2014-07-23", False, [0, 1, 1, 1, 1]),
        ("2014-07-23", True, [1, 1, 1, 1, 0]),  # the whole day
        ("2014-07-23T12:00:00", False, [0, 0, 1, 1, 1]),
        ("2014-07-23 12:00", True, [1, 1, 1, 0, 0]),  # that very instant, and no later
        ("2014-07-23T12:00:00Z", True, [1, 1, 1, 0, 0]),
        ("2014-07-23T14:00:00+02:00", True, [1, 1, 1, 0, 0]),
        ("1850-01-01", False, [1, 1, 1, 1, 1]),
        ("9999-12-31", True, [1, 1, 1, 1, 1]),
    ],
)
def test_iso_dates_in_every_unit(value, is_end, expected, unit):
    assert held(value, TIMES * unit, is_end=is_end) == [bool(kept) for kept in expected]
    if unit < 10**9:
        assert held(value, TIMES * float(unit), is_end=is_end) == [bool(kept) for kept in expected]


def test_a_wild_time_does_not_change_the_unit():
    times = np.concatenate([TIMES, [0, -5, 2**62]])
    assert held("2014-07-23", times) == [False, True, True, True, True, False, False, True]


def test_fractions_of_a_second():
    times = TIMES[:1] + np.array([0.25, 0.5, 0.75])
    assert held("2014-07-22T23:59:59.500", times) == [False, True, True]
    assert held("2014-07-22T23:59:59.500", times, is_end=True) == [True, True, False]


@pytest.mark.parametrize("value", [3, 3.0, "3", " 3", "3e0"])
def test_numbers_are_in_the_unit_of_the_file(value):
    times = np.array([2, 3, 4])
    assert held(value, times) == [False, True, True]
    assert held(value, times, is_end=True) == [True, True, False]
    assert held("1406073600", TIMES) == [False, True, True, True, True]
    assert held(str(10**40), TIMES, is_end=True) == [True] * 5


@pytest.mark.parametrize("value", ["2014", "20140723", 2014.0])
def test_a_year_is_no_time(value):
    with pytest.raises(
        ConfigError, match=r"to_date=2014.* is no time like those of the file, such as 14"
    ):
        held(value, TIMES)


def test_dates_need_times_since_1970():
    with pytest.raises(
        ConfigError,
        match="to_date=2014-07-23, but the file's times, such as 49.5, are not since 1970",
    ):
        held("2014-07-23", np.arange(100))


@pytest.mark.parametrize(
    "value",
    ["May", "2014-13-01", "23/07/2014", "nan", "inf", float("nan"), "2014-07-23T", "0000-01-01"],
)
def test_no_date(value):
    with pytest.raises(
        ConfigError, match=r"from_date=.* is not usable; expected an ISO date or time such as"
    ):
        parse_bound("from_date", value)


def test_no_bound_and_utc():
    assert parse_bound("from_date", None) is parse_bound("from_date", "") is None
    assert parse_bound("from_date", "2014-07-23T10:00").tzinfo is datetime.UTC


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (np.int64(12), "12"),
        (np.int64(1_406_073_600), "1406073600 (2014-07-23)"),
        (np.float64(1_406_073_600_500.0), "1406073600500 (2014-07-23)"),
        (np.int64(-(2**62)), "-4611686018427387904 (1823-11-12)"),
    ],
)
def test_times_in_words(time, expected):
    assert in_words(time) == expected
