"""Metrics worked out by hand, against the papers' code, and the interval's coverage."""

import numpy as np
import pytest

from raserec_jax.evaluation import metrics
from tests.golden_files import read_golden


def test_metrics_by_hand():
    found = metrics.metrics_from_ranks(np.array([0, 1, 4, 9, 10]), cutoffs=(1, 5, 10))
    assert found["HR@1"] == pytest.approx(1 / 5)
    assert found["HR@5"] == pytest.approx(3 / 5)
    assert found["HR@10"] == pytest.approx(4 / 5)
    assert found["NDCG@5"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(6)) / 5)
    assert found["MRR@10"] == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 10) / 5)
    assert list(found)[:4] == ["HR@1", "HR@5", "HR@10", "NDCG@1"]
    assert all(type(value) is float for value in found.values())


def test_golden_metrics():
    golden = read_golden("metrics")
    scores, target_ids = golden["scores"], golden["target_ids"]
    target_scores = np.take_along_axis(scores, target_ids[:, None], axis=1)
    ranks = (scores[:, 1:] >= target_scores).sum(axis=1) - 1
    found = metrics.metrics_from_ranks(ranks)
    names = {"HR": "recall", "NDCG": "ndcg", "MRR": "mrr"}
    for name, value in found.items():
        kind, cutoff = name.split("@")
        assert value == pytest.approx(float(golden[f"{names[kind]}@{cutoff}"]), rel=1e-5), name


def test_metric_values_are_per_user():
    np.testing.assert_allclose(metrics.metric_values(np.array([0, 2, 10]), "NDCG@10"), [1, 0.5, 0])


def test_metric_values_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="metric='recall@10' is unknown; use HR@k"):
        metrics.metric_values(np.array([0]), "recall@10")
    with pytest.raises(ValueError, match="metric='HR@0' is unknown"):
        metrics.metrics_from_ranks(np.array([0]), cutoffs=(0,))
    with pytest.raises(ValueError, match="no ranks were given"):
        metrics.metrics_from_ranks(np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="rank -1 of user row 1 is negative"):
        metrics.metrics_from_ranks(np.array([0, -1]))


def test_bootstrap_repeats_with_its_seed():
    draw = np.random.default_rng(0)
    ranks_a, ranks_b = draw.integers(0, 30, (2, 500))
    first = metrics.paired_bootstrap(ranks_a, ranks_b, seed=3)
    assert metrics.paired_bootstrap(ranks_a, ranks_b, seed=3) == first
    assert metrics.paired_bootstrap(ranks_a, ranks_b, seed=4) != first
    assert first["low"] < first["mean"] < first["high"]


def test_bootstrap_of_equal_ranks_is_zero():
    ranks = np.arange(40)
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert metrics.paired_bootstrap(ranks, ranks, samples=50) == zero


def test_bootstrap_is_what_drawing_user_by_user_gives():
    draw = np.random.default_rng(1)
    ranks_a, ranks_b = draw.integers(0, 40, (2, 300))
    found = metrics.paired_bootstrap(ranks_a, ranks_b, "MRR@20", samples=20_000)
    gain = metrics.metric_values(ranks_b, "MRR@20") - metrics.metric_values(ranks_a, "MRR@20")
    means = gain[draw.integers(0, 300, (20_000, 300))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert found["low"] == pytest.approx(low, abs=0.03 * width)
    assert found["high"] == pytest.approx(high, abs=0.03 * width)


def test_users_of_several_queries_are_drawn_with_all_of_them():
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 200)
    once = metrics.bootstrap_mean(values)
    often = metrics.bootstrap_mean(np.repeat(values, 4), users=np.repeat(np.arange(200), 4))
    assert often == pytest.approx(once)  # asking four times tells no more of a user
    some = metrics.bootstrap_mean(np.array([1.0, 1.0, 1.0, 0.0]), users=np.array([3, 3, 3, 8]))
    assert some == {"mean": 0.75, "low": 0.0, "high": 1.0}


def test_bootstrap_covers_the_true_gain():
    """b hits with probability .30, a with .25, so the true gain in HR@1 is .05."""
    draw = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        shared = draw.random(400)
        ranks_a = np.where(shared < 0.25, 0, 5)
        ranks_b = np.where((shared < 0.20) | (draw.random(400) < 0.125) & (shared >= 0.20), 0, 5)
        gain = metrics.paired_bootstrap(ranks_a, ranks_b, "HR@1", samples=300, seed=trial)
        covered += gain["low"] <= 0.20 + 0.80 * 0.125 - 0.25 <= gain["high"]
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="ranks_a has 3 users and ranks_b 2"):
        metrics.paired_bootstrap(np.zeros(3, int), np.zeros(2, int))
    with pytest.raises(ValueError, match="samples=0, level=0.95; expected samples >= 1"):
        metrics.paired_bootstrap(np.zeros(3, int), np.zeros(3, int), samples=0)
    with pytest.raises(ValueError, match="level=1.0; expected samples >= 1, 0 < level < 1"):
        metrics.paired_bootstrap(np.zeros(3, int), np.zeros(3, int), level=1.0)
