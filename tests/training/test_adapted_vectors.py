"""Candidates chosen under a trained map, against the plain computation."""

import jax.numpy as jnp
import numpy as np

from raserec_jax.training.adapted_vectors import adapt, fresh_adapter, nearest_candidates


def test_the_fresh_map_is_the_identity():
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float16)
    found = adapt(fresh_adapter(6), vectors)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.asarray(vectors, np.float32))


def test_nearest_candidates_are_those_of_the_plain_computation():
    draw = np.random.default_rng(1)
    pool, rows, width, candidates = 1300, 1100, 5, 7
    vectors = draw.normal(size=(pool, width)).astype(np.float16)
    vectors[3] = 0  # a history without text
    ids = draw.integers(-1, pool, (rows, candidates)).astype(np.int32)
    ids[5] = -1
    kernel = draw.normal(size=(width, width)).astype(np.float32)
    found = np.asarray(
        nearest_candidates(
            {"kernel": jnp.asarray(kernel)}, jnp.asarray(vectors), jnp.asarray(ids), k=3
        )
    )
    assert found.shape == (rows, 3)
    turned = vectors.astype(np.float64) @ kernel
    turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)
    for row in range(rows):
        scores = np.where(ids[row] >= 0, turned[ids[row]] @ turned[row], -2)
        best = np.sort(scores)[::-1][:3]
        of_found = np.where(found[row] >= 0, turned[found[row]] @ turned[row], -2)
        np.testing.assert_allclose(of_found, best, atol=1e-5)
    assert (found[5] == -1).all()


def test_more_neighbours_than_candidates():
    ids = jnp.array([[1, 0]], jnp.int32)
    found = nearest_candidates(fresh_adapter(2), jnp.eye(2), ids, k=5)
    np.testing.assert_array_equal(found, [[0, 1]])
