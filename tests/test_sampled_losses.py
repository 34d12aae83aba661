"""Sampled losses against what they are defined as, written out in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.losses import Negatives, next_item_loss, sampled_loss
from tests.quick_jit import quick_jit
from tests.test_losses import ROWS, assert_equals_reference, random_case, reference


def uniform(ids):
    return Negatives(ids, jnp.full(ids.shape, -math.log(ROWS - 1)))


def sampled(query, table, targets, ids, weights=None):
    return sampled_loss(query, table, targets, uniform(ids), weights)


def test_over_all_items_the_softmax_is_the_full_one():
    query, table, targets, weights = random_case()
    everything = jnp.asarray(np.random.default_rng(1).permutation(ROWS - 1) + 1)
    found = quick_jit(jax.value_and_grad(sampled, argnums=(0, 1)))(
        query, table, targets, everything, weights
    )
    assert_equals_reference((query, table, targets, weights), 1, found)


@pytest.mark.parametrize("skewed", [False, True])
def test_the_normaliser_is_right_on_average(skewed):
    """Uniform draws, and draws of which one item is half."""
    query, table, targets, _ = random_case()
    query, targets = query[:1], targets[:1]
    q = np.ones(ROWS - 1)
    q[1::3] *= 5 if skewed else 1
    q /= q.sum()
    draws, negatives = 20_000, 3
    ids = np.random.default_rng(2).choice(ROWS - 1, (draws, negatives), p=q).astype(np.int32) + 1
    log_q = jnp.asarray(np.log(np.concatenate([[1.0], q])), jnp.float32)

    def loss(ids):
        drawn = Negatives(ids, log_q[ids])
        return sampled_loss(query, table, targets, drawn, target_log_q=log_q[targets])

    # exp(loss) is the normaliser over the target's share, and the latter is no estimate.
    only_hits = (ids == int(targets[0])).all(axis=1)
    estimates = np.exp(np.asarray(quick_jit(jax.vmap(loss))(ids), np.float64))[~only_hits]
    expected = np.exp(reference(query, table, targets, np.ones(1), 1)[0])
    error = estimates.std() / math.sqrt(len(estimates))
    assert error < 0.02 * expected
    assert abs(estimates.mean() - expected) < 4 * error


def test_negatives_that_are_the_target_do_not_count():
    query, table, targets, _ = random_case()
    query, targets = query[:2], targets[:2]
    hits = jnp.array([4, 4, 4], jnp.int32)

    @quick_jit
    def losses(ids):
        return [sampled(query, table, targets, ids, w) for w in jnp.eye(2)]

    # Row 0 has target 4: nothing is left to compare with. For row 1 (target 9) item 4 stands for 21.
    logits = np.asarray(query, np.float64) @ np.asarray(table, np.float64).T
    gap = logits[1, 4] - logits[1, 9]
    expected = [0.0, math.log1p(21 * math.exp(gap))]
    np.testing.assert_allclose(losses(hits), expected, rtol=1e-5, atol=1e-6)
    # The one negative of row 0 that is no hit stands for all 21 other items.
    gap = logits[0, 11] - logits[0, 4]
    mixed = losses(jnp.array([4, 11, 4], jnp.int32))
    assert float(mixed[0]) == pytest.approx(math.log1p(21 * math.exp(gap)), rel=1e-5)


def test_draws_that_are_not_valid_do_not_count():
    query, table, targets, weights = random_case()
    ids = jnp.array([2, 3, 5, 8], jnp.int32)
    drawn = uniform(ids)._replace(valid=jnp.array([True, False, True, True]))
    for kind in ("softmax", "bce", "gbce"):
        # The calibration of gbce goes by the number drawn, so only the uncalibrated one may be compared.
        common = {"kind": kind, "calibration": 0.0}
        found = sampled_loss(query, table, targets, drawn, weights, **common)
        expected = sampled_loss(
            query, table, targets, uniform(ids[jnp.array([0, 2, 3])]), weights, **common
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_binary_losses_equal_their_definition(calibration):
    query, table, targets, weights = random_case()
    ids = jnp.array([2, 9, 3, 4, 20], jnp.int32)
    logits = np.asarray(query, np.float64) @ np.asarray(table, np.float64).T
    rate = len(ids) / (ROWS - 2)
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    bce, gbce = [], []
    for row, target in zip(logits, np.asarray(targets), strict=True):
        positive = 1 / (1 + math.exp(-row[target]))
        negative = [1 / (1 + math.exp(-row[i])) for i in np.asarray(ids) if i != target]
        against = [-math.log(1 - p) for p in negative]
        bce.append(-math.log(positive) + np.mean(against))
        gbce.append((-math.log(positive**beta) + sum(against)) / (len(negative) + 1))
    for kind, expected in (("bce", bce), ("gbce", gbce)):
        found = sampled_loss(
            query, table, targets, uniform(ids), weights, kind=kind, calibration=calibration
        )
        weighted = np.average(expected, weights=np.asarray(weights))
        assert float(found) == pytest.approx(weighted, rel=1e-5)


def test_wrong_choices_are_refused():
    query, table, targets, _ = random_case()
    drawn = uniform(jnp.array([1, 2]))
    with pytest.raises(ValueError, match="kind='hinge' is unknown; use one of softmax, bce, gbce"):
        sampled_loss(query, table, targets, drawn, kind="hinge")


def test_peak_memory_of_the_full_softmax_does_not_grow_with_the_catalogue():
    """Beyond the table and its gradient, as XLA's own account of the compiled program has it."""

    def temporary(rows):
        shapes = [
            jax.ShapeDtypeStruct(shape, dtype)
            for shape, dtype in (((64, 8), "float32"), ((rows, 8), "float32"), ((64,), "int32"))
        ]
        loss = jax.jit(jax.value_and_grad(next_item_loss, argnums=(0, 1)))
        analysis = loss.lower(*shapes).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    small, large = temporary(20_001), temporary(200_001)
    table = 4 * 8 * (200_001 - 20_001)
    assert large - small < 2.5 * table  # chunks of the table and of its gradient
    assert large < 64 * 200_001 * 4 / 2  # all logits at once would be 51 MB
