"""Attention over what was retrieved, by hand and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.evaluation.attention import AttentionSums, attention_summary, attention_sums

sums_of = jax.jit(attention_sums)


def drawn(seed, queries=300, top_k=6, sharpness=2.0):
    """Weights, mask and next-item flags with rows of every length, also none."""
    draw = np.random.default_rng(seed)
    mask = np.arange(top_k) < draw.integers(0, top_k + 1, queries)[:, None]
    raw = np.exp(sharpness * draw.normal(size=mask.shape)) * mask
    weights = raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-30)
    return weights.astype(np.float32), mask, draw.random(mask.shape) < 0.3


def summary_of(*block):
    return attention_summary({"one": sums_of(*map(jnp.asarray, block))})


def test_by_hand():
    weights = np.array([[0.5, 0.5, 0.0], [0.8, 0.1, 0.1], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    is_next = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1]], bool)
    found = summary_of(weights.astype(np.float32), mask, is_next)
    # Query 0: half of the weight on one of two; query 1: .2 on two of three; query 2 has no other, query 3 nothing.
    assert found["queries"] == 3
    assert found["next_item"] == {
        "queries": 2,
        "share": pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-5),
    }
    one = found["channels"]["one"]
    assert one["mean"] == pytest.approx([2.3 / 3, 0.6 / 2, 0.1], abs=1e-5)
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.1))
    assert one["entropy"] == pytest.approx((1 + entropy / np.log(3)) / 2, abs=1e-5)
    effective = np.exp(entropy) / 3
    assert [np.flatnonzero(one["effective"]).tolist(), max(one["effective"])] == [
        [int(40 * effective), 39],
        0.5,
    ]
    gains = np.array([0.0, 0.2 - 2 / 3])
    half = 1.959964 * gains.std() / np.sqrt(2)
    assert one["next_item"] == pytest.approx(
        {"mass": 0.35, "low": 0.35 - half, "high": 0.35 + half}, abs=2e-5
    )


@given(seed=st.integers(0, 1000), sharpness=st.floats(0.0, 4.0))
def test_quantiles_are_those_of_the_weights(seed, sharpness):
    weights, mask, is_next = drawn(seed, sharpness=sharpness)
    one = summary_of(weights, mask, is_next)["channels"]["one"]
    for rank in range(weights.shape[1]):
        there = weights[mask[:, rank], rank]
        assert one["mean"][rank] == pytest.approx(there.mean(), abs=1e-5)
        for name, level in (("low", 0.1), ("high", 0.9)):
            # The nearest order statistics bound it, but for the width of a bin.
            bounds = np.quantile(there, [level - 2 / len(there), level + 2 / len(there)])
            low, high = (np.sqrt(bounds) + (-1 / 256, 1 / 256)).clip(0, 1) ** 2
            assert low <= one[name][rank] <= high


def test_blocks_add_up():
    weights, mask, is_next = drawn(0)
    whole = sums_of(weights, mask, is_next)
    parts = [
        sums_of(weights[rows], mask[rows], is_next[rows]) for rows in (slice(150), slice(150, 300))
    ]
    total = AttentionSums(*(np.add(*pair) for pair in zip(*parts, strict=True)))
    for name, found in total._asdict().items():
        np.testing.assert_allclose(found, getattr(whole, name), rtol=1e-5, err_msg=name)


def test_uniform_attention_is_chance():
    _, mask, is_next = drawn(1)
    uniform = (mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    found = summary_of(uniform, mask, is_next)
    one, share = found["channels"]["one"], found["next_item"]["share"]
    assert one["entropy"] == pytest.approx(1.0, abs=1e-5)
    assert one["effective"][-1] == 1.0
    assert [one["next_item"][key] for key in ("mass", "low", "high")] == pytest.approx(
        [share] * 3, abs=2e-4
    )


def test_padding_changes_nothing():
    weights, mask, is_next = drawn(2)
    rows, ranks = ((0, 5), (0, 0)), ((0, 0), (0, 3))
    padded = [np.pad(field, rows) for field in (weights, mask)]
    padded.append(np.pad(is_next, rows, constant_values=True))
    assert summary_of(*padded) == summary_of(weights, mask, is_next)
    wider = summary_of(*(np.pad(field, ranks) for field in (weights, mask, is_next)))
    one, before = wider["channels"]["one"], summary_of(weights, mask, is_next)["channels"]["one"]
    assert one["mean"] == [*before["mean"], None, None, None]
    assert (one["entropy"], one["next_item"]) == (before["entropy"], before["next_item"])


def test_nothing_was_attended_to():
    none = np.zeros((4, 3), bool)
    assert summary_of(np.zeros((4, 3), np.float32), none, none) == {}
    assert attention_summary({}) == {}
    single = np.eye(3, dtype=bool)[:1]
    found = summary_of(single.astype(np.float32), single, single)
    assert found["next_item"] == {"queries": 0, "share": None}
    assert found["channels"]["one"]["entropy"] is None
    assert "next_item" not in found["channels"]["one"]
