"""Items that the same users took: cosine of co-occurrence.

    similarity(i, j) = users who took both / sqrt(users who took i * users who took j),  i != j

An item is no neighbour of itself: what a user has met would else fill the unfiltered lists.
"""

import numpy as np

from raserec_jax.baselines.blocks import blocks
from raserec_jax.baselines.item_table import ItemTable, count_pairs, table_of
from raserec_jax.baselines.queries import Counted

NEIGHBORS = 1000
"""Kept per item, the most similar ones: bounds memory; Beauty's validation metrics equal those with all of them."""

COUNTED_PER_USER = 200
"""Newest interactions of a user that are paired: pairs grow with their square."""

_PAIRS_PER_BLOCK = 4_000_000


def cosine_neighbors(
    counted: Counted, *, neighbors: int = NEIGHBORS, per_user: int = COUNTED_PER_USER
) -> ItemTable:
    """Row i: the items of highest similarity to i; of equal ones the lower ids. Built in blocks of items.

    Args:
      counted: interactions; an item counts once per user.
      neighbors: entries per row at most.
      per_user: newest interactions of each user that are looked at.
    """
    width = counted.num_items + 1
    users, items = _distinct_pairs(counted, per_user)
    takers = np.bincount(items, minlength=width)
    basket_ends = np.cumsum(np.bincount(users, minlength=1))
    basket_sizes = np.diff(np.concatenate([[0], basket_ends]))
    by_item = np.argsort(items, kind="stable")
    users_by_item = users[by_item]
    pairs = np.bincount(items, weights=basket_sizes[users], minlength=width).astype(np.int64)
    item_ends = np.cumsum(takers)
    rows, columns, values = [], [], []
    for first, last in blocks(pairs, _PAIRS_PER_BLOCK):
        block_users = users_by_item[item_ends[first - 1] if first else 0 : item_ends[last - 1]]
        sizes = basket_sizes[block_users]
        starts = np.repeat((basket_ends - basket_sizes)[block_users], sizes)
        places = np.arange(len(starts)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts
        row = np.repeat(np.repeat(np.arange(last - first), takers[first:last]), sizes)
        codes, counts = count_pairs(row * width + items[places], (last - first) * width)
        row, column = np.divmod(codes, width)
        row += first
        other = row != column
        row, column, counts = row[other], column[other], counts[other]
        value = counts / np.sqrt(takers[row] * takers[column].astype(np.float64))
        kept = _largest(row - first, value, neighbors)
        rows.append(row[kept])
        columns.append(column[kept])
        values.append(value[kept])
    return table_of(*map(np.concatenate, (rows, columns, values)), counted.num_items)


def _distinct_pairs(counted: Counted, per_user: int) -> tuple[np.ndarray, np.ndarray]:
    """(users, items) by user, each pair once, of the newest interactions."""
    users = counted.user_ids.astype(np.int64)
    ends = np.cumsum(np.bincount(users, minlength=1))
    newest = ends[users] - np.arange(len(users)) <= per_user
    width = counted.num_items + 1
    return np.divmod(np.unique(users[newest] * width + counted.item_ids[newest]), width)


def _largest(rows, values, count: int) -> np.ndarray:
    """Which entries, sorted by row, are among the `count` largest of their row; of equals the first."""
    sizes = np.bincount(rows)
    if sizes.max(initial=0) <= count:
        return np.ones(len(rows), bool)
    order = np.lexsort((-values, rows))  # stable
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.empty(len(rows), bool)
    kept[order] = place < count
    return kept
