"""Small logs for tests of what comes after the data."""

import numpy as np

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import Split, leave_one_out


def random_split(lengths, num_items: int = 20, seed: int = 0) -> Split:
    """Users with that many interactions each, of random items; times rise along the log."""
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.random.default_rng(seed).integers(1, num_items + 1, len(users))
    return leave_one_out(InteractionLog.from_columns(users, items, timestamp=np.arange(len(users))))


def cyclic_split(users: int = 24, length: int = 9, num_items: int = 12) -> Split:
    """Every item is followed by the next one of a cycle: all there is to learn."""
    starts = np.arange(users) % num_items
    items = (starts[:, None] + np.arange(length)[None]) % num_items + 1
    return leave_one_out(
        InteractionLog.from_columns(np.repeat(np.arange(users), length), items.reshape(-1))
    )
