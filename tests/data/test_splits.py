"""Leave-one-out: by hand and its invariants."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import leave_one_out


def split_of(lengths):
    users = np.repeat(np.arange(len(lengths)), lengths)
    return leave_one_out(InteractionLog.from_columns(users, np.arange(len(users))))


def test_by_hand():
    split = split_of([1, 2, 3, 5])
    assert split.train_end.tolist() == [1, 2, 1, 3]
    assert split.valid_position.tolist() == [-1, -1, 1, 3]
    assert split.test_position.tolist() == [-1, -1, 2, 4]
    assert split.name == "leave_one_out"
    assert {a.dtype for a in split[1:4]} == {np.dtype(np.int32)}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_every_place_has_one_use(lengths):
    split = split_of(lengths)
    for user, length in enumerate(lengths):
        places = [*range(split.train_end[user])]
        places += [int(p) for p in (split.valid_position[user], split.test_position[user])]
        assert sorted(place for place in places if place >= 0) == [*range(length)]
        assert (split.test_position[user] >= 0) == (length >= 3)
