"""Shuffled rows hold the same, segment by segment."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from raserec_jax.evaluation.shuffling import shuffled_segments


def packed(seed, rows=6, seq=17):
    """Segments of random lengths side by side, some rows with padding at the end."""
    draw = np.random.default_rng(seed)
    segment_ids = np.zeros((rows, seq), np.int32)
    for row in segment_ids:
        column = 0
        while column < seq and draw.random() < 0.8:
            length = int(draw.integers(1, 8))
            row[column : column + length] = column + 1
            column += length
    values = draw.permutation(rows * seq).reshape(rows, seq).astype(np.int32)
    return np.where(segment_ids > 0, values, -1), segment_ids


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_each_segment_keeps_its_values(seed):
    values, segment_ids = packed(seed)
    found = shuffled_segments(values, segment_ids, seed=1)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found[segment_ids == 0], -1)
    for row in range(len(values)):
        for segment in np.unique(segment_ids[row]):
            own = segment_ids[row] == segment
            assert sorted(found[row, own]) == sorted(values[row, own])


def test_every_order_is_equally_likely_and_the_seed_decides():
    values = np.tile(np.arange(3), (6000, 1))
    segment_ids = np.ones_like(values)
    found = shuffled_segments(values, segment_ids, seed=0)
    np.testing.assert_array_equal(found, shuffled_segments(values, segment_ids, seed=0))
    assert (found != shuffled_segments(values, segment_ids, seed=1)).any()
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 150  # five standard deviations
    np.testing.assert_array_equal(values[0], [0, 1, 2])  # the input stays
