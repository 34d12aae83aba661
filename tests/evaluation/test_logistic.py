"""Logistic regression against its own optimality condition, the area under the curve against counting pairs."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from raserec_jax.evaluation.logistic import area_under_curve, calibration, fit_logistic


def drawn(rows=4000, seed=0):
    """Features of very different sizes, one of them constant, and labels from known odds."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, 3)) * [1.0, 100.0, 0.0] + [0.0, 50.0, 7.0]
    odds = 0.3 + 1.5 * features[:, 0] - 0.01 * (features[:, 1] - 50)
    return features, draw.random(rows) < 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fit_is_where_the_gradient_vanishes(weighted):
    features, labels = drawn()
    weights = np.random.default_rng(1).random(len(labels)) if weighted else None
    model = fit_logistic(features, labels, weights, ridge=0.01)
    missed = labels - model.probabilities(features)
    missed = missed if weights is None else missed * weights / weights.mean()
    standard = (features - model.means) / model.scales
    assert missed.sum() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(
        standard.T @ missed, 0.01 * len(labels) * model.coefficients, atol=1e-6
    )


def test_known_odds_are_found():
    features, labels = drawn(40_000)
    model = fit_logistic(features, labels)
    expected = np.array([1.5, -1.0, 0.0])  # per standard deviation
    assert model.intercept == pytest.approx(0.3, abs=0.05)
    np.testing.assert_allclose(model.coefficients, expected, atol=0.06)
    assert (np.abs(model.coefficients - expected)[:2] < 4 * model.errors[:2]).all()
    for one in calibration(labels, model.probabilities(features)):
        assert abs(one["predicted"] - one["observed"]) < 5 * one["error"] and one["rows"] == 4000


def test_separable_data_stay_finite():
    features = np.linspace(-1, 1, 40)[:, None]
    model = fit_logistic(features, features[:, 0] > 0)
    assert np.isfinite(model.coefficients).all() and model.coefficients[0] > 1
    with pytest.raises(ValueError, match="all 40 labels are True; both are needed"):
        fit_logistic(features, features[:, 0] > -9)


@hypothesis.given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_the_area_counts_pairs(rows):
    labels = np.array([label for label, _ in rows])
    scores = np.array([float(score) for _, score in rows])
    ahead = scores[labels][:, None] - scores[~labels][None]
    expected = np.mean(np.where(ahead > 0, 1.0, np.where(ahead == 0, 0.5, 0.0)))
    assert area_under_curve(labels, scores) == pytest.approx(expected)


def test_the_area_needs_both_labels():
    with pytest.raises(ValueError, match="all 3 labels are False; both are needed"):
        area_under_curve(np.zeros(3, bool), np.arange(3.0))
