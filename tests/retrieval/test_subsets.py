"""Bank subsets against masks written out in NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.errors import DataError
from raserec_jax.retrieval.subsets import Subset, kept_entries, kept_users


def columns(rows, seed, users=6):
    draw = np.random.default_rng(seed)
    return (
        draw.integers(1, 12, rows).astype(np.int32),
        draw.integers(0, users, rows).astype(np.int32),
        draw.integers(0, 9, rows).astype(np.int32),
    )


ALL = np.ones(6, bool)


def test_the_defaults_keep_everything():
    assert kept_entries(Subset(), *columns(30, 0), ALL).all()
    assert kept_entries(Subset(), *columns(30, 0)[:2], None, ALL).all()
    assert kept_users(9, 1.0, seed=0).all()


@given(
    low=st.integers(0, 6), high=st.integers(6, 12), outside=st.booleans(), seed=st.integers(0, 99)
)
def test_lengths_are_bounded_inclusively(low, high, outside, seed):
    lengths, user_ids, times = columns(40, seed)
    inside = (lengths >= low) & (lengths <= high)
    expected = ~inside if outside else inside
    subset = Subset(min_length=low, max_length=high, outside_lengths=outside)
    if expected.any():
        np.testing.assert_array_equal(kept_entries(subset, lengths, user_ids, times, ALL), expected)
    else:
        with pytest.raises(DataError, match="the memory bank is empty: of 40 histories none"):
            kept_entries(subset, lengths, user_ids, times, ALL)


def test_no_upper_bound():
    lengths, user_ids, times = columns(40, 1)
    found = kept_entries(Subset(min_length=5), lengths, user_ids, times, ALL)
    np.testing.assert_array_equal(found, lengths >= 5)


@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_the_newest_are_the_newest(share, seed):
    lengths, user_ids, times = columns(40, seed)
    found = kept_entries(Subset(newest_share=share), lengths, user_ids, times, ALL)
    assert found.sum() == np.ceil(share * 40)
    if not found.all():
        age = times * 1000 + np.arange(40)  # on equal times the later rows
        assert age[found].min() > age[~found].max()


def test_age_is_a_share_of_what_is_left():
    lengths, user_ids, times = columns(40, 3)
    subset = Subset(min_length=4, newest_share=0.5)
    found = kept_entries(subset, lengths, user_ids, times, ALL)
    assert (lengths[found] >= 4).all()
    assert found.sum() == np.ceil((lengths >= 4).sum() / 2)


def test_users_are_drawn_by_seed():
    first, again, other = (kept_users(100, 0.3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.sum() == other.sum() == 30 and (first != other).any()
    assert kept_users(100, 1e-6, seed=0).sum() == 1
    lengths, user_ids, times = columns(40, 0)
    users = kept_users(6, 0.5, seed=2)
    found = kept_entries(Subset(user_share=0.5), lengths, user_ids, times, users)
    np.testing.assert_array_equal(found, np.isin(user_ids, np.flatnonzero(users)))


def test_what_is_refused():
    lengths, user_ids, _ = columns(40, 0)
    with pytest.raises(DataError, match="newest_share=0.5 needs times but the log has none"):
        kept_entries(Subset(newest_share=0.5), lengths, user_ids, None, ALL)
    with pytest.raises(DataError, match="none is left by config.memory.min_length=50; widen"):
        kept_entries(Subset(min_length=50), lengths, user_ids, None, ALL)
