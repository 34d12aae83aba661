"""From a flat log to both protocols."""

import numpy as np
import pytest

from raserec_jax.evaluation import evaluator, histories
from raserec_jax.evaluation.metrics import metrics_from_ranks
from raserec_jax.evaluation.ranking import Scores
from tests.evaluation.dense_scores import dense_scores, sorted_ranks

OFFSETS = np.array([0, 4, 4, 9])
ITEM_IDS = np.array([5, 2, 5, 1, 3, 3, 3, 8, 2], np.int32)


def test_both_protocols():
    found = evaluator.evaluate_ranks(np.array([3, 0]), np.array([1, 0]), cutoffs=(1, 5))
    assert list(found) == ["unfiltered", "filtered"]
    assert found["filtered"] == metrics_from_ranks(np.array([1, 0]), (1, 5))


def test_seen_items_are_distinct_and_before_the_target():
    seen = histories.seen_items(OFFSETS, ITEM_IDS, np.array([3, -1, 4]))
    np.testing.assert_array_equal(seen, [[2, 5], [0, 0], [3, 8]])
    assert seen.dtype == np.int32


def test_seen_items_of_some_users():
    seen = histories.seen_items(OFFSETS, ITEM_IDS, np.array([5, 4]), np.array([2, 0]))
    np.testing.assert_array_equal(seen, [[2, 3, 8], [1, 2, 5]])


def test_seen_items_of_nobody():
    assert histories.seen_items(OFFSETS, ITEM_IDS, np.array([0, 0, -1])).tolist() == [[0]] * 3


def test_seen_items_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="end_positions has 2 entries for 3 users"):
        histories.seen_items(OFFSETS, ITEM_IDS, np.array([1, 1]))
    with pytest.raises(
        ValueError, match=r"end_positions\[1\]=6 is beyond the sequence of user 2; exp"
    ):
        histories.seen_items(OFFSETS, ITEM_IDS, np.array([1, 6]), np.array([0, 2]))


def test_ranks_of_histories_of_very_different_lengths():
    """Lengths on both sides of 64, where the groups change."""
    draw = np.random.default_rng(0)
    lengths = np.array([3, 64, 65, 250, 10, 256, 2])
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    item_ids = draw.integers(1, 120, offsets[-1]).astype(np.int32)
    item_table = draw.normal(size=(120, 8)).astype(np.float32)
    query = draw.normal(size=(7, 8)).astype(np.float32)
    sparse_ids = draw.integers(0, 120, (7, 3)).astype(np.int32)
    scores = Scores(query, sparse_ids, np.full((7, 3), 0.25, np.float32), 0.25)
    target_ids = item_ids[offsets[:-1] + lengths]
    found = evaluator.rank_histories(scores, item_table, target_ids, offsets, item_ids, lengths)
    seen = histories.seen_items(offsets, item_ids, lengths)
    expected = sorted_ranks(dense_scores(query, item_table, *scores[1:]), target_ids, seen)
    np.testing.assert_array_equal(np.stack(found), expected)
    assert (expected[0] > expected[1]).any()
