"""Neighbours by K-means clusters."""

import numpy as np

from raserec_jax.semantic.clusters import cluster_neighbors, spherical_kmeans
from raserec_jax.semantic.ready_vectors import unit


def bunches(count, of_each, seed=0):
    """Unit vectors in `count` tight bunches, rows of a bunch apart by `count`."""
    draw = np.random.default_rng(seed)
    centres = unit(draw.normal(size=(count, 16)))
    return unit(np.tile(centres, (of_each, 1)) + 0.01 * draw.normal(size=(count * of_each, 16)))


def test_tight_bunches_are_not_torn_apart():
    vectors = bunches(4, 25)
    labels = spherical_kmeans(vectors.astype(np.float32), 4, np.random.default_rng(1))
    for bunch in range(4):
        assert len(set(labels[bunch::4])) == 1


def test_neighbours_are_distinct_members_of_the_own_cluster_and_of_other_groups():
    vectors = bunches(3, 40).astype(np.float16)
    vectors[[5, 50]] = 0
    groups = np.arange(120) // 4
    found = cluster_neighbors(vectors, groups, queries=100, top_k=5, clusters=3)
    assert found.dtype == np.int32
    assert found.shape == (100, 5)
    labels = spherical_kmeans(
        np.delete(vectors, [5, 50], axis=0).astype(np.float32), 3, np.random.default_rng(0)
    )
    label = np.insert(labels, [5, 49], -1)
    for row, members in enumerate(found):
        if row in (5, 50):
            assert np.all(members == -1)
            continue
        assert len(set(members)) == 5
        assert np.all(label[members] == label[row])
        assert not np.any(groups[members] == groups[row])
    assert found.max() >= 100  # the pool is larger than the queries
    again = cluster_neighbors(vectors, groups, queries=100, top_k=5, clusters=3)
    np.testing.assert_array_equal(found, again)


def test_a_small_cluster_gives_fewer():
    vectors = bunches(2, 3).astype(np.float16)
    found = cluster_neighbors(vectors, np.arange(6), queries=6, top_k=4, clusters=1)
    assert np.all((found >= 0).sum(axis=1) == 4)  # one cluster of six
    found = cluster_neighbors(vectors[:1], np.arange(1), queries=1, top_k=4, clusters=8)
    assert np.all(found == -1)
