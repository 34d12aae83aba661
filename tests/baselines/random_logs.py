"""Small random logs, and the statistics of baselines the slow way."""

import numpy as np

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import Split, leave_one_out

ITEMS = 12


def random_split(seed, *, users=14, times=True, most=9) -> Split:
    """Users of 1 to `most` interactions with items i00.., repeats included; times with ties."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, most + 1, users)
    user = np.repeat(np.arange(users), lengths)
    items = draw.integers(0, ITEMS, len(user))
    items[:ITEMS] = np.arange(ITEMS)[: len(items)]  # so that equal splits have equal catalogues
    stamps = draw.integers(0, 40, len(user)) if times else None
    log = InteractionLog.from_columns(
        [f"u{i:02d}" for i in user], [f"i{i:02d}" for i in items], timestamp=stamps, name="random"
    )
    return leave_one_out(log)


def training_histories(split: Split, ends=None) -> list[list[int]]:
    """Items of each user's training part, or up to `ends`."""
    ends = split.train_end if ends is None else ends
    return [split.log.items_of(u)[:end].tolist() for u, end in enumerate(ends)]


def slow_cosines(histories, num_items) -> np.ndarray:
    """[V + 1, V + 1] cosine of the items' sets of users, 0 on the diagonal."""
    taken = np.zeros((len(histories), num_items + 1))
    for user, items in enumerate(histories):
        taken[user, items] = 1.0
    both = taken.T @ taken
    counts = np.maximum(np.diag(both), 1)
    cosines = both / np.sqrt(np.outer(counts, counts))
    np.fill_diagonal(cosines, 0.0)
    return cosines


def slow_shares(histories, num_items) -> np.ndarray:
    """[V + 1, V + 1] share of what followed the row's item."""
    counts = np.zeros((num_items + 1, num_items + 1))
    for items in histories:
        for first, second in zip(items[:-1], items[1:], strict=True):
            counts[first, second] += 1
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def as_dense(table, num_items) -> np.ndarray:
    """An ItemTable as a matrix."""
    dense = np.zeros((num_items + 1, num_items + 1))
    for row in range(num_items + 1):
        entries = slice(table.offsets[row], table.offsets[row + 1])
        assert np.unique(table.item_ids[entries]).size == table.item_ids[entries].size
        dense[row, table.item_ids[entries]] = table.values[entries]
    return dense
