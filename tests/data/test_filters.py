"""Filters: by hand, and against loops over the rows."""

import collections
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data.filters import Filters, between, core, k_core, of_length, without_duplicates
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import ConfigError, DataError


def test_filters_until_nothing_changes():
    # Item 3 goes (one user), then user c has one item left and goes, then item 2 has a and b.
    users = ["a", "a", "b", "b", "c", "c"]
    items = [1, 2, 1, 2, 2, 3]
    log = k_core(InteractionLog.from_columns(users, items, timestamp=[5, 4, 3, 2, 1, 0]), 2)
    assert log.user_labels.tolist() == ["a", "b"]
    assert log.item_labels.tolist() == [0, 1, 2]
    assert log.item_ids.tolist() == [2, 1, 2, 1]
    assert log.timestamps.tolist() == [4, 5, 2, 3]


def naive_k_core(rows, k):
    while True:
        users = collections.Counter(user for user, _ in rows)
        items = collections.Counter(item for _, item in rows)
        kept = [(user, item) for user, item in rows if users[user] >= k and items[item] >= k]
        if len(kept) == len(rows):
            return kept
        rows = kept


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60),
    st.integers(0, 5),
)
def test_equals_a_loop(rows, k):
    rows = sorted(rows, key=lambda row: row[0])
    users, items = zip(*rows, strict=True)
    log = InteractionLog.from_columns(users, items)
    expected = naive_k_core(rows, k)
    if not expected:
        with pytest.raises(DataError, match="no user left"):
            k_core(log, k)
        return
    core = k_core(log, k)
    found = zip(core.user_labels[core.user_ids], core.labels_of(core.item_ids), strict=True)
    assert [(int(user), int(item)) for user, item in found] == expected
    assert core.lengths.min() >= k
    assert np.bincount(core.item_ids)[1:].min() >= k
    assert k_core(core, k) is core


def test_small_k_keeps_everything_and_large_k_is_refused():
    log = InteractionLog.from_columns([1, 1, 2], [4, 5, 4], name="shop")
    assert k_core(log, 1) is log
    assert k_core(log, 0) is log
    message = r"shop: no user left with at least 5 interactions and .* a user has 2, an item 2.*min_interactions"
    with pytest.raises(DataError, match=message):
        k_core(log)


def rows_of(log):
    """(user, item, time) of each row, by original ids."""
    items = log.labels_of(log.item_ids).tolist()
    times = [None] * len(items) if log.timestamps is None else log.timestamps.tolist()
    return list(zip(log.user_labels[log.user_ids].tolist(), items, times, strict=True))


def log_of(rows):
    users, items, times = zip(*rows, strict=True)
    return InteractionLog.from_columns(users, items, timestamp=times, name="shop")


ROWS = [("a", 1, 10), ("a", 2, 20), ("a", 1, 30), ("b", 1, 20), ("c", 3, 40), ("c", 3, 40)]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", ROWS),
        ("first", [ROWS[0], ROWS[1], ROWS[3], ROWS[4]]),
        ("last", [ROWS[1], ROWS[2], ROWS[3], ROWS[5]]),
    ],
)
def test_duplicates(keep, expected):
    assert rows_of(without_duplicates(log_of(ROWS), keep)) == expected


many_rows = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60
)


@given(many_rows, st.sampled_from(["first", "last"]))
def test_duplicates_equal_a_loop(rows, keep):
    log = log_of(rows)
    kept = {}
    for row in rows_of(log):
        if keep == "first":
            kept.setdefault(row[:2], row)
        else:
            kept.pop(row[:2], None)
            kept[row[:2]] = row
    expected = sorted(kept.values(), key=lambda row: row[0])  # stable: dicts keep the order
    assert rows_of(without_duplicates(log, keep)) == expected


def test_range_of_time():
    log = log_of(ROWS)
    assert rows_of(between(log, 20, "30")) == [ROWS[1], ROWS[2], ROWS[3]]
    assert rows_of(between(log, None, 10)) == [ROWS[0]]
    assert between(log, None, "") is log
    assert between(log, 10, 40) is log
    with pytest.raises(
        DataError,
        match="shop: no interaction is left with from_date=41 and to_date=5: its times run from 10 to 40",
    ):
        between(log, 41, 5)
    without_times = InteractionLog.from_columns([1], [2], name="shop")
    with pytest.raises(
        DataError, match="shop: to_date is given, but its interactions have no times"
    ):
        between(without_times, None, "2014-01-01")


def test_lengths_of_histories():
    log = log_of(ROWS)
    assert rows_of(of_length(log, 2, 2)) == ROWS[4:]
    assert rows_of(of_length(log, 2)) == [*ROWS[:3], *ROWS[4:]]
    assert of_length(log) is of_length(log, 1, 3) is log
    with pytest.raises(
        DataError,
        match="shop: no user is left with min_history=4 and max_history=none: histories have 1 to 3",
    ):
        of_length(log, 4)


@given(many_rows, st.integers(0, 4), st.integers(0, 4))
def test_core_of_two_numbers_equals_a_loop(rows, per_user, per_item):
    log = log_of(rows)
    expected = rows_of(log)
    while True:
        users = collections.Counter(user for user, *_ in expected)
        items = collections.Counter(item for _, item, _ in expected)
        kept = [row for row in expected if users[row[0]] >= per_user and items[row[1]] >= per_item]
        if kept == expected:
            break
        expected = kept
    if expected:
        assert rows_of(core(log, per_user, per_item)) == expected
    else:
        with pytest.raises(DataError, match="shop: no user left with at least"):
            core(log, per_user, per_item)


def test_filters_apply_in_their_order():
    # Of a's rows, time 10 goes first; then (a, 1) is no duplicate any more.
    filters = Filters(from_date=15, duplicates="first", min_history=2, min_interactions=1)
    assert rows_of(filters.apply(log_of(ROWS))) == [ROWS[1], ROWS[2]]
    # min_history holds after the core too: dropping item 2 leaves user a with two interactions.
    rows = [("a", 1, 1), ("a", 1, 2), ("a", 2, 3), ("b", 1, 1), ("b", 1, 2), ("b", 1, 3)]
    filters = Filters(min_history=3, min_interactions=2)
    assert rows_of(filters.apply(log_of(rows))) == rows[3:]


def test_default_filters_are_the_five_core():
    log = log_of([(user, item, 0) for user in range(5) for item in range(5)] + [(9, 0, 0)])
    assert Filters().apply(log).fingerprint() == k_core(log, 5).fingerprint()
    assert Filters().title() == "5-core"
    assert Filters(min_interactions=1, from_date="").title() == "1-core"
    assert Filters(duplicates="last").title() == "filtered"


def test_filters_from_flags():
    assert Filters(min_rating="", from_date="", to_date="") == Filters()
    assert Filters(min_rating="3.5").min_rating == Filters(min_rating=3.5).min_rating == 3.5
    settings = types.SimpleNamespace(**{**vars(Filters()), "min_rating": "4", "dataset": "x"})
    assert Filters.of(settings) == Filters(min_rating=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_rating": "high"}, "min_rating='high' is not usable; expected a number such as 4"),
        ({"min_rating": float("nan")}, "min_rating=nan is not usable"),
        ({"from_date": "May"}, "from_date='May' is not usable; expected an ISO date"),
        (
            {"duplicates": "none"},
            "duplicates='none' is not usable; expected one of all, first, last",
        ),
        ({"min_history": 0}, r"min_history=0, expected at least 1 \(1 keeps everything\)"),
        ({"max_history": -1}, r"max_history=-1, expected at least 0 \(0 no limit\)"),
        (
            {"min_interactions": 0},
            r"min_interactions=0, expected at least 1 \(1 keeps everything\)",
        ),
        ({"min_history": 3, "max_history": 2}, "max_history=2 is below min_history=3, so nobody"),
    ],
)
def test_unusable_filters(changes, message):
    with pytest.raises(ConfigError, match=message):
        Filters(**changes)
