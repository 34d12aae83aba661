"""Filters: from a log to a smaller one with dense ids."""

import numpy as np

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import DataError


def k_core(log: InteractionLog, k: int = 5) -> InteractionLog:
    """Drops users and items with fewer than k interactions, again and again until none is left.

    Repeated interactions with an item count each.

    Args:
      log: any log.
      k: least number of interactions of a user and of an item; 1 or less keeps everything.

    Raises:
      DataError: nothing is left.
    """
    if k <= 1:
        return log
    users, items = log.user_ids, log.item_ids
    rows = np.arange(log.num_interactions)
    while rows.size:
        of_user = np.bincount(users[rows])[users[rows]]
        of_item = np.bincount(items[rows])[items[rows]]
        keep = (of_user >= k) & (of_item >= k)
        if keep.all():
            break
        rows = rows[keep]
    if not rows.size:
        raise DataError(
            f"{log.name}: no user left with at least {k} interactions per user and per item (at "
            f"most a user has {log.lengths.max()}, an item {np.bincount(items).max()}); "
            "lower min_interactions"
        )
    if rows.size == log.num_interactions:
        return log
    keep = np.zeros(log.num_interactions, bool)
    keep[rows] = True
    return log.select(keep)
