"""Nearest-neighbour mixing: the masses by hand, and the choice on validation."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from raserec_jax.encoding import evaluation_set
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved
from raserec_jax.training import mixing
from raserec_jax.training.mixing import Mixture, choose_mixture, mixed_scores
from raserec_jax.training.pretraining import query_ranks
from tests.small_logs import random_split

DIM, TOP_K = 4, 3


def bank_of(target_ids):
    rows = len(target_ids)
    users, lengths = np.zeros(rows, np.int32), np.ones(rows, np.int32)
    return MemoryBank(
        np.ones((rows, DIM), np.float32), np.array(target_ids, np.int32), users, lengths
    )


def retrieved_of(ids, scores):
    ids = jnp.array(ids, jnp.int32)
    return Retrieved(ids, jnp.array(scores, jnp.float32), ids >= 0)


def test_masses_by_hand():
    retrieved = retrieved_of(
        [[2, 0, 1, 3], [1, -1, -1, -1], [-1, -1, -1, -1]],
        [[0.9, 0.8, 0.8, 0.1], [0.3, 0, 0, 0], [0, 0, 0, 0]],
    )
    query = jnp.ones((3, DIM))
    scores = mixed_scores(query, retrieved, bank_of([5, 7, 5, 9]), Mixture(0.4, 0.1, 3))
    assert scores.mix == 0.4
    np.testing.assert_array_equal(scores.query, query)
    # Rows 2, 0 and 1 of the bank; 9 is beyond the three that are used.
    assert np.asarray(scores.sparse_ids).tolist() == [[5, 5, 7], [7, 0, 0], [0, 0, 0]]
    mass = np.exp([0.0, -1.0, -1.0])
    expected = [mass / mass.sum(), [1, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(scores.sparse_mass, expected, rtol=1e-5)


def test_a_low_temperature_does_not_overflow():
    retrieved = retrieved_of([[0, 1, 2, 3]] * 3, [[-0.9, -0.95, -1.0, -1.0]] * 3)
    bank = bank_of([1, 2, 3, 4])
    scores = mixed_scores(jnp.ones((3, DIM)), retrieved, bank, Mixture(0.5, 1e-4, 3))
    np.testing.assert_allclose(scores.sparse_mass, [[1, 0, 0]] * 3, atol=1e-6)


@pytest.fixture(scope="module")
def case():
    """Queries that say nothing; the best memory of most users names the target, the worst of all does not."""
    split = random_split([6] * 40, num_items=30)
    evaluation = evaluation_set(split, "valid", max_len=8)
    draw = np.random.default_rng(0)
    count, items = len(evaluation.user_ids), split.log.num_items
    query = jnp.asarray(draw.normal(size=(count, DIM)), jnp.float32)
    item_table = jnp.asarray(draw.normal(size=(items + 1, DIM)), jnp.float32)
    # Row i of the bank is followed by item i + 1.
    ids = draw.integers(0, items, (count, TOP_K + 1))
    ids[: count * 3 // 4, 0] = evaluation.target_ids[: count * 3 // 4] - 1
    retrieved = retrieved_of(ids, np.tile([0.9, 0.5, 0.4, 0.3], (count, 1)))
    return split, evaluation, query, item_table, retrieved, bank_of(range(1, items + 1))


def settings_of(**changed):
    return ConfigDict(
        {
            "top_k": TOP_K,
            "temperatures": (0.05, 1.0),
            "weights": (0.001, 0.9),
            "metric": "unfiltered/NDCG@10",
        }
        | changed
    )


def choose(case, settings, **kwargs):
    split, evaluation, query, item_table, retrieved, bank = case
    params = {"item_table": item_table}
    return choose_mixture(query, retrieved, bank, params, split, evaluation, settings, **kwargs)


def metrics_with(case, mixture):
    split, evaluation, query, item_table, retrieved, bank = case
    scores = mixed_scores(query, retrieved, bank, mixture)
    return evaluate_ranks(*query_ranks(scores, {"item_table": item_table}, split, evaluation))


def test_the_best_of_the_grid_is_chosen(case):
    mixture, valid = choose(case, settings_of())
    assert mixture.weight == 0.9 and mixture.top_k == TOP_K
    found = {
        (weight, temperature): metrics_with(case, Mixture(weight, temperature, TOP_K))
        for temperature in (0.05, 1.0)
        for weight in (0.0, 0.001, 0.9)
    }
    assert valid == found[mixture.weight, mixture.temperature]
    best = max(metrics["unfiltered"]["NDCG@10"] for metrics in found.values())
    assert valid["unfiltered"]["NDCG@10"] == best
    assert best > 2 * found[0.0, 1.0]["unfiltered"]["NDCG@10"]


def test_memories_that_mislead_get_no_weight(case):
    split, evaluation, query, item_table, retrieved, bank = case
    misleading = retrieved._replace(ids=jnp.full_like(retrieved.ids, 3))
    # Queries that know the target: nothing can be better.
    knowing = 9 * item_table[evaluation.target_ids]
    table = item_table / jnp.linalg.norm(item_table, axis=1, keepdims=True)
    others = (split, evaluation, knowing, table, misleading, bank)
    mixture, valid = choose(others, settings_of(weights=(0.9,)))
    assert mixture.weight == 0.0
    assert valid["unfiltered"]["HR@1"] == 1.0


@pytest.fixture
def sizes(monkeypatch):
    """How many users and memories each ranking was of; the ranks themselves are all the same."""
    found = []

    def query_ranks(scores, encoder_params, split, queries, mesh):
        count = len(queries.user_ids)
        assert scores.query.shape[0] == count == len(queries.end_positions)
        found.append(scores.sparse_ids.shape)
        return np.zeros((2, count), np.int32)

    monkeypatch.setattr(mixing, "query_ranks", query_ranks)
    return found


def test_no_more_memories_are_used_than_were_found(case, sizes):
    mixture, _ = choose(case, settings_of(top_k=50))
    assert mixture.top_k == TOP_K + 1
    assert sizes == [(40, TOP_K + 1)] * 7


def test_the_choice_is_made_on_a_sample_and_reported_on_all(case, sizes):
    mixture, valid = choose(case, settings_of(), sample=24)
    assert sizes == [(24, TOP_K)] * 6 + [(40, TOP_K)]
    # Where nothing is better, the encoder stays as it is.
    assert mixture == Mixture(0.0, 0.05, TOP_K)
    assert valid["filtered"]["HR@1"] == 1.0
