"""Memory: what one version of the memory gives to recommendations; a later version is another object.

Rank of a time on the device: its place among the distinct times that are known. Times that come later than all of
them extend the list. One that falls between two gets the rank of the later one: with the eligibility `before` its
entry may then be hidden for a moment too long, but is never seen too early.
"""

import functools
import threading

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.recommend.histories import Histories
from raserec_jax.retrieval.growing import GrowingIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.searcher import Searcher, make_searcher
from raserec_jax.store import Snapshot


class Memory:
    """A bank, its index and the histories behind it; threads may share it.

    Attributes:
      bank: the entries; of a store also those that were removed.
      alive: [rows] bool, which of them are there.
      histories: of all users.
      times: [times] distinct, increasing: what the ranks stand for; None if the log has none.
    """

    def __init__(
        self,
        settings: ConfigDict,
        log: InteractionLog,
        bank: MemoryBank,
        *,
        snapshot: Snapshot | None = None,
        times: np.ndarray | None = None,
        index: GrowingIndex | None = None,
        mesh: Mesh | None = None,
    ):
        """mesh: over which an exactly searched bank lies; None = one device."""
        self._settings, self._log, self._mesh = settings, log, mesh
        self.bank, self.snapshot = bank, snapshot
        self.alive = np.ones(bank.rows, bool)
        if snapshot is not None:
            self.alive = snapshot.alive if snapshot.rows else np.zeros(bank.rows, bool)
        self.histories = Histories(log, snapshot)
        self.times = times
        self._index: Searcher | None = index
        self._lock = threading.Lock()

    @classmethod
    def of_bank(
        cls,
        settings: ConfigDict,
        log: InteractionLog,
        bank: MemoryBank,
        *,
        mesh: Mesh | None = None,
    ) -> "Memory":
        """The memory as training left it; mesh: as above."""
        return cls(settings, log, bank, times=log_times(log), mesh=mesh)

    @classmethod
    def of_snapshot(
        cls,
        settings: ConfigDict,
        log: InteractionLog,
        snapshot: Snapshot,
        before: "Memory | None" = None,
        *,
        mesh: Mesh | None = None,
    ) -> "Memory":
        """A version of a store.

        Args:
          settings: `config.memory`.
          before: the version that is being served, on the same mesh; its index is used as far as it goes.
          mesh: over which an exactly searched bank lies; None = one device.
        """
        seen = before and before.snapshot
        grown = seen is not None and snapshot.follows(seen) and seen.rows > 0
        known = before.times if grown else log_times(log)
        times, ranks = _ranked(known, snapshot.times, before.bank.times if grown else None)
        columns = (snapshot.keys, snapshot.target_ids, snapshot.user_ids, snapshot.lengths, ranks)
        if not snapshot.rows:  # a search needs a row: one that is not there
            columns = tuple(
                None if c is None else np.ones((1, *c.shape[1:]), c.dtype) for c in columns
            )
        bank = MemoryBank(*columns, version=snapshot.version)
        index = before and before._index_of(settings, bank, snapshot, grown)
        return cls(settings, log, bank, snapshot=snapshot, times=times, index=index, mesh=mesh)

    def _index_of(
        self, settings: ConfigDict, bank: MemoryBank, snapshot: Snapshot, grown: bool
    ) -> GrowingIndex | None:
        """The index of a later version, from this one's, if it has one and goes as far."""
        if self._index is None:
            return None
        if grown and isinstance(self._index, GrowingIndex):
            return self._index.following(bank, snapshot.alive)
        if self.snapshot is None and _begins_with(bank, self.bank):
            # The store was made from the bank of training, whose index is there.
            engine, top_k = settings.engine, settings.top_k
            index = GrowingIndex.over(self._index, engine, self.alive, top_k=top_k, mesh=self._mesh)
            return index.following(bank, snapshot.alive)
        return None

    @functools.cached_property
    def kept_bank(self) -> MemoryBank:
        """The entries that are there."""
        if self.alive.all():
            return self.bank
        return self.bank.select(self.alive)

    @property
    def entries(self) -> int:
        """How many are there."""
        return int(self.alive.sum())

    def rank_of(self, time: int | float) -> int:
        """Rank that a query at this time has: entries of earlier times have lower ones."""
        return int(np.searchsorted(self.times, time))

    def index(self) -> Searcher:
        """Built when first needed."""
        with self._lock:
            if self._index is None:
                settings = self._settings
                options = {
                    "eligibility": settings.eligibility,
                    "top_k": settings.top_k,
                    "mesh": self._mesh,
                }
                if self.snapshot is None:
                    self._index = make_searcher(settings.engine, self.bank, **options)
                else:
                    self._index = GrowingIndex(settings.engine, self.bank, self.alive, **options)
            return self._index


def log_times(log: InteractionLog) -> np.ndarray | None:
    """The distinct times of a log, increasing."""
    return None if log.timestamps is None else np.unique(log.timestamps)


def _begins_with(bank: MemoryBank, first: MemoryBank) -> bool:
    if bank.rows < first.rows:
        return False
    columns = ("keys", "target_ids", "user_ids", "lengths", "times")
    pairs = [(getattr(bank, name), getattr(first, name)) for name in columns]
    return all(
        old is None if new is None else old is not None and np.array_equal(new[: len(old)], old)
        for new, old in pairs
    )


def _ranked(
    known: np.ndarray | None, times: np.ndarray | None, before: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(known times, extended; int32 rank of each of `times`); ranks that were given before stay."""
    if times is None or known is None:
        return known, None
    before = np.zeros(0, np.int32) if before is None else before
    new = times[len(before) :]
    if len(new):
        later = np.unique(new)
        known = np.concatenate([known, later[later > known[-1]]])
    ranks = np.searchsorted(known, new).astype(np.int32)
    return known, np.concatenate([before, ranks])
