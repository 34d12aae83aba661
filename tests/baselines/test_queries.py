"""Queries are those of the models, and what is counted never holds a held-out target."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from raserec_jax.baselines import queries as q
from raserec_jax.encoding import evaluation_set
from raserec_jax.evaluation.histories import seen_items
from tests.baselines.random_logs import random_split, training_histories

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("times", [True, False])
def test_queries_are_those_the_models_answer(part, times):
    split = random_split(1, times=times)
    found = q.part_queries(split, part)
    expected = evaluation_set(split, part, max_len=5)
    for name in ("user_ids", "target_ids", "end_positions", "times"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.times is None) != times


@hypothesis.given(seed=SEEDS, with_valid=st.booleans())
def test_counted_interactions_are_beginnings_without_the_targets(seed, with_valid):
    split = random_split(seed)
    found = q.counted_interactions(split, with_valid=with_valid)
    lengths = split.log.lengths
    ends = np.where(lengths >= 3, lengths - (1 if with_valid else 2), lengths)
    expected = training_histories(split, ends)
    for user, items in enumerate(expected):
        own = found.user_ids == user
        assert found.item_ids[own].tolist() == items
        assert found.follows[own].tolist() == [False] + [True] * (len(items) - 1)
        start = split.log.offsets[user]
        times = split.log.time_ranks[start : start + len(items)]
        np.testing.assert_array_equal(found.times[own], times)


@hypothesis.given(seed=SEEDS, newest=st.sampled_from([None, 1, 3]))
def test_histories_end_before_the_target(seed, newest):
    split = random_split(seed)
    queries = q.part_queries(split, "test")
    found = q.history_items(split.log, queries, newest)
    for row, user in enumerate(queries.user_ids.tolist()):
        own = found.query_ids == row
        expected = split.log.items_of(user)[:-1][-(newest or 99) :]
        np.testing.assert_array_equal(found.item_ids[own], expected)
        np.testing.assert_array_equal(found.ages[own], np.arange(len(expected))[::-1])


@hypothesis.given(seed=SEEDS)
def test_seen_pairs_are_the_evaluators(seed):
    split = random_split(seed)
    queries = q.part_queries(split, "test")
    log = split.log
    found = q.seen_pairs(log, queries)
    expected = seen_items(log.offsets, log.item_ids, queries.end_positions, queries.user_ids)
    rows, columns = np.nonzero(expected)
    np.testing.assert_array_equal(found.query_ids, rows)
    np.testing.assert_array_equal(found.item_ids, expected[rows, columns])
