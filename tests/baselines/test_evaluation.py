"""Baselines against dense scores, on real data against published trials, and without a look at the targets."""

import dataclasses
import os

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from raserec_jax.baselines import evaluation
from raserec_jax.baselines.queries import part_queries
from raserec_jax.data.filters import k_core
from raserec_jax.data.known_sets import locate
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.splits import leave_one_out
from raserec_jax.errors import DataError
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.histories import seen_items
from tests.baselines.random_logs import random_split, slow_cosines, slow_shares, training_histories
from tests.evaluation.dense_scores import sorted_ranks

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(params=[1, 1_000_000])
def entries_per_block(request, monkeypatch):
    """A query at a time, or all at once."""
    monkeypatch.setattr(evaluation, "_ENTRIES_PER_BLOCK", request.param)


@hypothesis.given(
    seed=SEEDS,
    part=st.sampled_from(["valid", "test"]),
    with_valid=st.booleans(),
    decay=st.sampled_from([0.5, 0.8, 1.0]),
    newest=st.sampled_from([2, None]),
)
@hypothesis.settings(
    max_examples=30, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_neighbours_and_transitions_equal_the_slow_way(
    entries_per_block, seed, part, with_valid, decay, newest
):
    split = random_split(seed)
    log, queries = split.log, part_queries(split, part)
    statistics = evaluation.count_statistics(split, with_valid=with_valid)
    ends = split.memory_end if with_valid else split.train_end
    histories = training_histories(split, ends)
    # float32 as in the tables; the last sums are compared in float32 too.
    cosines = slow_cosines(histories, log.num_items).astype(np.float32)
    shares = slow_shares(histories, log.num_items).astype(np.float32)
    knn = np.zeros((len(queries.user_ids), log.num_items + 1))
    last = np.zeros_like(knn)
    for row, user in enumerate(queries.user_ids.tolist()):
        items = log.items_of(user)[: queries.end_positions[row]]
        last[row] = shares[items[-1]]
        for age, item in enumerate(items[::-1][:newest]):
            knn[row] += decay**age * cosines[item]
    found = evaluation.knn_ranks(log, queries, *statistics[1:], decay=decay, mix=0.3, newest=newest)
    found.append(evaluation.markov_ranks(log, queries, statistics.shares))
    seen = seen_items(log.offsets, log.item_ids, queries.end_positions, queries.user_ids)
    for ranks, scores in zip(found, (knn, knn + 0.3 * last, last), strict=True):
        scores = scores.astype(np.float32)
        scores[:, 0] = np.nan
        np.testing.assert_array_equal(
            np.stack(ranks), sorted_ranks(scores, queries.target_ids, seen)
        )


def test_all_parts_and_baselines():
    split = random_split(0, users=40)
    metrics, ranks = evaluation.baseline_metrics(split)
    assert tuple(metrics) == tuple(ranks) == evaluation.BASELINES
    train = evaluation.count_statistics(split)
    for name, found in metrics.items():
        assert list(found) == ["valid", "test", "test_with_valid"]
        assert found["test"] == evaluate_ranks(*ranks[name])
        valid = evaluation.baseline_ranks(split, "valid", train)[name]
        assert found["valid"] == evaluate_ranks(*valid)
        assert list(found["test"]) == ["unfiltered", "filtered"]
    assert metrics["item_knn"]["test"] != metrics["item_knn"]["test_with_valid"]


def test_without_times_there_is_no_recent_popularity():
    metrics, ranks = evaluation.baseline_metrics(random_split(0, times=False))
    expected = [name for name in evaluation.BASELINES if name != "recent_popularity"]
    assert list(metrics) == list(ranks) == expected


def test_without_targets_there_are_no_metrics():
    metrics, ranks = evaluation.baseline_metrics(random_split(0, most=2))
    assert all(found == {} for found in metrics.values())
    assert all(len(one[0]) == 0 for one in ranks.values())


@pytest.mark.parametrize("part", ["valid", "test"])
def test_other_users_held_out_items_do_not_matter(part):
    """Their targets exchanged, a user's rank stays: statistics come from training alone."""
    split = random_split(11, users=60)
    log = split.log
    last = (log.offsets[1:] - 1)[split.test_position > 0]
    user = int(log.user_ids[last[4]])
    others = last[log.user_ids[last] != user]
    draw = np.random.default_rng(0)
    items = log.item_ids.copy()
    for places in (others, others - 1):
        items[places] = draw.permutation(items[places])
    assert (items != log.item_ids).sum() > 20
    changed = split._replace(log=dataclasses.replace(log, item_ids=items))
    row = np.flatnonzero(part_queries(split, part).user_ids == user)
    assert len(row) == 1
    found = [
        evaluation.baseline_ranks(one, part, evaluation.count_statistics(one))
        for one in (split, changed)
    ]
    for name in evaluation.BASELINES:
        before, after = (np.stack(one[name])[:, row] for one in found)
        np.testing.assert_array_equal(before, after)


def beauty():
    try:
        path = locate("amazon_beauty").interactions
    except DataError as error:
        pytest.skip(str(error))
    return leave_one_out(k_core(read_interactions(path), 5))


@pytest.mark.skipif("RASEREC_DATA_DIR" not in os.environ, reason="RASEREC_DATA_DIR is not set")
def test_beauty_reaches_what_a_trial_measured():
    """HR@10 and NDCG@10 of throw-away code; it counted all but the last item and let ties pass."""
    split = beauty()
    queries = part_queries(split, "test")
    statistics = evaluation.count_statistics(split, with_valid=True)
    ranks = evaluation.baseline_ranks(split, "test", statistics)
    expected = {
        "popularity": (0.0114, 0.0054, 0.0141, 0.0063),
        "item_knn": (0.0588, 0.0318, 0.0732, 0.0443),
        "markov_knn": (0.0632, 0.0358, 0.0774, 0.0481),
    }
    for name, reference in expected.items():
        metrics = evaluate_ranks(*ranks[name])
        found = [
            metrics[protocol][metric]
            for protocol in ("unfiltered", "filtered")
            for metric in ("HR@10", "NDCG@10")
        ]
        np.testing.assert_allclose(found, reference, atol=0.0012, err_msg=name)
    assert len(queries.user_ids) == 22363
