"""Snapshot: the content of one version of a store, in arrays that later versions leave as they are."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from raserec_jax.store.layout import BFLOAT16, ENTRIES, EVENTS, LABELS, nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """One version. Rows stay where they are until a compaction, which begins another epoch.

    Attributes:
      version, epoch: of the store.
      encoder_fingerprint: of what made the keys.
      log_fingerprint: of the log whose ids are used.
      num_users, num_items: of that log; users from num_users on are named by `labels`.
      next_user_id: what the next new user gets.
      keys, target_ids, user_ids, lengths, times: [rows] entries, removed ones included; times None if there are none.
      alive: [rows] bool, which entries there are.
      event_user_ids, event_item_ids, event_times: [events] in the order in which they came; item 0 where it was
        removed from the memory.
      event_alive: [events] bool.
      labels: user id -> original id as text, of users that the log does not have.
      user_ids_by_label: the way back.
      forgotten_user_ids, forgotten_item_ids: of the log, not to be used.
      source: what the columns grow in, the same for versions whose rows go on from one another.
    """

    version: int
    epoch: int
    encoder_fingerprint: str
    log_fingerprint: str
    num_users: int
    num_items: int
    next_user_id: int
    keys: np.ndarray
    target_ids: np.ndarray
    user_ids: np.ndarray
    lengths: np.ndarray
    times: np.ndarray | None
    alive: np.ndarray
    event_user_ids: np.ndarray
    event_item_ids: np.ndarray
    event_times: np.ndarray | None
    event_alive: np.ndarray
    labels: Mapping[int, str]
    user_ids_by_label: Mapping[str, int]
    forgotten_user_ids: frozenset[int]
    forgotten_item_ids: frozenset[int]
    source: object

    def follows(self, earlier: "Snapshot") -> bool:
        """Whether its rows begin with those of an earlier version that the same reader read."""
        return self.source is earlier.source

    @property
    def rows(self) -> int:
        """Entries, removed ones included."""
        return len(self.user_ids)

    @property
    def dim(self) -> int:
        return self.keys.shape[1]


class Content:
    """Columns as they grow from version to version within an epoch; makes the snapshots."""

    def __init__(self, manifest: dict):
        self.epoch = manifest["epoch"]
        self._columns = {
            name: None if nothing(name, manifest) is None else _Growing(nothing(name, manifest))
            for name in (*ENTRIES, *EVENTS)
        }
        self.counts: dict[str, int] = {}
        self._alive, self._event_alive = np.zeros(0, bool), np.zeros(0, bool)
        self._labels: dict[int, str] = {}
        self._by_label: dict[str, int] = {}
        self._forgotten_users: frozenset[int] = frozenset()
        self._forgotten_items: frozenset[int] = frozenset()

    def add(self, new: dict[str, np.ndarray], num_users: int) -> None:
        """Takes the rows of each column that came since the last call."""
        for name in (*ENTRIES, *EVENTS):
            if name in new:
                self._columns[name].add(new[name])
        for name, column in new.items():
            self.counts[name] = self.counts.get(name, 0) + len(column)
        self._alive = _marked(self._alive, len(self._columns["user_ids"]), new.get("dead_rows"))
        events = len(self._columns["event_user_ids"])
        self._event_alive = _marked(self._event_alive, events, new.get("dead_events"))
        if "emptied_events" in new:
            items = self._columns["event_item_ids"].view().copy()
            items[new["emptied_events"]] = 0
            self._columns["event_item_ids"] = _Growing(items)
        forgotten = new.get("forgotten_user_ids", np.zeros(0, np.int32)).tolist()
        if "label_user_ids" in new or forgotten:  # snapshots have those that were
            self._labels, self._by_label = dict(self._labels), dict(self._by_label)
        self._label(new)
        for user_id in forgotten:
            label = self._labels.pop(user_id, None)
            if label is not None and self._by_label.get(label) == user_id:
                del self._by_label[label]
        self._forgotten_users |= {user_id for user_id in forgotten if user_id < num_users}
        self._forgotten_items |= set(new.get("forgotten_item_ids", np.zeros(0, np.int32)).tolist())

    def snapshot(self, manifest: dict) -> Snapshot:
        """The version of the manifest."""
        columns = {
            name: None if column is None else column.view()
            for name, column in self._columns.items()
        }
        if columns["keys"].dtype == np.uint16:
            columns["keys"] = columns["keys"].view(BFLOAT16)
        same = ("version", "epoch", "encoder_fingerprint", "log_fingerprint", "num_users")
        return Snapshot(
            **{name: manifest[name] for name in (*same, "num_items", "next_user_id")},
            **columns,
            alive=self._alive,
            event_alive=self._event_alive,
            labels=self._labels,
            user_ids_by_label=self._by_label,
            forgotten_user_ids=self._forgotten_users,
            forgotten_item_ids=self._forgotten_items,
            source=self,
        )

    def _label(self, new: dict[str, np.ndarray]) -> None:
        if "label_user_ids" not in new:
            return
        user_ids, lengths, text = (new[name] for name in LABELS)
        text, end = text.tobytes(), 0
        for user_id, length in zip(user_ids.tolist(), lengths.tolist(), strict=True):
            label = text[end : end + length].decode()
            end += length
            self._labels[user_id] = label
            self._by_label[label] = user_id


def label_columns(labels: Mapping[int, str]) -> dict[str, np.ndarray]:
    """The columns of LABELS."""
    texts = [label.encode() for label in labels.values()]
    return {
        "label_user_ids": np.array(list(labels), np.int32),
        "label_lengths": np.array([len(text) for text in texts], np.int32),
        "label_bytes": np.frombuffer(b"".join(texts), np.uint8),
    }


class _Growing:
    """A column that rows are added to; what `view` gave before stays as it was.

    The first rows are used where they lie, mapped from their file; the first addition copies them.
    """

    def __init__(self, first: np.ndarray):
        self._buffer, self._count = first, len(first)

    def __len__(self) -> int:
        return self._count

    def add(self, rows: np.ndarray) -> None:
        if not self._count:
            self._buffer, self._count = np.asarray(rows), len(rows)  # mapped, but a plain array
            return
        count = self._count + len(rows)
        if count > len(self._buffer) or not self._buffer.flags.writeable:
            larger = np.empty((count + count // 2, *rows.shape[1:]), rows.dtype)
            larger[: self._count] = self._buffer[: self._count]
            self._buffer = larger
        self._buffer[self._count : count] = rows
        self._count = count

    def view(self) -> np.ndarray:
        seen = self._buffer[: self._count]
        seen.flags.writeable = False
        return seen


def _marked(before: np.ndarray, count: int, dead: np.ndarray | None) -> np.ndarray:
    """[count] bool: as before, True for what is new, False where `dead`."""
    if count == len(before) and dead is None:
        return before
    alive = np.ones(count, bool)
    alive[: len(before)] = before
    if dead is not None:
        alive[dead] = False
    return alive
