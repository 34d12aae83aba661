"""Splits: by hand, their invariants, and the global one against a loop over users."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import global_time, leave_one_out
from raserec_jax.errors import ConfigError, DataError


def split_of(lengths):
    users = np.repeat(np.arange(len(lengths)), lengths)
    return leave_one_out(InteractionLog.from_columns(users, np.arange(len(users))))


def test_by_hand():
    split = split_of([1, 2, 3, 5])
    assert split.train_end.tolist() == [1, 2, 1, 3]
    assert split.valid_position.tolist() == [-1, -1, 1, 3]
    assert split.test_position.tolist() == [-1, -1, 2, 4]
    assert split.memory_end.tolist() == [1, 2, 2, 4]
    assert split.name == "leave_one_out"
    assert {a.dtype for a in split[1:5]} == {np.dtype(np.int32)}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_every_place_has_one_use(lengths):
    split = split_of(lengths)
    for user, length in enumerate(lengths):
        places = [*range(split.train_end[user])]
        places += [int(p) for p in (split.valid_position[user], split.test_position[user])]
        assert sorted(place for place in places if place >= 0) == [*range(length)]
        assert (split.test_position[user] >= 0) == (length >= 3)


def timed_log(rows):
    """(user, item, time) rows -> log."""
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return InteractionLog.from_columns(users, items, timestamp=times, name="timed")


BY_HAND = [
    *[("a", "x", 1), ("a", "y", 2), ("a", "x", 10), ("a", "z", 12), ("a", "y", 20)],
    *[("b", "x", 3), ("b", "y", 9), ("b", "new", 25)],
    *[("c", "y", 11), ("c", "z", 13), ("c", "x", 21)],  # cold: nothing before 10
    *[("d", "y", 22)],  # cold, and without any history
]


def test_global_time_by_hand():
    split = global_time(timed_log(BY_HAND), (10, 20))
    assert split.train_end.tolist() == [2, 2, 0, 0]
    assert split.valid_position.tolist() == [2, -1, -1, -1]
    assert split.test_position.tolist() == [4, 2, 2, -1]
    assert split.memory_end.tolist() == [4, 2, 2, 0]
    assert {array.dtype for array in split[1:5]} == {np.dtype(np.int32)}
    notes = split.notes
    assert (notes["cold_users"], notes["cold_items"]) == (2, 2)  # z and new
    assert (notes["valid_without_history"], notes["test_without_history"]) == (1, 1)
    assert (notes["test_queries"], notes["test_cold_item_targets"]) == (3, 1)
    assert notes["test_cold_user_queries"] == 1


def test_one_instant_gives_the_next_two_items():
    split = global_time(timed_log(BY_HAND), (10,))
    assert split.train_end.tolist() == [2, 2, 0, 0]
    assert split.valid_position.tolist() == [2, 2, -1, -1]
    assert split.test_position.tolist() == [3, -1, 1, -1]
    assert split.memory_end.tolist() == [3, 3, 1, 1]
    assert split.notes["valid_from"] == split.notes["test_from"] == 10


def test_cold_queries_are_dropped_on_request():
    log = timed_log(BY_HAND)
    split = global_time(log, (10, 20), cold_items="drop")
    assert split.test_position.tolist() == [4, -1, 2, -1]
    split = global_time(log, (10, 20), cold_users="drop")
    assert split.test_position.tolist() == [4, 2, -1, -1]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 12)), min_size=1, max_size=40
    ),
    st.sampled_from([(4, 8), (1, 2), (0.5, 0.75), (12, 13)]),
)
def test_nothing_after_an_instant_is_on_the_other_side(rows, times):
    log = timed_log(rows)
    try:
        split = global_time(log, times)
    except DataError:
        return
    valid_from, test_from = split.notes["valid_from"], split.notes["test_from"]
    for user in range(log.num_users):
        mine = log.timestamps[log.offsets[user] : log.offsets[user + 1]]
        assert split.train_end[user] == np.sum(mine < valid_from)
        assert split.memory_end[user] == np.sum(mine < test_from)
        for positions, begin, end in (
            (split.valid_position, valid_from, test_from),
            (split.test_position, test_from, np.inf),
        ):
            inside = np.flatnonzero((mine >= begin) & (mine < end))
            expected = inside[0] if len(inside) and inside[0] > 0 else -1
            assert positions[user] == expected


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 12)), min_size=1, max_size=40
    ),
    st.sampled_from([(4,), (0.5,), (12.5,)]),
)
def test_one_instant_keeps_what_is_before_it_for_training(rows, times):
    log = timed_log(rows)
    try:
        split = global_time(log, times)
    except DataError:
        return
    instant = split.notes["valid_from"]
    for user in range(log.num_users):
        mine = log.timestamps[log.offsets[user] : log.offsets[user + 1]]
        before = int(np.sum(mine < instant))
        assert split.train_end[user] == before
        assert split.valid_position[user] == (before if 0 < before < len(mine) else -1)
        assert split.test_position[user] == (before + 1 if before + 1 < len(mine) else -1)
        assert split.memory_end[user] == min(before + 1, len(mine))


def test_what_cannot_be_split_by_time_is_refused():
    log = timed_log(BY_HAND)
    with pytest.raises(ConfigError, match="split_times=.* should be one number or two rising"):
        global_time(log, (20, 10))
    with pytest.raises(DataError, match="leaves no test query in timed"):
        global_time(log, (10, 99))
    with pytest.raises(ConfigError, match="cold_users='maybe' is unknown"):
        global_time(log, (10, 20), cold_users="maybe")
    without = InteractionLog.from_columns(np.array(["a", "a"]), np.array(["x", "y"]))
    with pytest.raises(DataError, match="needs times but .* has none"):
        global_time(without)
