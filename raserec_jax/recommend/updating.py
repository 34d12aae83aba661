"""What an update changes: from events in original ids to the rows that a store is given, and an account of it.

Rules:

- An item that the catalogue does not have is skipped and counted: the encoder has no vector for it.
- An event that a history holds already (same user, item and time) is skipped and counted, so a batch may be sent
  again. Where the log has no times nothing can be told apart, and every event is taken.
- Events are taken in the order of their times, those of the same time in the order given. One that is earlier than
  what the history ends with is put where it belongs; the entries of that user behind it change, and are encoded again.
- Each event becomes an entry: key, the history before it; target, its item. A user's first event has no history before
  it and is only kept, until an earlier one comes.
- Nothing else is encoded.
"""

import math
import time as clock
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from raserec_jax.data.dates import LEAST_UNIX_TIME, units_per_second
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import DataError
from raserec_jax.recommend.histories import Histories, merged_order
from raserec_jax.store import Events
from raserec_jax.store.changes import checked_label

_DAY_S = 86_400


class UpdateReport(NamedTuple):
    """What an update did.

    events: taken.  entries: added to the memory.  new_users: users that were not known before.
    replaced: entries that were encoded again because an event came late.
    unknown_items, duplicates: events that were skipped.  late: events taken that came before an older one.
    version: of the memory, that has them.
    """

    events: int = 0
    entries: int = 0
    new_users: int = 0
    replaced: int = 0
    unknown_items: int = 0
    duplicates: int = 0
    late: int = 0
    version: int = 0

    def in_words(self) -> str:
        """One line per thing to know."""
        lines = [
            f"{self.events:,} events taken, {self.entries:,} entries added, {self.new_users:,} new users"
        ]
        if self.unknown_items:
            lines.append(
                f"{self.unknown_items:,} events of items that the model does not know were skipped"
            )
        if self.duplicates:
            lines.append(f"{self.duplicates:,} events that were there already were skipped")
        if self.late:
            lines.append(
                f"{self.late:,} events came late; {self.replaced:,} entries behind them were encoded again"
            )
        return "\n".join(lines)


class Update(NamedTuple):
    """What a store is given.

    histories: of the entries, each [items >= 1] int32, to be encoded.
    target_ids, user_ids, lengths, times: [entries].
    events, new_users, replaced_rows: as `MemoryStore.append`.
    report: without a version.
    """

    histories: list[np.ndarray]
    target_ids: np.ndarray
    user_ids: np.ndarray
    lengths: np.ndarray
    times: np.ndarray | None
    events: Events
    new_users: dict[int, str]
    replaced_rows: np.ndarray
    report: UpdateReport


def read_events(events: Iterable, log: InteractionLog) -> tuple[list, list, np.ndarray | None]:
    """(users, items, times) of triples, checked; times None where the log has none.

    Raises:
      DataError: not triples, an id that cannot be one, or a time that is missing, not finite, negative where the log's
        are not, of another unit, or more than a year in the future.
    """
    users, items, times = [], [], []
    if isinstance(events, (str, bytes)) or not isinstance(events, Iterable):
        raise DataError(f"events are {events!r:.80}; give a list of (user, item, time)")
    for place, event in enumerate(events):
        if isinstance(event, (str, bytes)) or not hasattr(event, "__len__") or len(event) != 3:
            raise DataError(f"events[{place}] is {event!r:.80}; give (user, item, time)")
        user, item, time = event
        users.append(checked_label(user, f"events[{place}]: user"))
        items.append(checked_label(item, f"events[{place}]: item"))
        times.append(time)
    return users, items, None if log.timestamps is None else _checked_times(times, users, log)


def is_time(value: Any) -> bool:
    """Whether it is a finite number."""
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    is_number = is_number and not isinstance(value, bool)
    return is_number and bool(-math.inf < value < math.inf)


def _checked_times(times: list, users: list, log: InteractionLog) -> np.ndarray:
    latest, lowest = _latest_time(log), _lowest_time(log)
    whole = log.timestamps.dtype.kind == "i"
    for place, time in enumerate(times):
        if not is_time(time) or (whole and time != int(time)):
            kind = "a whole number" if whole else "a number"
            raise DataError(
                f"events[{place}], of user {users[place]!r:.40}: time is {time!r:.80}, expected {kind} in the log's "
                "unit"
            )
        if not lowest <= time <= latest:
            given = f"{time!r:.80}" if abs(time) < 2**64 else f"beyond {'-' * (time < 0)}2^64"
            raise DataError(
                f"events[{place}], of user {users[place]!r:.40}: time is {given}, expected {lowest}..{latest} (at "
                f"most a year from now, in the unit of the log, whose last is {log.timestamps.max()}); correct it"
            )
    return np.array(times, log.timestamps.dtype)


def _lowest_time(log: InteractionLog) -> int | float:
    """0, or what the log has below; where its times are since 1970, the least that is so in its unit."""
    first = log.timestamps.min().item()
    least = LEAST_UNIX_TIME * units_per_second(log.timestamps.max().item())
    return least if first >= least else min(0, first)


def _latest_time(log: InteractionLog) -> int:
    """A year from now in the unit of the log; without a bound that can be known, 2^53."""
    last = log.timestamps.max().item()
    if last < LEAST_UNIX_TIME:
        return 2**53
    return max(last, int((clock.time() + 366 * _DAY_S) * units_per_second(last)))


def plan_update(histories: Histories, users: list, items: list, times: np.ndarray | None) -> Update:
    """What the events change; the store must be at the version of `histories`, and nobody else writing to it.

    Args:
      histories: with a snapshot.
      users, items, times: as `read_events` gives them.
    """
    log = histories.log
    item_ids = log.item_ids_of(items) if items else np.zeros(0, np.int32)
    known = np.flatnonzero(item_ids > 0)
    if times is not None:
        known = known[np.argsort(times[known], kind="stable")]
    user_ids, new_users = _with_new_users(histories, [users[place] for place in known])
    item_ids = item_ids[known]
    times = None if times is None else times[known]
    past = _Past(histories, user_ids)
    made = _Made()
    kept = np.zeros(len(known), bool)
    for user_id, places in _by_user(user_ids):
        own = None if times is None else times[places]
        kept[places] = _update_user(past, user_id, item_ids[places], own, made)
    events = Events(user_ids[kept], item_ids[kept], None if times is None else times[kept])
    report = UpdateReport(
        events=int(kept.sum()),
        entries=len(made.rows) - len(made.replaced),
        new_users=len(new_users),
        replaced=len(made.replaced),
        unknown_items=len(items) - len(known),
        duplicates=int((~kept).sum()),
        late=made.late,
    )
    targets, owners, lengths = np.array(made.rows, np.int32).reshape(-1, 3).T
    entry_times = None if times is None else np.array(made.times, times.dtype)
    replaced = np.array(made.replaced, np.int32)
    return Update(
        made.histories, targets, owners, lengths, entry_times, events, new_users, replaced, report
    )


class _Made:
    """Entries as they are found: rows of (target, user, length), their histories and times."""

    def __init__(self):
        self.rows: list[tuple[int, int, int]] = []
        self.histories: list[np.ndarray] = []
        self.times: list = []
        self.replaced: list[int] = []
        self.late = 0


class _Past:
    """Events and entries of the users of an update, looked up once for all of them."""

    def __init__(self, histories: Histories, user_ids: np.ndarray):
        now = self.now = histories.snapshot
        self.histories = histories
        touched = np.zeros(max(now.next_user_id, int(user_ids.max(initial=0)) + 1), bool)
        touched[user_ids] = True
        rows = np.flatnonzero(touched[now.event_user_ids] & now.event_alive)
        self._events = {u: rows[places] for u, places in _by_user(now.event_user_ids[rows])}
        rows = np.flatnonzero(touched[now.user_ids] & now.alive)
        self._entries = {u: rows[places] for u, places in _by_user(now.user_ids[rows])}

    def of(self, user_id: int) -> tuple[np.ndarray, np.ndarray | None, int]:
        """(items, times, how many are the log's), the log's first, then events in the order in which they came."""
        rows = self._events.get(user_id, np.zeros(0, np.int64))
        items, times = self.histories.logged(user_id)
        logged = len(items)
        items = np.concatenate([items, self.now.event_item_ids[rows]])
        if times is not None:
            times = np.concatenate([times, self.now.event_times[rows]])
        return items, times, logged

    def entries_of(self, user_id: int) -> dict[tuple[int, int], list[int]]:
        """(length, target) -> rows of the entries that are there."""
        found: dict[tuple[int, int], list[int]] = {}
        for row in self._entries.get(user_id, ()):
            place = (int(self.now.lengths[row]), int(self.now.target_ids[row]))
            found.setdefault(place, []).append(int(row))
        return found


def _update_user(
    past: _Past, user_id: int, item_ids: np.ndarray, times: np.ndarray | None, made: _Made
) -> np.ndarray:
    """Adds what a user's events change to `made`; returns which of them are taken, [events] bool."""
    old_items, old_times, logged = past.of(user_id)
    kept = np.ones(len(item_ids), bool)
    if times is not None:
        there = set(zip(old_items.tolist(), old_times.tolist(), strict=True))
        for place, event in enumerate(zip(item_ids.tolist(), times.tolist(), strict=True)):
            kept[place] = event not in there
            there.add(event)
    items, old = np.concatenate([old_items, item_ids[kept]]), len(old_items)
    order = np.arange(len(items))
    if times is not None:
        all_times = np.concatenate([old_times, times[kept]])
        order = merged_order(all_times, logged)
    is_new = order >= old
    if not is_new.any():
        return kept
    first = int(np.argmax(is_new))
    made.late += int((is_new & (np.cumsum(~is_new[::-1])[::-1] > 0)).sum())
    ordered = items[order].astype(np.int32)
    new_before = np.cumsum(is_new) - is_new
    entries = past.entries_of(user_id) if not is_new[first:].all() else {}
    for place in range(first, len(order)):
        target = int(ordered[place])
        if not is_new[place]:
            old_place = place - int(new_before[place])
            rows = entries.get((old_place, target), [])
            was_first_event = old_place == 0 and order[place] >= logged
            if not rows and not was_first_event:
                continue  # evicted, or training made none
            made.replaced += rows
        history = ordered[:place]
        history = history[history > 0]
        if not target or not len(history):
            continue
        made.rows.append((target, user_id, place))
        made.histories.append(history)
        if times is not None:
            made.times.append(all_times[order[place]])
    return kept


def _with_new_users(histories: Histories, labels: list) -> tuple[np.ndarray, dict[int, str]]:
    """[events] int32 ids, and the labels of users that get one now."""
    ids = histories.user_ids_of(labels) if labels else np.zeros(0, np.int32)
    new: dict[str, int] = {}
    for place in np.flatnonzero(ids < 0):
        following = histories.snapshot.next_user_id + len(new)
        ids[place] = new.setdefault(str(labels[place]), following)
    return ids, {user_id: label for label, user_id in new.items()}


def _by_user(user_ids: np.ndarray):
    """Yields (user id, places of that user, increasing)."""
    if not len(user_ids):
        return
    order = np.argsort(user_ids, kind="stable")
    starts = np.flatnonzero(np.diff(user_ids[order], prepend=-1))
    for places in np.split(order, starts[1:]):
        yield int(user_ids[places[0]]), places
