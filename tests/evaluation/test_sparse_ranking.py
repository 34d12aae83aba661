"""Ranks under sparse scores against a full sort, and against the ranking of the models."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from raserec_jax.evaluation import ranking, sparse_ranking
from raserec_jax.evaluation.sparse_ranking import SeenPairs, SparseScores
from tests.evaluation.dense_scores import sorted_ranks

QUERIES, ITEMS, SEEN = 9, 40, 6
CELLS = {"dense": np.inf, "sorted": 0}  # what the two ways to sum are chosen by


@pytest.fixture(params=CELLS)
def way(request, monkeypatch):
    monkeypatch.setattr(sparse_ranking, "_CELLS_PER_ENTRY", CELLS[request.param])


def random_layer(draw, entries):
    """Sixteenths, which sum exactly; pairs repeat, and some scores are 0."""
    return SparseScores(
        draw.integers(0, QUERIES, entries),
        draw.integers(1, ITEMS + 1, entries),
        draw.integers(0, 5, entries) / 16,
    )


def random_case(seed, entries=60):
    draw = np.random.default_rng(seed)
    layers = [random_layer(draw, entries), random_layer(draw, entries // 4)]
    target_ids = draw.integers(1, ITEMS + 1, QUERIES).astype(np.int32)
    seen_ids = np.stack([draw.permutation(ITEMS)[:SEEN] + 1 for _ in range(QUERIES)])
    seen_ids[draw.random(seen_ids.shape) < 0.3] = 0
    seen_ids[::2, 0] = np.where((seen_ids[::2] == target_ids[::2, None]).any(1), 0, target_ids[::2])
    return layers, target_ids, seen_ids


def pairs(seen_ids):
    rows, columns = np.nonzero(seen_ids)
    return SeenPairs(rows, seen_ids[rows, columns])


def dense(layers):
    scores = np.zeros((QUERIES, ITEMS + 1))
    for layer in layers:
        np.add.at(scores, (layer.query_ids, layer.item_ids), layer.scores)
    scores[:, 0] = np.nan
    return scores


@hypothesis.given(seed=st.integers(0, 2**32 - 1), entries=st.sampled_from([0, 8, 60, 900]))
@hypothesis.settings(
    max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_ranks_equal_a_full_sort_layer_by_layer(way, seed, entries):
    layers, target_ids, seen_ids = random_case(seed, entries)
    found = sparse_ranking.rank_sparse_scores(layers, target_ids, pairs(seen_ids), ITEMS)
    for last, ranks in enumerate(found, start=1):
        expected = sorted_ranks(dense(layers[:last]), target_ids, seen_ids)
        np.testing.assert_array_equal(np.stack(ranks), expected)
        assert ranks[0].dtype == ranks[1].dtype == np.int32


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_those_of_the_models_ranking(way, seed):
    """The same scores as a mixture without a model: one protocol, two implementations."""
    layers, target_ids, seen_ids = random_case(seed)
    (found,) = sparse_ranking.rank_sparse_scores(layers[:1], target_ids, pairs(seen_ids), ITEMS)
    mass = np.nan_to_num(dense(layers[:1])).astype(np.float32)
    item_ids = np.tile(np.arange(ITEMS + 1, dtype=np.int32), (QUERIES, 1))
    scores = ranking.Scores(np.zeros((QUERIES, 2), np.float32), item_ids, mass, 1.0)
    table = np.ones((ITEMS + 1, 2), np.float32)
    expected = ranking.rank_targets(scores, table, target_ids, seen_ids.astype(np.int32))
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))


def test_sums_in_another_order_tie(way):
    parts = np.array([0.1, 0.2, 0.3])
    assert parts.sum() != parts[::-1].sum()
    layer = SparseScores(np.zeros(6, int), np.repeat([1, 2], 3), np.append(parts, parts[::-1]))
    none = SeenPairs(np.zeros(0, int), np.zeros(0, int))
    for target in (1, 2):
        ((rank, _),) = sparse_ranking.rank_sparse_scores([layer], np.array([target]), none, 5)
        assert rank.tolist() == [1]


def test_a_target_without_a_score_comes_last(way):
    layer = SparseScores(np.array([0]), np.array([3]), np.array([0.5]))
    seen = SeenPairs(np.array([0, 0, 1]), np.array([2, 3, 4]))
    ((unfiltered, filtered),) = sparse_ranking.rank_sparse_scores(
        [layer], np.array([1, 4]), seen, 5
    )
    np.testing.assert_array_equal(unfiltered, [4, 4])
    np.testing.assert_array_equal(filtered, [2, 4])


@hypothesis.given(seed=st.integers(0, 2**32 - 1), distinct=st.sampled_from([1, 4, 100]))
def test_shared_scores_equal_a_full_sort(seed, distinct):
    _, target_ids, seen_ids = random_case(seed)
    scores = np.random.default_rng(seed).integers(0, distinct, ITEMS + 1)
    found = sparse_ranking.rank_shared_scores(scores, target_ids, pairs(seen_ids))
    expected = np.tile(scores.astype(float), (QUERIES, 1))
    expected[:, 0] = np.nan
    np.testing.assert_array_equal(np.stack(found), sorted_ranks(expected, target_ids, seen_ids))


def test_refuses_what_does_not_fit():
    none = SeenPairs(np.zeros(0, int), np.zeros(0, int))
    layer = SparseScores(np.array([0]), np.array([1]), np.array([0.5]))
    for target in (0, 6):
        words = rf"target {target} of row 0 is no item; expected 1\.\.5"
        with pytest.raises(ValueError, match=words):
            sparse_ranking.rank_sparse_scores([layer], np.array([target]), none, 5)
        with pytest.raises(ValueError, match=words):
            sparse_ranking.rank_shared_scores(np.zeros(6), np.array([target]), none)
    for wrong in (-0.25, np.nan):
        bad = layer._replace(scores=np.array([wrong]))
        with pytest.raises(
            ValueError, match=f"layer 1 has the score {wrong}; expected scores >= 0"
        ):
            sparse_ranking.rank_sparse_scores([layer, bad], np.array([1]), none, 5)
