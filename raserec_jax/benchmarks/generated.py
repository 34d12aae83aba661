"""Data by seed: a log of given sizes, and vectors that lie in clusters as those of histories do."""

import numpy as np

from raserec_jax.data.interactions import InteractionLog

_SHORTEST = 5


def generated_log(*, users: int, items: int, mean_length: float, seed: int = 0) -> InteractionLog:
    """Lengths from 5 upwards, geometric behind it; items by a power law, each at least once."""
    draw = np.random.default_rng([seed, 1])
    more = max(mean_length - _SHORTEST, 0.0)
    lengths = _SHORTEST - 1 + draw.geometric(1.0 / (1.0 + more), size=users)
    count = int(lengths.sum())
    weights = 1.0 / np.arange(1, items + 1) ** 0.8
    taken = draw.choice(items, count, p=weights / weights.sum())
    if count < items:
        raise ValueError(f"{users} users take {count} items in all, fewer than {items}")
    taken[draw.choice(count, items, replace=False)] = np.arange(items)
    return InteractionLog.from_columns(
        np.repeat(np.arange(users), lengths), taken, name="generated"
    )


def clustered_vectors(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """[rows, dim] float32 around centres, one for about 100 of them; on structureless vectors no index finds much."""
    draw = np.random.default_rng([seed, 2])
    centres = draw.standard_normal((max(1, rows // 100), dim), dtype=np.float32)
    vectors = draw.standard_normal((rows, dim), dtype=np.float32)
    vectors *= 0.5
    vectors += centres[draw.integers(0, len(centres), rows)]
    return vectors
