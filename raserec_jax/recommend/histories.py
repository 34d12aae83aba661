"""Histories: what each user took, from the log and from what was learnt since, in one order.

A user's history is the log's, in its order, with later events put where their times belong: behind everything of the
same time or earlier. Where the log has no times, events follow in the order in which they came. An item that was
removed from the memory leaves its place empty, so that the lengths of the entries keep their meaning.
"""

from typing import NamedTuple

import numpy as np

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.labels import canonical_integers
from raserec_jax.store import Snapshot

UNKNOWN_USER = -1


class History(NamedTuple):
    """item_ids: [places] int32, oldest first, 0 where the item was removed.  times: [places], None if unknown."""

    item_ids: np.ndarray
    times: np.ndarray | None


class Histories:
    """Reads the log and a version of the store, which may be None."""

    def __init__(self, log: InteractionLog, snapshot: Snapshot | None = None):
        self.log, self.snapshot = log, snapshot

    def user_ids_of(self, labels: list) -> np.ndarray:
        """[n] int32 ids of original user ids, UNKNOWN_USER where there is none."""
        ids = self.log.user_ids_of(labels)
        if self.snapshot is None:
            return ids
        by_label = self.snapshot.user_ids_by_label
        for place in np.flatnonzero(ids == UNKNOWN_USER):
            ids[place] = by_label.get(str(labels[place]), UNKNOWN_USER)
        return ids

    def label_of(self, user_id: int) -> int | str:
        """The original id of a user; an integer where those of the log are integers and his is one."""
        if user_id < self.log.num_users:
            return self.log.user_labels[user_id].item()
        label = self.snapshot.labels[user_id]
        if self.log.user_labels.dtype.kind != "i":
            return label
        integers = canonical_integers(np.array([label]))
        return label if integers is None else integers[0].item()

    def items_of(self, user_id: int) -> np.ndarray:
        """[places] int32, as History."""
        return self.of(user_id).item_ids

    def of(self, user_id: int) -> History:
        """The history of a user; empty for one that is not known."""
        items, times = self.logged(user_id)
        if self.snapshot is None:
            return History(items, times)
        now = self.snapshot
        rows = np.flatnonzero((now.event_user_ids == user_id) & now.event_alive)
        items = np.concatenate([items, now.event_item_ids[rows]])
        if times is None:
            return History(items, None)
        times = np.concatenate([times, now.event_times[rows]])
        order = merged_order(times, len(times) - len(rows))
        return History(items[order], times[order])

    def logged(self, user_id: int) -> History:
        """The log's part of a history: none of a user who was forgotten."""
        log, now = self.log, self.snapshot
        known = user_id < log.num_users and not (now and user_id in now.forgotten_user_ids)
        rows = slice(*log.offsets[user_id : user_id + 2].tolist()) if known else slice(0)
        items = log.item_ids[rows]
        if now is not None and now.forgotten_item_ids:
            gone = np.isin(items, list(now.forgotten_item_ids))
            items = np.where(gone, 0, items).astype(np.int32)
        return History(items, None if log.timestamps is None else log.timestamps[rows])


def merged_order(times: np.ndarray, logged: int) -> np.ndarray:
    """[places] the order of a history: the first `logged` places, of the log, stay in theirs.

    Args:
      times: [places], of the log's part and then of events in the order in which they came.
      logged: how many are the log's.
    """
    # Where the log's order is not that of its times, an event comes behind all that are no later.
    keys = np.concatenate([np.maximum.accumulate(times[:logged]), times[logged:]])
    return np.argsort(keys, kind="stable")
