"""The best items against a full sort in float64."""

import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.top_items import top_items
from tests.evaluation.dense_scores import dense_scores

USERS, ITEMS, DIM, TOP = 11, 290, 6, 20
best_items = functools.partial(top_items, user_chunk=8, item_chunk=128)


def brute_force(scores, exclude_ids):
    """Sort by score, then by id."""
    ids = np.zeros((len(scores), TOP), np.int32)
    for row in range(len(scores)):
        allowed = sorted(set(range(1, scores.shape[1])) - set(exclude_ids[row].tolist()))
        best = sorted(allowed, key=lambda i, row=row: (-scores[row, i], i))[:TOP]
        ids[row, : len(best)] = best
    return ids


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    distinct=st.sampled_from([3, 40, ITEMS]),
    mix=st.sampled_from([None, 0.0, 0.25, 1.0]),
)
@hypothesis.settings(max_examples=25)
def test_equals_a_full_sort(seed, distinct, mix):
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-2, 3, (distinct, DIM)).astype(np.float32) / 2
    item_table = vectors[draw.integers(0, distinct, ITEMS + 1)]
    scores = Scores(draw.integers(-2, 3, (USERS, DIM)).astype(np.float32) / 2)
    if mix is not None:
        sparse_ids = draw.integers(-1, ITEMS + 1, (USERS, 4)).astype(np.int32)
        scores = Scores(scores.query, sparse_ids, (sparse_ids % 5 / 16).astype(np.float32), mix)
    # Up to all items of a user are excluded: fewer than TOP may be left, or none.
    exclude_ids = np.stack([draw.permutation(ITEMS) + 1 for _ in range(USERS)]).astype(np.int32)
    left = draw.integers(0, ITEMS + 1, USERS) * draw.integers(0, 2, USERS)
    exclude_ids[np.arange(ITEMS)[None, :] < left[:, None]] = draw.integers(-1, 1)
    found, values = best_items(scores, item_table, TOP, exclude_ids)
    dense = dense_scores(scores.query, item_table, *scores[1:])
    expected = brute_force(dense, exclude_ids)
    np.testing.assert_array_equal(found, expected)
    dense[:, 0] = -np.inf
    expected_values = np.take_along_axis(dense, expected, axis=1)
    np.testing.assert_allclose(values, expected_values, rtol=1e-5, atol=1e-7)


@hypothesis.given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.03, 0.5, 1.0]))
@hypothesis.settings(max_examples=10)
def test_only_allowed_items(seed, share):
    """As if all others were excluded for everyone."""
    draw = np.random.default_rng(seed)
    item_table = draw.integers(-2, 3, (ITEMS + 1, DIM)).astype(np.float32) / 2
    scores = Scores(draw.integers(-2, 3, (USERS, DIM)).astype(np.float32) / 2)
    exclude_ids = draw.integers(0, ITEMS + 1, (USERS, 7)).astype(np.int32)
    allowed = draw.random(ITEMS + 1) < share
    found = best_items(scores, item_table, TOP, exclude_ids, allowed=allowed)
    others = np.where(allowed, 0, np.arange(ITEMS + 1)).astype(np.int32)
    both = np.concatenate([exclude_ids, np.broadcast_to(others, (USERS, len(others)))], axis=1)
    expected = best_items(scores, item_table, TOP, both)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_nan_is_never_recommended():
    item_table = np.array([[0.0], [1.0], [np.nan], [2.0]], np.float32)
    ids, values = best_items(Scores(np.array([[1.0], [np.nan]], np.float32)), item_table, 3)
    np.testing.assert_array_equal(ids, [[3, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(values, [[2.0, 1.0, -np.inf], [-np.inf] * 3])


def test_no_users():
    ids, values = top_items(Scores(np.ones((0, 1), np.float32)), np.ones((3, 1), np.float32), 2)
    assert ids.shape == values.shape == (0, 2)


def test_refuses_what_does_not_fit():
    scores, item_table = Scores(np.ones((2, 1), np.float32)), np.ones((4, 1), np.float32)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k={k}, and the catalogue has 3 items"):
            top_items(scores, item_table, k)
    with pytest.raises(ValueError, match="exclude_ids has 1 rows; expected one per query: 2"):
        top_items(scores, item_table, 1, np.ones((1, 1), np.int32))
    with pytest.raises(ValueError, match=r"allowed has shape \(3,\); expected one per row of the"):
        top_items(scores, item_table, 1, allowed=np.ones(3, bool))
    with pytest.raises(ValueError, match="the queries have width 1"):
        top_items(scores, np.ones((4, 2), np.float32), 1)
