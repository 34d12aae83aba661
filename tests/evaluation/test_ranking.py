"""Ranks against a full sort in float64, exact ties, and all that must not count.

Most tests share one shape, so that they share one compilation.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from raserec_jax.evaluation import ranking
from raserec_jax.evaluation.ranking import Scores
from tests.evaluation.dense_scores import dense_scores, sorted_ranks

USERS, ITEMS, DIM, SEEN, ENTRIES = 13, 300, 32, 9, 5
# 13 users in chunks of 8 and 301 rows in chunks of 128: the last chunk of either is ragged.
rank_targets = functools.partial(ranking.rank_targets, user_chunk=8, item_chunk=128)


def whole_numbers(draw, rows):
    """Halves of small whole numbers, mostly 0: float32 sums them exactly and logits stay small."""
    values = draw.integers(-2, 3, (rows, DIM)) * (draw.random((rows, DIM)) < 0.3)
    return values.astype(np.float32) / 2


def random_case(seed, *, distinct=ITEMS, mix=None):
    """Inputs of rank_targets; with few distinct item vectors ties abound."""
    draw = np.random.default_rng(seed)
    item_table = whole_numbers(draw, distinct)[draw.integers(0, distinct, ITEMS + 1)]
    item_table[0] = 100.0
    query = whole_numbers(draw, USERS)
    target_ids = draw.integers(1, ITEMS + 1, USERS).astype(np.int32)
    seen_ids = np.stack([draw.permutation(ITEMS)[:SEEN] + 1 for _ in range(USERS)]).astype(np.int32)
    seen_ids[seen_ids == target_ids[:, None]] = 0
    seen_ids[draw.random(seen_ids.shape) < 0.2] = 0
    seen_ids[::2, 0] = target_ids[::2]
    if mix is None:
        return Scores(query), item_table, target_ids, seen_ids
    sparse_ids = draw.integers(-1, ITEMS + 1, (USERS, ENTRIES)).astype(np.int32)
    sparse_ids[:, 1] = sparse_ids[:, 0]  # ids may repeat
    sparse_ids[::3, 2] = target_ids[::3]
    sparse_mass = draw.integers(0, 5, (USERS, ENTRIES)).astype(np.float32) / 16
    return Scores(query, sparse_ids, sparse_mass, mix), item_table, target_ids, seen_ids


@hypothesis.given(seed=st.integers(0, 2**32 - 1), distinct=st.sampled_from([1, 5, 40, ITEMS]))
@hypothesis.settings(max_examples=25)
def test_ranks_equal_a_full_sort(seed, distinct):
    scores, item_table, target_ids, seen_ids = random_case(seed, distinct=distinct)
    found = rank_targets(scores, item_table, target_ids, seen_ids)
    expected = sorted_ranks(dense_scores(scores.query, item_table), target_ids, seen_ids)
    np.testing.assert_array_equal(np.stack(found), expected)


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    distinct=st.sampled_from([5, 40, ITEMS]),
    mix=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
)
@hypothesis.settings(max_examples=25)
def test_mixed_ranks_equal_a_full_sort(seed, distinct, mix):
    scores, item_table, target_ids, seen_ids = random_case(seed, distinct=distinct, mix=mix)
    found = rank_targets(scores, item_table, target_ids, seen_ids)
    dense = dense_scores(scores.query, item_table, *scores[1:])
    np.testing.assert_array_equal(np.stack(found), sorted_ranks(dense, target_ids, seen_ids))


@pytest.mark.parametrize("mix", [None, 0.25])
@pytest.mark.parametrize("bias", [-2.0, 1.5])
def test_repeats_get_their_bias(mix, bias):
    scores, item_table, target_ids, seen_ids = random_case(3, distinct=40, mix=mix)
    biased = scores._replace(repeat_ids=seen_ids, repeat_bias=bias)
    found = rank_targets(biased, item_table, target_ids, seen_ids)
    dense = dense_scores(scores.query, item_table, *biased[1:])
    np.testing.assert_array_equal(np.stack(found), sorted_ranks(dense, target_ids, seen_ids))
    assert (np.stack(found) != rank_targets(scores, item_table, target_ids, seen_ids)).any()


@pytest.mark.parametrize("mix", [None, 0.25])
def test_copies_of_an_item_tie_exactly(mix):
    """Real numbers, where two orders of summing differ: copies must still score the same."""
    copies = np.array([3, 127, 128, 255, 300])  # in every chunk, also at its ends
    scores, item_table, *_ = random_case(0, mix=mix)
    draw = np.random.default_rng(0)
    item_table = draw.normal(size=item_table.shape).astype(np.float32)
    item_table[copies] = item_table[3]
    query = draw.normal(size=scores.query.shape).astype(np.float32)
    scores = scores._replace(query=query)
    if mix is not None:
        sparse_ids = np.tile(copies, (USERS, 1)).astype(np.int32)
        scores = scores._replace(sparse_ids=sparse_ids, sparse_mass=np.full_like(query[:, :5], 0.1))
    seen_ids = np.zeros((USERS, SEEN), np.int32)
    seen_ids[:, :5] = copies
    target_ids = np.resize(copies, USERS).astype(np.int32)
    unfiltered, filtered = rank_targets(scores, item_table, target_ids, seen_ids)
    np.testing.assert_array_equal(unfiltered - filtered, len(copies) - 1)
    dense = dense_scores(scores.query, item_table, *scores[1:])
    better = (dense[:, 1:] > dense[:, 3, None]) & ~np.isin(np.arange(1, ITEMS + 1), copies)[None, :]
    np.testing.assert_array_equal(filtered, better.sum(axis=1))


def test_result_does_not_depend_on_the_chunks():
    scores, item_table, target_ids, seen_ids = random_case(1, distinct=40)
    whole = ranking.rank_targets(scores, item_table, target_ids, seen_ids)
    parts = rank_targets(scores, item_table, target_ids, seen_ids)
    np.testing.assert_array_equal(whole, parts)


def test_padding_row_and_seen_target_never_count():
    item_table = np.array([[9.0], [3.0], [2.0], [1.0]], np.float32)
    target_ids = np.array([2, 2, 2], np.int32)
    seen_ids = np.array([[0, 0], [1, 0], [1, 2]], np.int32)
    found = rank_targets(Scores(np.ones((3, 1), np.float32)), item_table, target_ids, seen_ids)
    np.testing.assert_array_equal(found[0], [1, 1, 1])
    np.testing.assert_array_equal(found[1], [1, 0, 0])


def test_without_seen_items_filtered_is_unfiltered():
    scores, item_table, target_ids, _ = random_case(2)
    np.testing.assert_array_equal(*rank_targets(scores, item_table, target_ids))


@pytest.mark.parametrize("mix", [None, 0.5])
def test_nan_gets_the_worst_rank(mix):
    scores, item_table, target_ids, seen_ids = random_case(3, mix=mix)
    scores.query[0, 0] = np.nan
    scores.query[1] = np.inf  # inf - inf is NaN
    found = rank_targets(scores, item_table, target_ids, seen_ids)
    others = (seen_ids > 0) & (seen_ids != target_ids[:, None])
    np.testing.assert_array_equal(found[0][:2], ITEMS - 1)
    np.testing.assert_array_equal(found[1][:2], ITEMS - 1 - others.sum(axis=1)[:2])


def test_a_nan_item_counts_against_the_model():
    scores, item_table, target_ids, seen_ids = random_case(4)
    item_table[7] = np.nan
    target_ids[:] = 1
    item_table[1] = 100 * scores.query[0]
    assert int(rank_targets(scores, item_table, target_ids, seen_ids)[0][0]) == 1


def test_jit_and_eager_agree():
    scores, item_table, target_ids, seen_ids = random_case(7, distinct=40)
    found = rank_targets(scores, item_table, target_ids, seen_ids)
    jitted = jax.jit(rank_targets)(scores, item_table, target_ids, seen_ids)
    np.testing.assert_array_equal(found, jitted)
    with jax.disable_jit():
        eager = ranking.rank_targets(scores, item_table, target_ids, seen_ids)
    np.testing.assert_array_equal(found, eager)


def test_a_grid_of_mixes_compiles_once():
    scores, item_table, target_ids, seen_ids = random_case(8, mix=0.5)
    rank_targets(scores, item_table, target_ids, seen_ids)
    compiled = ranking._rank._cache_size()
    ranks = [
        rank_targets(scores._replace(mix=mix), item_table, target_ids, seen_ids)[0]
        for mix in (0.0, 0.2, 0.9)
    ]
    assert ranking._rank._cache_size() == compiled
    assert not np.array_equal(ranks[0], ranks[2])


def test_mix_zero_ranks_as_without_mix():
    draw = np.random.default_rng(9)
    scores, item_table, target_ids, seen_ids = random_case(9, mix=0.0)
    item_table = draw.normal(size=item_table.shape).astype(np.float32)
    mixed = rank_targets(scores, item_table, target_ids, seen_ids)
    plain = rank_targets(Scores(scores.query), item_table, target_ids, seen_ids)
    np.testing.assert_array_equal(plain, mixed)


def test_no_users_no_ranks():
    item_table = np.ones((3, 2), np.float32)
    found = rank_targets(Scores(np.ones((0, 2), np.float32)), item_table, np.zeros(0, np.int32))
    assert found[0].shape == found[1].shape == (0,)


def test_refuses_what_does_not_fit():
    item_table, ids = np.ones((4, 2), np.float32), np.array([1, 2], np.int32)
    query = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"item_table has shape \(4, 2\) and the queries have wid"):
        rank_targets(Scores(np.ones((2, 3), np.float32)), item_table, ids)
    with pytest.raises(ValueError, match=r"target_ids has shape \(1,\); expected one per query"):
        rank_targets(Scores(query), item_table, ids[:1])
    with pytest.raises(ValueError, match=r"target 4 of row 1 is no item; expected 1\.\.3"):
        rank_targets(Scores(query), item_table, np.array([3, 4], np.int32))
    with pytest.raises(ValueError, match="sparse_mass without mix would be ignored"):
        rank_targets(Scores(query, sparse_ids=ids[:, None]), item_table, ids)
    with pytest.raises(
        ValueError, match=r"mix needs sparse_ids and sparse_mass of one shape \(2, "
    ):
        rank_targets(Scores(query, ids[:, None], None, 0.5), item_table, ids)
    with pytest.raises(ValueError, match=r"shape \(2, entries\); got \(1, 1\) and \(1, 1\)"):
        rank_targets(Scores(query, ids[:1, None], np.ones((1, 1)), 0.5), item_table, ids)


def test_half_of_a_repeat_bias_is_refused():
    scores, item_table, target_ids, seen_ids = random_case(0)
    with pytest.raises(ValueError, match="repeat_ids and repeat_bias belong together"):
        rank_targets(scores._replace(repeat_bias=1.0), item_table, target_ids, seen_ids)
    with pytest.raises(ValueError, match="repeat_ids has shape"):
        wrong = scores._replace(repeat_bias=1.0, repeat_ids=seen_ids[:3])
        rank_targets(wrong, item_table, target_ids, seen_ids)
