"""Segments of packed rows, by hand and against their definitions."""

import jax.numpy as jnp
import numpy as np

from raserec_jax.models.segments import (
    first_places,
    places_within_segments,
    segment_lengths,
    visible_keys,
)

SEGMENTS = jnp.array([[1, 1, 1, 4, 4, 0], [2, 1, 1, 1, 1, 3], [0, 0, 0, 0, 0, 0]])


def test_places_within_segments():
    expected = [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(places_within_segments(SEGMENTS), expected)


def test_first_places():
    expected = [[0, 0, 0, 3, 3, 5], [0, 1, 1, 1, 1, 5], [0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(first_places(SEGMENTS), expected)


def test_segment_lengths():
    expected = [[3, 3, 3, 2, 2, 1], [1, 4, 4, 4, 4, 1], [6, 6, 6, 6, 6, 6]]
    np.testing.assert_array_equal(segment_lengths(SEGMENTS), expected)
    draw = np.random.default_rng(0)
    lengths = [draw.integers(1, 9, 8) for _ in range(7)]
    rows = np.array([np.repeat(np.arange(1, 9), row)[:20] for row in lengths if row.sum() >= 20])
    assert len(rows) > 3
    counted = (rows[:, :, None] == rows[:, None, :]).sum(axis=2)
    np.testing.assert_array_equal(segment_lengths(jnp.asarray(rows)), counted)


def test_visible_keys():
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(visible_keys(jnp.array([[1, 1, 2, 0]]))[0, 0], expected)
