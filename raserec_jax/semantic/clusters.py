"""Neighbours by K-means clusters in place of nearest ones: what SRA-CL's retrieval is compared with.

Earlier methods (ICLRec, ICSRec) contrast a history with the centre or the members of its cluster. Here a row's
neighbours are members of its cluster, drawn at random, so that nothing but the choice of neighbours differs.
"""

import numpy as np

from raserec_jax.constants import NO_ROW

_ROWS = 16_384  # per block of similarities
_ROUNDS = 10


def cluster_neighbors(
    vectors: np.ndarray,
    groups: np.ndarray,
    *,
    queries: int,
    top_k: int,
    clusters: int,
    seed: int = 0,
) -> np.ndarray:
    """top_k random members of the cluster of each of the first `queries` rows.

    Args:
      vectors: [rows, width] floats; rows of zeros have no neighbours and are nobody's.
      groups: [rows] int; rows of one group are no neighbours of each other.
      queries: the first so many rows are asked for; all may be neighbours.
      top_k: of each; fewer where a cluster has fewer, or where most of the members that were drawn are of the group.
      clusters: at most so many.
      seed: of the start and the draws.

    Returns:
      [queries, top_k] int32, distinct in a row, -1 after the last.
    """
    found = np.full((queries, top_k), NO_ROW, np.int32)
    real = np.flatnonzero(np.any(vectors != 0, axis=1))
    if len(real) < 2:
        return found
    rng = np.random.default_rng(seed)
    labels = spherical_kmeans(np.asarray(vectors[real], np.float32), clusters, rng)
    # Members of a cluster in random order; a row's neighbours are those after it, around the circle.
    order = np.lexsort((rng.random(len(real)), labels))
    place = np.empty(len(real), np.int64)
    place[order] = np.arange(len(real))
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    asked = np.flatnonzero(real < queries)
    ahead = np.arange(1, 2 * top_k + 9)
    for begin in range(0, len(asked), _ROWS):
        rows = asked[begin : begin + _ROWS]
        start, size = starts[labels[rows]][:, None], sizes[labels[rows]][:, None]
        members = real[order[start + (place[rows][:, None] - start + ahead) % size]]
        usable = (ahead < size) & (groups[members] != groups[real[rows]][:, None])
        chosen = np.argsort(~usable, axis=1, kind="stable")[:, :top_k]
        members = np.where(usable, members, NO_ROW)
        found[real[rows]] = np.take_along_axis(members, chosen, axis=1)
    return found


def spherical_kmeans(vectors: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Label of each row, 0..clusters-1: Lloyd's rounds by cosine (Dhillon and Modha 2001), started far apart.

    SciPy's k-means++ start compares every row with all centres anew for each further one, which is hours here.

    Args:
      vectors: [rows, width] float32, none of them zero.
      clusters: at most so many; a centre that loses all its rows stays where it was.
    """
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centres = _far_apart(vectors, min(clusters, len(vectors)), rng)
    labels = np.zeros(len(vectors), np.int64)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centres)
        for begin in range(0, len(vectors), _ROWS):
            block = vectors[begin : begin + _ROWS]
            nearest = np.argmax(block @ centres.T, axis=1)
            labels[begin : begin + _ROWS] = nearest
            np.add.at(sums, nearest, block)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), centres)
    return labels


def _far_apart(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows to start from: each further one with a probability that grows with its distance to those before it
    (k-means++, Arthur and Vassilvitskii 2007)."""
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.maximum(1.0 - vectors @ vectors[chosen[-1]], 0.0))
        total = distance.sum()
        share = distance / total if total > 0 else None  # all rows are where a centre is
        chosen.append(int(rng.choice(len(vectors), p=share)))
    return vectors[chosen]
