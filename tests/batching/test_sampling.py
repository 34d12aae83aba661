"""Positives share the target and are never the anchor itself while it has a partner; negatives are uniform."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.batching.sampling import draw_negatives, draw_positives, same_target_index
from raserec_jax.batching.windows import Examples
from tests.quick_jit import quick_jit

COUNT = 30  # one shape, one compilation
draw_thirty = quick_jit(draw_positives)


def examples_with(target_ids):
    """Examples of which only the targets matter."""
    target_ids = np.array(target_ids, np.int32)
    return Examples(target_ids, target_ids, target_ids, target_ids)


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum()


@given(st.lists(st.integers(1, 20), min_size=COUNT, max_size=COUNT), st.integers(0, 99))
def test_positives_share_the_target_and_are_not_the_anchor(target_ids, seed):
    index = same_target_index(examples_with(target_ids))
    anchors = np.arange(COUNT, dtype=np.int32)
    positives = np.asarray(draw_thirty(index, anchors, jax.random.key(seed)))
    targets = np.array(target_ids)
    np.testing.assert_array_equal(targets[positives], targets[anchors])
    alone = np.bincount(targets)[targets] == 1
    np.testing.assert_array_equal(positives == anchors, alone)


def test_positives_are_uniform_over_the_others():
    target_ids = [3, 5, 5, 3, 5, 1, 5, 5]
    group = [1, 2, 4, 6, 7]
    index = same_target_index(examples_with(target_ids))
    anchors = np.repeat(np.arange(8, dtype=np.int32), 4000)
    positives = np.asarray(quick_jit(draw_positives)(index, anchors, jax.random.key(1)))
    for anchor in group:
        counts = np.bincount(positives[anchors == anchor], minlength=8)
        others = [member for member in group if member != anchor]
        assert counts.sum() == counts[others].sum() == 4000
        assert chi_square(counts[others]) < 21.1  # p = .0001 with three degrees of freedom


def test_index_by_hand():
    index = same_target_index(examples_with([4, 2, 4, 4, 2]))
    assert index.members.tolist() == [1, 4, 0, 2, 3]
    assert index.group_starts.tolist() == [2, 0, 2, 2, 0]
    assert index.group_sizes.tolist() == [3, 2, 3, 3, 2]
    assert index.places_in_group.tolist() == [0, 0, 1, 2, 1]
    assert {field.dtype for field in index} == {np.dtype(np.int32)}


def test_negatives_are_uniform_items():
    negatives = np.asarray(draw_negatives(jax.random.key(0), 8000, 8))
    assert negatives.dtype == np.int32
    counts = np.bincount(negatives, minlength=9)
    assert counts[0] == 0 and len(counts) == 9
    assert chi_square(counts[1:]) < 29.9  # p = .0001 with seven degrees of freedom
