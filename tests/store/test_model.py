"""Any sequence of operations equals a plain Python model of the store, for the writer and for readers that follow."""

import contextlib
import shutil

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raserec_jax.errors import DataError
from raserec_jax.store import Events, MemoryStore, StoreReader
from tests.store.rows import (
    DIM,
    ENCODER,
    ITEMS,
    USERS,
    create,
    live_entries,
    live_events,
    quick_folder,
)

SEEDS = st.integers(0, 10**6)


class Store(RuleBasedStateMachine):
    """Beside the store: lists of what should be there, oldest first."""

    @initialize()
    def start(self):
        self.stack = contextlib.ExitStack()
        self.root = self.stack.enter_context(quick_folder())
        self.folder = f"{self.root}/store"
        self.store = create(self.folder)
        self.reader = StoreReader(self.folder, ENCODER)
        self.entries, self.events, self.labels = [], [], {}
        self.forgotten_users, self.forgotten_items = set(), set()
        self.next_user, self.version = USERS, 1
        self.kept = []  # snapshots, and what they held when they were taken

    def teardown(self):
        if hasattr(self, "stack"):
            self.stack.close()

    @rule(seed=SEEDS, rows=st.integers(0, 5), happened=st.integers(0, 3), new=st.booleans())
    def append(self, seed, rows, happened, new):
        draw = np.random.default_rng(seed)
        labels = {self.next_user: f"user {seed}"} if new else {}
        self.next_user += new
        made = [
            (
                tuple(draw.integers(-9, 9, DIM).tolist()),
                *(int(draw.integers(low, high)) for low, high in self._ranges()),
            )
            for _ in range(rows)
        ]
        took = [
            (int(draw.integers(self.next_user)), *draw.integers(1, [ITEMS + 1, 50]).tolist())
            for _ in range(happened)
        ]
        columns = [np.array(column, np.int64) for column in zip(*made, strict=True)][1:]
        columns = columns or [np.zeros(0, np.int64)] * 4
        keys = np.array([one[0] for one in made], np.float32).reshape(-1, DIM)
        events = Events(*np.array(took, np.int64).reshape(-1, 3).T)
        dead = (
            int(draw.integers(len(self.entries))) if self.entries and draw.random() < 0.3 else None
        )
        if dead is not None:
            del self.entries[dead]
            dead = np.flatnonzero(self.store.snapshot.alive)[[dead]]
        self.store.append(keys, *columns, events=events, new_users=labels, replaced_rows=dead)
        self.entries += made
        self.events += took
        self.labels |= labels
        self.version += bool(made or took or labels or dead is not None)

    def _ranges(self):
        return (1, ITEMS + 1), (0, self.next_user), (0, 20), (0, 50)

    @rule(seed=SEEDS)
    def append_what_cannot_be(self, seed):
        draw = np.random.default_rng(seed)
        columns = [np.full(2, high - 1) for _, high in self._ranges()]
        keys, which = np.ones((2, DIM), np.float32), draw.integers(5)
        if which == 4:
            keys[1, 0] = draw.choice([np.nan, np.inf])
        elif which == 3:
            columns[3] = np.array([1.0, np.nan])
        elif which == 2:
            columns[2] = np.array([3, -1])
        else:
            columns[which] = columns[which] + [0, 1]
        try:
            self.store.append(keys, *columns, new_users={self.next_user + 1: "skips an id"})
        except DataError:
            pass
        else:
            raise AssertionError("taken")
        try:
            self.store.append(keys, *columns)
        except DataError:
            return
        raise AssertionError("taken")

    @rule(
        users=st.lists(st.integers(0, USERS + 4), max_size=2),
        items=st.lists(st.integers(0, ITEMS + 1), max_size=2),
    )
    def delete(self, users, items):
        gone = [one for one in self.entries if one[2] in users or one[1] in items]
        self.entries = [one for one in self.entries if one not in gone]
        events = [one for one in self.events if one[0] not in users]
        events = [(user, 0 if item in items else item, t) for user, item, t in events]
        known = {user for user in users if user < USERS} - self.forgotten_users
        catalogue = {item for item in items if 1 <= item <= ITEMS} - self.forgotten_items
        named = {user for user in users if user in self.labels}
        changed = gone or events != self.events or known or catalogue or named
        self.version += bool(changed)
        self.events = events
        self.forgotten_users |= known
        self.forgotten_items |= catalogue
        self.labels = {user: label for user, label in self.labels.items() if user not in users}
        removed = self.store.delete(users=users, items=items)
        assert (removed.entries, removed.version) == (len(gone), self.version)

    @rule(older_than=st.none() | st.integers(0, 50), total=st.integers(0, 40))
    def evict_by_age_and_number(self, older_than, total):
        kept = [one for one in self.entries if older_than is None or one[4] >= older_than]
        newest = sorted(range(len(kept)), key=lambda row: (kept[row][4], row))
        newest = newest[max(len(kept) - total, 0) :]
        self._evict([kept[row] for row in sorted(newest)], older_than=older_than, total=total)

    @rule(per_user=st.integers(1, 4))
    def evict_by_user(self, per_user):
        rows = range(len(self.entries))
        key = {row: (self.entries[row][4], self.entries[row][3], row) for row in rows}
        kept = []
        for row, one in enumerate(self.entries):
            newer = [r for r in rows if self.entries[r][2] == one[2] and key[r] > key[row]]
            if len(newer) < per_user:
                kept.append(one)
        self._evict(kept, per_user=per_user)

    def _evict(self, kept, **bounds):
        removed = self.store.evict(**bounds)
        assert removed.entries == len(self.entries) - len(kept)
        self.version += bool(removed.entries)
        self.entries = kept

    @rule()
    def compact(self):
        self.store.compact()
        self.version += 1
        assert self.store.snapshot.rows == len(self.entries)

    @rule()
    def reopen(self):
        self.store = MemoryStore(self.folder, ENCODER)

    @rule()
    def export_and_import(self):
        shutil.rmtree(f"{self.root}/copy", ignore_errors=True)
        self.store.export(f"{self.root}/copy")
        copy = StoreReader(f"{self.root}/copy", ENCODER)
        assert live_entries(copy.snapshot) == self.entries
        self.store.import_from(f"{self.root}/copy")
        self.version += 1

    @rule()
    def follow(self):
        self.reader.refresh()
        assert live_entries(self.reader.snapshot) == self.entries
        assert not self.reader.refresh()

    @rule()
    def keep_a_snapshot(self):
        self.kept.append((self.store.snapshot, list(self.entries)))

    @precondition(lambda self: self.kept)
    @rule()
    def a_kept_snapshot_is_as_it_was(self):
        for snapshot, held in self.kept:
            assert live_entries(snapshot) == held

    @rule()
    def verify(self):
        assert self.store.verify() == []

    @invariant()
    def holds_what_the_model_holds(self):
        if not hasattr(self, "store"):
            return
        now = self.store.snapshot
        assert now.version == self.version
        assert live_entries(now) == self.entries
        assert live_events(now) == self.events
        assert now.labels == self.labels
        assert now.user_ids_by_label == {label: user for user, label in self.labels.items()} or len(
            set(self.labels.values())
        ) < len(self.labels)
        assert now.forgotten_user_ids == self.forgotten_users
        assert now.forgotten_item_ids == self.forgotten_items
        assert len(self.store._manifest["segments"]) <= 17


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
