"""Windows of time after training, and what is asked in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import global_time
from raserec_jax.data.time_windows import window_split, windows_after
from raserec_jax.errors import ConfigError, DataError


def _log(seed=0, users=30, length=12, instants=200):
    draw = np.random.default_rng(seed)
    times = np.sort(draw.integers(0, instants, (users, length)), axis=1) + 1_400_000_000
    return InteractionLog.from_columns(
        np.repeat(np.arange(users), length),
        draw.integers(1, 20, users * length),
        timestamp=times.reshape(-1),
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 6), instants=st.integers(30, 300))
def test_windows_cover_what_follows_and_ask_only_about_their_own_time(seed, count, instants):
    log = _log(seed, instants=instants)
    split = global_time(log, (0.5, 0.6))
    cut = split.notes["test_from"]
    windows = windows_after(log, cut, count)
    assert 1 <= len(windows) <= count
    assert windows[0].since == cut
    assert windows[-1].until > log.timestamps.max()
    for one, following in zip(windows, windows[1:], strict=False):
        assert one.until == following.since
        assert one.days < following.days
    for window in windows:
        own = window_split(split, window)
        for user in range(log.num_users):
            times = log.timestamps[log.offsets[user] : log.offsets[user] + log.lengths[user]]
            inside = np.flatnonzero((times >= window.since) & (times < window.until))
            expected = inside[0] if len(inside) and inside[0] > 0 else -1
            assert own.test_position[user] == expected
            known = max(int(np.sum(times < window.since)), int(split.train_end[user]))
            assert own.memory_end[user] == known
        np.testing.assert_array_equal(own.train_end, split.train_end)


def test_days_are_counted_in_the_unit_of_the_times():
    log = InteractionLog.from_columns(
        [0, 0, 0, 1, 1, 1],
        [1, 2, 3, 1, 2, 3],
        timestamp=np.array([0, 1, 2, 0, 1, 2]) * 86_400_000 + 1.4e12,
    )  # milliseconds
    (window,) = windows_after(log, 1.4e12, 1)
    assert window.days == pytest.approx(1.0)


def test_what_has_no_windows_says_so():
    log = _log()
    with pytest.raises(ConfigError, match="windows=0 should be at least 1"):
        windows_after(log, 0.0, 0)
    with pytest.raises(
        DataError, match="no interaction at or after 2000000000; take an earlier cut"
    ):
        windows_after(log, 2e9, 3)
    bare = InteractionLog.from_columns([0, 0], [1, 2])
    with pytest.raises(DataError, match="has no times"):
        windows_after(bare, 0.0, 3)
