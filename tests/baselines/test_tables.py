"""Neighbours and transitions against the slow way, their bounds, and how tables are read."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from raserec_jax.baselines import neighbors
from raserec_jax.baselines.blocks import blocks
from raserec_jax.baselines.item_table import ItemTable, count_pairs, table_of
from raserec_jax.baselines.queries import counted_interactions
from raserec_jax.baselines.transitions import transition_shares
from tests.baselines.random_logs import (
    as_dense,
    random_split,
    slow_cosines,
    slow_shares,
    training_histories,
)

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(params=[1, 4_000_000])
def pairs_per_block(request, monkeypatch):
    """An item at a time, or all at once."""
    monkeypatch.setattr(neighbors, "_PAIRS_PER_BLOCK", request.param)


@hypothesis.given(seed=SEEDS)
@hypothesis.settings(
    max_examples=30, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_cosines_equal_the_slow_way(pairs_per_block, seed):
    split = random_split(seed)
    num_items = split.log.num_items
    found = as_dense(neighbors.cosine_neighbors(counted_interactions(split)), num_items)
    expected = slow_cosines(training_histories(split), num_items)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(found, found.T)


@hypothesis.given(seed=SEEDS, per_user=st.integers(1, 4))
@hypothesis.settings(max_examples=20)
def test_only_the_newest_interactions_are_paired(seed, per_user):
    split = random_split(seed)
    counted = counted_interactions(split)
    found = as_dense(neighbors.cosine_neighbors(counted, per_user=per_user), counted.num_items)
    newest = [items[-per_user:] for items in training_histories(split)]
    np.testing.assert_allclose(found, slow_cosines(newest, counted.num_items), rtol=1e-6)


@hypothesis.given(seed=SEEDS, kept=st.integers(1, 4))
@hypothesis.settings(
    max_examples=20, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_the_most_similar_are_kept_of_equal_ones_the_lower_ids(pairs_per_block, seed, kept):
    counted = counted_interactions(random_split(seed))
    width = counted.num_items + 1
    whole = as_dense(neighbors.cosine_neighbors(counted), counted.num_items)
    found = as_dense(neighbors.cosine_neighbors(counted, neighbors=kept), counted.num_items)
    for row in range(width):
        order = sorted(range(width), key=lambda item, row=row: (-whole[row, item], item))[:kept]
        expected = np.zeros(width)
        expected[order] = whole[row, order]
        np.testing.assert_array_equal(found[row], expected)


@hypothesis.given(seed=SEEDS)
@hypothesis.settings(max_examples=30)
def test_transition_shares_equal_the_slow_way(seed):
    split = random_split(seed)
    num_items = split.log.num_items
    found = as_dense(transition_shares(counted_interactions(split)), num_items)
    np.testing.assert_allclose(found, slow_shares(training_histories(split), num_items), rtol=1e-6)


def test_votes_read_whole_rows():
    table = table_of(
        np.array([1, 1, 3]), np.array([2, 3, 1]), np.array([0.5, 0.25, 1.0]), num_items=3
    )
    assert table.row_sizes(np.array([0, 1, 2, 3])).tolist() == [0, 2, 0, 1]
    found = table.votes(np.array([0, 0, 4]), np.array([3, 1, 1]), np.array([2.0, 4.0, 8.0]))
    assert found.query_ids.tolist() == [0, 0, 0, 4, 4]
    assert found.item_ids.tolist() == [1, 2, 3, 2, 3]
    assert found.scores.tolist() == [2.0, 2.0, 1.0, 4.0, 2.0]
    nobody = table.votes(np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    assert [len(field) for field in nobody] == [0, 0, 0]
    assert isinstance(table, ItemTable)


@pytest.mark.parametrize("cells", [10, 10**6])
def test_pairs_are_counted_both_ways(cells):
    found = count_pairs(np.array([3, 9, 3, 0]), cells)
    np.testing.assert_array_equal(np.stack(found), [[0, 3, 9], [1, 2, 1]])


@hypothesis.given(
    sizes=st.lists(st.integers(0, 9), max_size=30).map(lambda found: np.array(found, np.int64)),
    most=st.integers(1, 20),
)
def test_blocks_cover_all_rows_within_their_size(sizes, most):
    found = list(blocks(sizes, most))
    assert [row for first, last in found for row in range(first, last)] == list(range(len(sizes)))
    assert all(sizes[first:last].sum() <= most or last == first + 1 for first, last in found)
