"""RecentItems: what is taken most of late, for histories of which nothing is known.

*Of late* is the newest tenth of the training interactions by time. A log without times orders the interactions of each
user only: there it is the last tenth of each user's, rounded up.
"""

import functools

import numpy as np
from jaxtyping import Float, Int

from raserec_jax.data.splits import Split

RECENT_SHARE = 0.1


class RecentItems:
    """Items by how often they occur of late, then in all training interactions, then by id.

    Args:
      split: says which interactions are for training.
    """

    def __init__(self, split: Split):
        log = split.log
        places = np.arange(log.num_interactions) - log.offsets[log.user_ids]
        rows = np.flatnonzero(places < split.train_end[log.user_ids])
        self._num_items, self._is_late, self._ranks = log.num_items, None, None
        if log.time_ranks is None:
            ends = split.train_end[log.user_ids[rows]]
            self._is_late = places[rows] >= ends - np.ceil(RECENT_SHARE * ends)
        else:
            rows = rows[np.argsort(log.time_ranks[rows], kind="stable")]
            self._ranks = log.time_ranks[rows]
        self._item_ids = log.item_ids[rows]

    def best(
        self, before: int | None = None
    ) -> tuple[Int[np.ndarray, " items"], Float[np.ndarray, " items"]]:
        """All items, best first.

        Args:
          before: rank of a time of the log, from which on nothing counts; None: everything counts.

        Returns:
          (item ids int32, how often each occurs of late).
        """
        rows = len(self._item_ids)
        if before is not None and self._ranks is not None:
            rows = int(np.searchsorted(self._ranks, before))
        return self._at_the_end if rows == len(self._item_ids) else self._best_of(rows)

    @functools.cached_property
    def _at_the_end(self) -> tuple[np.ndarray, np.ndarray]:
        return self._best_of(len(self._item_ids))

    def _best_of(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        known = self._item_ids[:rows]
        late = (
            known[rows - int(np.ceil(RECENT_SHARE * rows)) :]
            if self._is_late is None
            else known[self._is_late]
        )
        counts = np.bincount(late, minlength=self._num_items + 1)[1:]
        ever = np.bincount(known, minlength=self._num_items + 1)[1:]
        order = np.lexsort((-ever, -counts))  # stable: of equal ones the lower id
        return (order + 1).astype(np.int32), counts[order].astype(np.float64)
