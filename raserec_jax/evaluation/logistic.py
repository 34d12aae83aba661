"""Logistic regression with few features, and how good its probabilities are: area under the curve, calibration.

Host code: Newton's steps on standardised features; the ridge keeps separable data finite.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

RIDGE = 1e-3
"""Per row, on the standardised coefficients."""


class Logistic(NamedTuple):
    """A fitted model on standardised features.

    intercept, coefficients: log odds at the mean, and per standard deviation of each feature.
    errors: [features] standard errors of the coefficients.
    means, scales: of the features, by which they are standardised.
    """

    intercept: float
    coefficients: np.ndarray
    errors: np.ndarray
    means: np.ndarray
    scales: np.ndarray

    def probabilities(
        self, features: Float[np.ndarray, "rows features"]
    ) -> Float[np.ndarray, " rows"]:
        """That the label is True."""
        standard = (features - self.means) / self.scales
        return _sigmoid(self.intercept + standard @ self.coefficients)


def fit_logistic(
    features: Float[np.ndarray, "rows features"],
    labels: Bool[np.ndarray, " rows"],
    weights: Float[np.ndarray, " rows"] | None = None,
    *,
    ridge: float = RIDGE,
    steps: int = 50,
) -> Logistic:
    """Most likely coefficients under a ridge, by Newton's method.

    Args:
      features: float64; a constant one gets the coefficient 0.
      labels: at least one of each kind.
      weights: >= 0, of the rows; default 1; they are scaled to a mean of 1.

    Raises:
      ValueError: all labels are the same.
    """
    if labels.all() or not labels.any():
        raise ValueError(f"all {len(labels)} labels are {bool(labels.all())}; both are needed")
    weights = np.ones(len(labels)) if weights is None else weights / weights.mean()
    means, scales = features.mean(axis=0), features.std(axis=0)
    scales = np.where(scales > 1e-12, scales, 1.0)
    design = np.column_stack([np.ones(len(labels)), (features - means) / scales])
    penalty = np.full(design.shape[1], ridge * len(labels))
    penalty[0] = 0.0
    found = np.zeros(design.shape[1])
    for _ in range(steps):
        chances = _sigmoid(design @ found)
        gradient = design.T @ (weights * (labels - chances)) - penalty * found
        curvature = (design * (weights * chances * (1 - chances))[:, None]).T @ design
        curvature += np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        found = found + step / max(1.0, np.abs(step).max() / 4.0)  # a far step is cut short
        if np.abs(step).max() < 1e-10:
            break
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return Logistic(float(found[0]), found[1:], errors[1:], means, scales)


def area_under_curve(
    labels: Bool[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]
) -> float:
    """Chance that a random True row scores above a random False one, ties counting half; 0.5 is guessing.

    Raises:
      ValueError: all labels are the same.
    """
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        raise ValueError(f"all {len(labels)} labels are {bool(positive)}; both are needed")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # 1-based mean rank of each value
    total = middle[place][labels].sum()
    return float((total - positive * (positive + 1) / 2) / (positive * negative))


def calibration(
    labels: Bool[np.ndarray, " rows"], chances: Float[np.ndarray, " rows"], bins: int = 10
) -> list[dict[str, float | int]]:
    """By increasing probability, bins of about equally many rows: what was predicted, what came true.

    Returns:
      [{"rows", "predicted": mean probability, "observed": share of True, "error": its standard error}, ...].
    """
    order = np.argsort(chances, kind="stable")
    found = []
    for rows in np.array_split(order, min(bins, len(order))):
        observed = float(labels[rows].mean())
        error = float(np.sqrt(observed * (1 - observed) / len(rows)))
        predicted = float(chances[rows].mean())
        found.append(
            {"rows": len(rows), "predicted": predicted, "observed": observed, "error": error}
        )
    return found


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
