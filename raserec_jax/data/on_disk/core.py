"""The iterated k-core in passes over the parts: rare items are counted over all, rare users within their part."""

from collections.abc import Callable

import numpy as np

from raserec_jax.data.on_disk.parts import Parts


def core_passes(
    parts: Parts,
    of_item: np.ndarray,
    per_user: int,
    per_item: int,
    *,
    part_done: Callable[[], object] = lambda: None,
) -> None:
    """Leaves in the parts what `filters.core` leaves of a log; that may be nothing.

    The order in which users and items are dropped does not matter: the core is the largest part of a log whose users
    and items all have so many interactions.

    Args:
      parts: of the log; replaced where something is dropped.
      of_item: [items] interactions of each; brought up to date.
      per_user, per_item: least number of interactions.
      part_done: called after each part, in each pass.

    Raises:
      OSError: a part cannot be written.
    """
    changed = True
    while changed:
        changed = False
        for number in range(parts.count):
            alive = _alive(*parts.histories(number), of_item, per_user, per_item)
            if not alive.all():
                changed = True
                parts.save(number, parts.load(number).select(alive))
            part_done()


def _alive(
    lengths: np.ndarray, item_ids: np.ndarray, of_item: np.ndarray, per_user: int, per_item: int
) -> np.ndarray:
    """[interactions] bool: what stays of one part, whose losses are taken off `of_item`."""
    users, of_user = np.repeat(np.arange(len(lengths)), lengths), lengths.copy()
    alive = np.ones(len(item_ids), bool)
    while True:
        drop = alive & ((of_item[item_ids] < per_item) | (of_user[users] < per_user))
        if not drop.any():
            return alive
        alive &= ~drop
        items, counts = np.unique(item_ids[drop], return_counts=True)
        of_item[items] -= counts
        of_user -= np.bincount(users[drop], minlength=len(of_user))
