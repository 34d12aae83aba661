"""The statistics of a log that is seen part by part."""

import numpy as np

from raserec_jax.data.on_disk.parts import Part


class Counts:
    """Sums over the parts that were added.

    Attributes:
      users, interactions: how many.
      of_item: [items of the source] int64 interactions of each.
      first_time, last_time: of all; None without times.
      shortest, longest: interactions of a user; None without users.
    """

    def __init__(self, num_items: int):
        self.users = self.interactions = 0
        self.of_item = np.zeros(num_items, np.int64)
        self.first_time = self.last_time = self.shortest = self.longest = None
        self._ties = self._neighbours = 0

    def add(self, part: Part) -> None:
        """Counts a part."""
        if not len(part.labels):
            return
        self.users += len(part.labels)
        self.interactions += len(part.item_ids)
        self.of_item += np.bincount(part.item_ids, minlength=len(self.of_item))
        low, high = part.lengths.min(), part.lengths.max()
        self.shortest = low if self.shortest is None else min(low, self.shortest)
        self.longest = high if self.longest is None else max(high, self.longest)
        times = part.timestamps
        if times is None:
            return
        low, high = times.min(), times.max()
        self.first_time = low if self.first_time is None else min(low, self.first_time)
        self.last_time = high if self.last_time is None else max(high, self.last_time)
        users = part.user_ids
        same_user = users[1:] == users[:-1]
        self._neighbours += int(same_user.sum())
        self._ties += int((same_user & (times[1:] == times[:-1])).sum())

    def statistics(self) -> dict:
        """As `InteractionLog.statistics`."""
        items = int(np.count_nonzero(self.of_item))
        return {
            "users": self.users,
            "items": items,
            "interactions": self.interactions,
            "average_length": self.interactions / self.users,
            "sparsity": 1.0 - self.interactions / (self.users * items),
            "tie_share": None
            if self.first_time is None
            else float(self._ties / max(self._neighbours, 1)),
        }
