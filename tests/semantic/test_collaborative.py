"""Item vectors from training histories."""

import numpy as np
import pytest

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import leave_one_out
from raserec_jax.errors import DataError
from raserec_jax.semantic.collaborative import collaborative_vectors


def two_worlds(last="a0"):
    """Users who take a-items or b-items; the held-out ends, and nothing else, mix the two."""
    draw = np.random.default_rng(0)
    owners, items = [], []
    for user in range(40):
        kind = "ab"[user % 2]
        own = [f"{kind}{item}" for item in draw.permutation(8)[:6]]
        owners += [f"u{user}"] * 8
        items += [*own, last, last]
    return leave_one_out(InteractionLog.from_columns(owners, items, name="two worlds"))


def test_items_of_one_world_are_near_and_held_out_items_are_not_looked_at():
    split = two_worlds()
    vectors = collaborative_vectors(split, 6)
    labels = split.log.item_labels
    world = np.array([label[0] for label in labels[1:]])
    cosines = vectors[1:] @ vectors[1:].T
    assert vectors.dtype == np.float32
    assert np.all(vectors[0] == 0)
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, atol=1e-5)
    same = world[:, None] == world[None]
    assert cosines[same].mean() > 0.3
    np.testing.assert_allclose(cosines[~same], 0, atol=1e-4)
    other_end = collaborative_vectors(two_worlds(last="b0"), 6)
    order = {label: row for row, label in enumerate(two_worlds(last="b0").log.item_labels)}
    again = other_end[[order[label] for label in labels]]
    np.testing.assert_allclose(again @ again.T, vectors @ vectors.T, atol=1e-4)


def test_an_item_without_company_has_no_vector():
    owners = ["u"] * 5 + ["v"] * 5 + ["w"] * 3
    items = ["a", "b", "c", "a", "a", "c", "b", "a", "b", "b", "alone", "a", "b"]
    split = leave_one_out(InteractionLog.from_columns(owners, items, name="x"))
    vectors = collaborative_vectors(split, 3)
    row = list(split.log.item_labels).index("alone")
    assert np.all(vectors[row] == 0)
    assert np.linalg.norm(vectors, axis=1).astype(bool).sum() == 3


def test_no_company_at_all_is_refused():
    owners = ["u"] * 3 + ["v"] * 3
    split = leave_one_out(
        InteractionLog.from_columns(owners, ["a", "b", "a", "b", "a", "b"], name="x")
    )
    with pytest.raises(DataError, match="no two items share a training history"):
        collaborative_vectors(split, 2)
