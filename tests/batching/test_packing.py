"""Packing: nothing overlaps, nothing is lost, and little is padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.batching.packing import (
    best_fit,
    default_row_len,
    gather_items,
    pack_on_device,
    pack_on_host,
    rows_needed,
)
from raserec_jax.batching.windows import Windows
from tests.quick_jit import quick_jit

ROW_LEN = 16


def windows_of(lengths, targets=None):
    """Windows of a flat array in which each history is followed by one more item."""
    lengths = np.array(lengths, np.int32)
    starts = np.cumsum(lengths + 1) - lengths - 1
    targets = np.ones_like(lengths) if targets is None else np.array(targets, np.int32)
    return Windows(starts.astype(np.int32), lengths, targets)


def check_rows(rows, starts, lengths):
    """Each window lies whole and once in one row, apart from its neighbours; the rest is padding."""
    places, segments, positions = (np.asarray(field) for field in rows[:3])
    assert {field.dtype for field in (places, segments, positions)} == {np.dtype(np.int32)}
    found = []
    for row in range(places.shape[0]):
        edges = np.flatnonzero(np.diff(segments[row], prepend=-1, append=-1))
        for first, end in zip(edges[:-1], edges[1:], strict=True):  # runs of one segment id
            run = slice(first, end)
            if segments[row, first] == 0:
                assert (places[row, run] == -1).all() and (positions[row, run] == 0).all()
                continue
            np.testing.assert_array_equal(positions[row, run], np.arange(end - first))
            np.testing.assert_array_equal(
                places[row, run] - positions[row, run], places[row, first]
            )
            found.append((places[row, first], end - first))
        ids = segments[row][edges[:-1]]
        assert len(set(ids[ids > 0])) == (ids > 0).sum(), "a segment is not contiguous"
    expected = [pair for pair in zip(starts.tolist(), lengths.tolist(), strict=True) if pair[1]]
    assert sorted(found) == sorted(expected)


@given(st.data())
def test_host_packing(data):
    lengths = data.draw(st.lists(st.integers(1, ROW_LEN), min_size=1, max_size=30))
    targets = [data.draw(st.integers(1, length)) for length in lengths]
    windows = windows_of(lengths, targets)
    rows = pack_on_host(windows, ROW_LEN, np.random.default_rng(data.draw(st.integers(0, 9))))
    check_rows(rows, windows.starts, windows.lengths)
    read = [
        start + offset
        for start, length, count in zip(*windows, strict=True)
        for offset in range(length - count, length)
    ]
    np.testing.assert_array_equal(rows.token_places[rows.read_rows, rows.read_columns], read)


def test_host_packing_fills_its_rows():
    # Beauty's training histories: at least three, 6.9 on average, few of them long.
    draw = np.random.default_rng(0)
    lengths = np.minimum(2 + draw.geometric(0.2, 3000), 50)
    for row_len in (50, 64):
        rows = pack_on_host(windows_of(lengths), row_len, np.random.default_rng(1))
        assert (rows.segment_ids > 0).mean() >= 0.95


def movie_lengths():
    """As MovieLens-100K's in windows of 200: a fifth of the histories and two thirds of the windows' items in full
    windows, which leave little room in a row of 224, and few windows that fit there."""
    draw = np.random.default_rng(0)
    lengths = np.exp(draw.normal(4.2, 0.9, 900)).astype(int).clip(17, 737)
    windows = [np.minimum(lengths, 200)]
    for _ in range(3):  # a long history goes on in windows of 200
        lengths = lengths[lengths > 200] - 100
        windows.append(np.minimum(lengths, 200))
    return np.concatenate(windows)


@pytest.mark.parametrize(
    ("lengths", "row_len"),
    [
        (movie_lengths(), 224),
        (np.exp(np.random.default_rng(1).normal(4.5, 1.2, 4000)).astype(int).clip(2, 2000), 2016),
    ],
    ids=["movies", "to_2000"],
)
def test_host_packing_fills_rows_of_long_histories(lengths, row_len):
    windows = windows_of(lengths)
    rows = pack_on_host(windows, row_len, np.random.default_rng(1))
    check_rows(rows, windows.starts, windows.lengths)
    assert (rows.segment_ids > 0).mean() >= 0.95
    again = pack_on_host(windows, row_len, np.random.default_rng(1))
    np.testing.assert_array_equal(rows.token_places, again.token_places)


def test_the_longest_go_first_where_that_saves_rows():
    lengths = np.array([3, 3, 3, 3, 7, 7, 7, 7])
    wasteful = [
        seed
        for seed in range(20)
        if best_fit(np.random.default_rng(seed).permutation(lengths), 10)[2] > 4
    ]
    assert wasteful
    for seed in wasteful:
        rows = pack_on_host(windows_of(lengths), 10, np.random.default_rng(seed))
        assert len(rows.token_places) == 4


def test_host_packing_mixes_its_rows():
    windows = windows_of(np.full(64, 4))
    rows = pack_on_host(windows, ROW_LEN, np.random.default_rng(0))
    first = rows.token_places[:, 0].tolist()
    assert first != sorted(first)
    again = pack_on_host(windows, ROW_LEN, np.random.default_rng(0))
    np.testing.assert_array_equal(rows.token_places, again.token_places)


def test_best_fit_takes_the_fullest_row_with_room():
    rows, columns, count = best_fit(np.array([6, 3, 4, 3, 7]), 10)
    assert rows.tolist() == [0, 0, 1, 1, 2]
    assert columns.tolist() == [0, 6, 0, 4, 0]
    assert count == 3


def test_a_window_beyond_the_row_is_refused():
    with pytest.raises(ValueError, match="a window of 17 items does not fit row_len=16"):
        best_fit(np.array([3, 17]), ROW_LEN)


@pytest.mark.parametrize(
    ("max_len", "row_len"), [(1, 32), (32, 32), (33, 64), (50, 64), (200, 224)]
)
def test_default_row_len(max_len, row_len):
    assert default_row_len(max_len) == row_len


pack_six_rows = quick_jit(lambda starts, lengths: pack_on_device(starts, lengths, 6, ROW_LEN))


@given(st.lists(st.integers(0, ROW_LEN), min_size=12, max_size=12))
def test_device_packing(lengths):
    windows = windows_of(lengths)
    rows, fits = pack_six_rows(windows.starts, windows.lengths)
    rows, fits = jax.tree.map(np.asarray, (rows, fits))
    check_rows(rows, windows.starts[fits], windows.lengths[fits])
    real = fits & (windows.lengths > 0)
    read = rows.token_places[rows.read_rows, rows.read_columns]
    np.testing.assert_array_equal(read[real], (windows.starts + windows.lengths - 1)[real])
    # What is said not to fit finds no room anywhere, and reads a place that exists.
    room = ROW_LEN - (rows.segment_ids > 0).sum(axis=1)
    assert (windows.lengths[~fits] > room.max()).all()
    assert ((rows.read_rows[~fits] == 0) & (rows.read_columns[~fits] == 0)).all()


def test_device_packing_reports_what_does_not_fit():
    windows = windows_of([16] * 5 + [9, 8, 8, 0, 7, 1, 1])
    rows, fits = pack_six_rows(windows.starts, windows.lengths)
    assert np.asarray(fits).tolist() == [True] * 6 + [False, False, True, True, False, False]
    assert (np.asarray(rows.segment_ids) > 0).all()


@pytest.mark.parametrize("count", [1, 40, 256])
def test_rows_needed_is_enough_for_other_draws(count):
    draw = np.random.default_rng(5)
    lengths = np.minimum(draw.geometric(0.2, 2000), 48)
    needed = rows_needed(lengths, count, 64)
    used = [
        best_fit(-np.sort(-draw.choice(lengths, size=count, replace=False)), 64)[2]
        for _ in range(60)
    ]
    assert max(used) <= needed <= min(count, 1.3 * max(used) + 2)


def test_gather_items_keeps_padding():
    places = jnp.array([[2, 3, -1], [0, -1, -1]])
    found = gather_items(jnp.array([5, 6, 7, 8]), places)
    np.testing.assert_array_equal(found, [[7, 8, 0], [5, 0, 0]])
