"""Coverage and popularity of lists, by hand."""

import numpy as np
import pytest

from raserec_jax.evaluation.coverage import recommended_statistics

ITEM_COUNTS = np.array([0, 10, 20, 30, 40, 7])


def test_by_hand():
    found = recommended_statistics(np.array([[1, 2], [2, 4], [1, 2]]), ITEM_COUNTS)
    assert found == {
        "coverage@2": pytest.approx(3 / 5),
        "mean_popularity@2": pytest.approx((10 + 20 + 20 + 40 + 10 + 20) / 6),
    }
    assert all(type(value) is float for value in found.values())


def test_places_without_an_item_do_not_count():
    found = recommended_statistics(np.array([[3, 0, 0], [0, 0, 0]]), ITEM_COUNTS)
    assert found == {"coverage@3": 0.2, "mean_popularity@3": 30.0}
    with pytest.raises(ValueError, match="the lists are empty; expected at least one recommended"):
        recommended_statistics(np.zeros((2, 3), int), ITEM_COUNTS)


def test_the_catalogues_extremes():
    everything = recommended_statistics(np.array([[1, 2, 3, 4, 5]]), ITEM_COUNTS)
    assert everything == {"coverage@5": 1.0, "mean_popularity@5": ITEM_COUNTS.sum() / 5}
