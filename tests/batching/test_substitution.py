"""Substituted views: what may change, how often, and into what."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.batching.substitution import substitute_items

NEIGHBORS = jnp.array([[-1, -1, -1], [2, 3, 4], [5, -1, -1], [-1, -1, -1], [1, 2, -1], [4, 3, 1]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.2, 1.0]))
def test_only_known_neighbours_take_an_items_place(seed, rate):
    items = jnp.asarray(np.random.default_rng(seed).integers(0, 6, (8, 16)), jnp.int32)
    view = np.asarray(substitute_items(items, NEIGHBORS, rate, jax.random.key(seed)))
    for item, found in zip(np.asarray(items).ravel(), view.ravel(), strict=True):
        known = set(np.asarray(NEIGHBORS)[item]) - {-1}
        if item == 0 or not known or rate == 0:
            assert found == item
        elif rate == 1:
            assert found in known
        else:
            assert found == item or found in known


def test_rate_and_neighbours_are_uniform():
    items = jnp.full((100, 400), 1, jnp.int32)
    view = np.asarray(substitute_items(items, NEIGHBORS, 0.2, jax.random.key(3)))
    changed = view[view != 1]
    assert abs(len(changed) / view.size - 0.2) < 0.01
    shares = np.bincount(changed, minlength=5)[2:5] / len(changed)
    assert np.all(np.abs(shares - 1 / 3) < 0.02)
