"""GrowingIndex: a search engine over a memory that is appended to and deleted from, never behind it.

The engine holds a first part of the rows. Those that came since are searched exactly beside it, until they are so many
that it takes them in: ScaNN by its own upsert, exact search by being built anew, which is cheap. Rows that were removed
are never found. Where a ScaNN index has grown or lost so much that one trained anew would be better, it is trained by
a thread, and serves meanwhile. An index is of one version: a later version is another object, which shares what was
built, so readers of either are not disturbed.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from raserec_jax.retrieval.eligibility import Queries, checked_queries
from raserec_jax.retrieval.fresh_rows import FreshRows, SpreadFreshRows
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, masked
from raserec_jax.retrieval.scann_index import ScannIndex, best_seen
from raserec_jax.retrieval.searcher import Searcher, make_searcher

# So many rows are searched exactly beside ScaNN; beside an engine that would be built anew, more where it is large.
FRESH_ROWS = 4096
FRESH_SHARE = 1 / 16
# Of the engine's rows, how many may be removed ones before it is built anew without them.
DEAD_SHARE = 1 / 2


class _Engine(Searcher, Protocol):
    def hiding(self, hidden: np.ndarray) -> "Searcher":
        """The same without some rows."""


class _Settings(NamedTuple):
    """As the arguments of GrowingIndex."""

    engine: str
    top_k: int
    mesh: Mesh | None


class GrowingIndex:
    """The interface of ExactIndex over rows of which some may be removed.

    Attributes:
      bank: all rows, removed ones included.
      alive: [rows] bool, which of them may be found.
      absorbed: rows before this one are the engine's, as far as they were there when it took them; those from there on
        are searched exactly beside it.
      eligibility, build_s: as in ExactIndex.
    """

    def __init__(
        self,
        engine: str,
        bank: MemoryBank,
        alive: Bool[np.ndarray, " rows"],
        *,
        eligibility: str = "own_earlier",
        top_k: int = 20,
        mesh: Mesh | None = None,
    ):
        """Builds the engine from the rows that are there.

        Args:
          engine, eligibility, top_k, mesh: as `make_searcher`; on a mesh fresh rows lie over all devices too.
          bank: at least one row.
          alive: which rows may be found.

        Raises:
          ConfigError: as `make_searcher`.
        """
        rows = np.flatnonzero(alive if alive.any() else np.ones(bank.rows, bool))
        part = bank if len(rows) == bank.rows else bank.select(rows)
        built = make_searcher(
            engine,
            part,
            eligibility=eligibility,
            top_k=top_k,
            mesh=mesh,
            capacity=0 if mesh is None else roomy(part.rows),
        )
        self._set(built, _Settings(engine, top_k, mesh), rows, bank.rows, bank, alive, None)
        self.build_s = built.build_s

    @classmethod
    def over(
        cls,
        built: _Engine,
        engine: str,
        alive: np.ndarray,
        *,
        top_k: int = 20,
        mesh: Mesh | None = None,
    ) -> "GrowingIndex":
        """The index whose engine is there already, built from all rows of its bank under the same settings."""
        rows = built.bank.rows
        settings = _Settings(engine, top_k, mesh)
        return cls._of(built, settings, np.arange(rows), rows, built.bank, alive, None)

    def following(self, bank: MemoryBank, alive: Bool[np.ndarray, " rows"]) -> "GrowingIndex":
        """The index of a later version: the same rows and more, more of them removed. This one stays as it is."""
        training = self._training
        if training is not None and training.done() and training.exception() is not None:
            # The old one goes on serving; where it still wants training, that is tried again.
            reason = " ".join(str(training.exception()).split())
            logging.getLogger("raserec_jax").warning(
                "the index could not be trained anew (%.200s); the old one serves on", reason
            )
            training = None
        if training is not None and training.done():
            return training.result().following(bank, alive)
        built, rows, absorbed = self._built, self._rows, self.absorbed
        takes_in = isinstance(built, ScannIndex)
        if bank.rows - absorbed > max(FRESH_ROWS, 0 if takes_in else FRESH_SHARE * absorbed):
            rows = np.concatenate([rows, absorbed + np.flatnonzero(alive[absorbed:])])
            absorbed = bank.rows
            part = bank if len(rows) == bank.rows else bank.select(rows)
            built = built.following(part) if takes_in else None
        if built is None:  # or another bank went on from this one
            return self._anew(bank, alive)
        if alive.any() and np.count_nonzero(~alive[rows]) > DEAD_SHARE * len(rows):
            if not takes_in:
                return self._anew(bank, alive)
            training = training or _start(self._anew, bank, alive)
        elif takes_in and built.wants_training:
            training = training or _start(self._anew, bank, alive)
        return self._of(built, self._settings, rows, absorbed, bank, alive, training)

    def settled(self) -> "GrowingIndex":
        """The same version, after waiting for an engine that is being trained, if one is."""
        if self._training is None:
            return self
        return self._training.result().following(self.bank, self.alive)

    def _anew(self, bank: MemoryBank, alive: np.ndarray) -> "GrowingIndex":
        engine, top_k, mesh = self._settings
        rule = self.eligibility
        return GrowingIndex(engine, bank, alive, eligibility=rule, top_k=top_k, mesh=mesh)

    def search(self, queries: Queries, k: int) -> Retrieved:
        """The k best rows that are there and that each query may see; as ExactIndex.search.

        Scores of fresh rows are summed in another order than the engine's, so rows whose cosines differ by less than
        about 1e-6 may change places.
        """
        queries = checked_queries(self.eligibility, self.bank, queries, k)
        found = self._shown.search(queries, min(k, len(self._rows)))
        ids, scores, mask = map(np.asarray, found)
        ids = self._rows[np.where(mask, ids, 0)]
        missing = ((0, 0), (0, k - ids.shape[1]))
        ids, scores, mask = (np.pad(array, missing) for array in (ids, scores, mask))
        if not len(self._fresh):
            return masked(ids, scores, mask)
        fresh_ids, fresh_scores = self._fresh.search(queries, k)
        ids = np.concatenate([np.where(mask, ids, 0), fresh_ids], axis=1)
        scores = np.concatenate([np.where(mask, scores, -np.inf), fresh_scores], axis=1)
        return masked(*best_seen(ids, scores, scores > -np.inf, k))

    @classmethod
    def _of(cls, *state) -> "GrowingIndex":
        began = time.perf_counter()
        index = object.__new__(cls)
        index._set(*state)
        index.build_s = time.perf_counter() - began
        return index

    def _set(
        self,
        built: _Engine,
        settings: _Settings,
        rows: np.ndarray,
        absorbed: int,
        bank: MemoryBank,
        alive: np.ndarray,
        training: Future | None,
    ) -> None:
        """What the engine was built from (`rows` of the bank, by its own), what is to be seen now, and the index that
        is being made to go on from."""
        self._training = training
        self._built, self._settings, self.eligibility = built, settings, built.eligibility
        self._rows, self.absorbed = rows.astype(np.int32), absorbed
        self.bank, self.alive = bank, alive
        hidden = ~alive[rows]
        self._shown = built.hiding(hidden) if hidden.any() else built
        fresh = self.absorbed + np.flatnonzero(alive[self.absorbed :])
        if settings.mesh is None or not len(fresh):
            self._fresh = FreshRows(bank, fresh, self.eligibility)
        else:
            self._fresh = SpreadFreshRows(bank, fresh, self.eligibility, settings.mesh)


def roomy(rows: int) -> int:
    """`rows` with at most a quarter more: rounded up to three bits, so that few sizes are ever compiled."""
    step = 1 << max(rows.bit_length() - 3, 0)
    return -(-rows // step) * step


def _start(make: Callable[..., GrowingIndex], *arguments) -> Future:
    """Runs `make` in a thread; a process that ends waits for it, as XLA and ScaNN do not stand being cut off."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(make(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="train-index").start()
    return future
