"""First-order Markov chain: what users took right after an item.

    share(j | i) = times that j came right after i / times that anything did

Repeats count: i may follow i.
"""

import numpy as np

from raserec_jax.baselines.item_table import ItemTable, count_pairs, table_of
from raserec_jax.baselines.queries import Counted


def transition_shares(counted: Counted) -> ItemTable:
    """Row i: the items that followed i, with their share of what followed; empty where nothing did."""
    follower = np.flatnonzero(counted.follows)
    width = counted.num_items + 1
    codes = counted.item_ids[follower - 1].astype(np.int64) * width + counted.item_ids[follower]
    codes, counts = count_pairs(codes, width * width)
    row, column = np.divmod(codes, width)
    return table_of(row, column, counts / np.bincount(row, counts)[row], counted.num_items)
