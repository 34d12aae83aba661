"""Groups cover every query once, cut where they should, and their metrics are those of their members."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays

from raserec_jax.evaluation import groups
from raserec_jax.evaluation.evaluator import evaluate_ranks

COUNTS = arrays.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 30))


def labels(found):
    return [group.label for group in found]


def test_length_groups_are_the_papers():
    lengths = np.array([6, 7, 10, 11, 2, 300])
    found = groups.length_groups(lengths)
    assert labels(found) == ["< 7", "7–10", "> 10"]
    assert [group.rows.tolist() for group in found] == [[0, 4], [1, 2], [3, 5]]
    assert [(group.low, group.high, group.mean) for group in found] == [
        (None, 6, 4.0),
        (7, 10, 8.5),
        (11, None, 155.5),
    ]


def test_popularity_groups_hold_equal_shares_of_training():
    # 10 interactions in each fifth: ten items of 1, five of 2, two of 5, one of 10, one of 10.
    item_counts = np.array([0, *[1] * 10, *[2] * 5, 5, 5, 10, 10])
    target_ids = np.arange(1, 20)
    found = groups.popularity_groups(item_counts, target_ids)
    # 10 twice: equal values share a group, which so has two fifths.
    assert labels(found) == ["< 2", "2–4", "5–9", "> 9"]
    assert [len(group.rows) for group in found] == [10, 5, 2, 2]
    np.testing.assert_array_equal(found[2].rows, [15, 16])


def test_quantiles_of_distinct_lengths_are_equal():
    found = groups.length_quantiles(np.random.default_rng(0).permutation(100))
    assert [len(group.rows) for group in found] == [20] * 5
    assert labels(found) == ["< 20", "20–39", "40–59", "60–79", "> 79"]


def test_equal_lengths_are_one_group():
    assert labels(groups.length_quantiles(np.full(7, 4))) == ["all"]


@hypothesis.given(values=COUNTS, bins=st.integers(1, 8))
def test_every_query_is_in_one_group_and_equal_values_in_the_same(values, bins):
    edges = groups.equal_mass_edges(values, np.ones_like(values), bins)
    assert len(edges) < bins
    assert edges == sorted(set(edges))
    found = groups.value_groups(values, edges)
    rows = np.concatenate([group.rows for group in found])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(values)))
    for group in found:
        low = -np.inf if group.low is None else group.low
        high = np.inf if group.high is None else group.high
        inside = (values >= low) & (values <= high)
        np.testing.assert_array_equal(np.flatnonzero(inside), group.rows)


@hypothesis.given(values=COUNTS, bins=st.integers(2, 6))
def test_no_group_is_heavier_than_its_part_and_one_value(values, bins):
    masses = values + 1
    found = groups.value_groups(values, groups.equal_mass_edges(values, masses, bins))
    largest_value = max(masses[values == value].sum() for value in np.unique(values))
    for group in found:
        assert masses[group.rows].sum() <= masses.sum() / bins + largest_value + 1e-9


def test_metrics_are_those_of_the_members():
    draw = np.random.default_rng(1)
    lengths, unfiltered = draw.integers(3, 14, 50), draw.integers(0, 30, 50)
    ranks = {"pretrain": (unfiltered, unfiltered // 2)}
    found = groups.group_metrics(groups.length_groups(lengths), ranks)
    for told, members in zip(
        found, (lengths < 7, (lengths >= 7) & (lengths < 11), lengths > 10), strict=True
    ):
        assert told["queries"] == members.sum()
        assert told["mean"] == pytest.approx(lengths[members].mean())
        expected = evaluate_ranks(unfiltered[members], unfiltered[members] // 2, (10,))
        assert told["models"] == {"pretrain": expected}
    mean = sum(one["queries"] * one["models"]["pretrain"]["filtered"]["NDCG@10"] for one in found)
    whole = evaluate_ranks(unfiltered, unfiltered // 2)["filtered"]["NDCG@10"]
    assert mean / 50 == pytest.approx(whole)


def test_a_group_without_members_has_no_metrics():
    found = groups.group_metrics(groups.length_groups(np.array([20])), {"m": [np.array([3])] * 2})
    assert [one["queries"] for one in found] == [0, 0, 1]
    assert [list(one["models"]) for one in found] == [[], [], ["m"]]
    assert found[0]["mean"] is None
