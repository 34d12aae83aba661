"""GrowingIndex: a search engine over a memory that is appended to and deleted from, never behind it.

The engine holds a first part of the rows. Those that came since are searched exactly beside it, until they are so many
that it takes them in: ScaNN by its own upsert, or built anew where that is better. Rows that were removed are never
found. An index is of one version: a later version is another object, which shares what was built, so readers of
either are not disturbed.
"""

import time
from typing import Protocol

import numpy as np
from jaxtyping import Bool

from raserec_jax.retrieval.eligibility import Queries, checked_queries, eligible
from raserec_jax.retrieval.exact import unit_rows
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, masked
from raserec_jax.retrieval.scann_index import ScannIndex, best_seen
from raserec_jax.retrieval.searcher import Searcher, make_searcher

# Beside the engine so many rows are searched exactly, and such a share of its own where that is more.
FRESH_ROWS = 4096
FRESH_SHARE = 1 / 16
# Of the engine's rows, how many may be removed ones before it is built anew without them.
DEAD_SHARE = 1 / 2
_SCORES_AT_ONCE = 2**22


class _Engine(Searcher, Protocol):
    def hiding(self, hidden: np.ndarray) -> "Searcher":
        """The same without some rows."""


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
    ):
        """Builds the engine from the rows that are there.

        Args:
          engine, eligibility, top_k: as `make_searcher`.
          bank: at least one row.
          alive: which rows may be found.

        Raises:
          ConfigError: as `make_searcher`.
        """
        rows = np.flatnonzero(alive if alive.any() else np.ones(bank.rows, bool))
        part = bank if len(rows) == bank.rows else bank.select(rows)
        built = make_searcher(engine, part, eligibility=eligibility, top_k=top_k)
        self._set(built, (engine, top_k), rows, bank.rows, bank, alive)
        self.build_s = built.build_s

    @classmethod
    def over(
        cls, built: _Engine, engine: str, alive: np.ndarray, *, top_k: int = 20
    ) -> "GrowingIndex":
        """The index whose engine is there already, built from all rows of its bank under the same settings."""
        rows = built.bank.rows
        return cls._of(built, (engine, top_k), np.arange(rows), rows, built.bank, alive)

    def following(self, bank: MemoryBank, alive: Bool[np.ndarray, " rows"]) -> "GrowingIndex":
        """The index of a later version: the same rows and more, more of them removed. This one stays as it is."""
        built, rows, absorbed = self._built, self._rows, self.absorbed
        dead = np.count_nonzero(~alive[rows])
        if bank.rows - absorbed > max(FRESH_ROWS, FRESH_SHARE * absorbed):
            rows = np.concatenate([rows, absorbed + np.flatnonzero(alive[absorbed:])])
            absorbed = bank.rows
            part = bank if len(rows) == bank.rows else bank.select(rows)
            built = built.following(part) if isinstance(built, ScannIndex) else None
        if built is None or (alive.any() and dead > DEAD_SHARE * len(rows)):
            (engine, top_k), rule = self._settings, self.eligibility
            return GrowingIndex(engine, bank, alive, eligibility=rule, top_k=top_k)
        return self._of(built, self._settings, rows, absorbed, bank, alive)

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
        if self._fresh_keys.shape[0] == 0:
            return masked(ids, scores, mask)
        fresh_ids, fresh_scores = self._fresh(queries, k)
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
        settings: tuple[str, int],
        rows: np.ndarray,
        absorbed: int,
        bank: MemoryBank,
        alive: np.ndarray,
    ) -> None:
        """What the engine was built from (`rows` of the bank, by its own), and what is to be seen now."""
        self._built, self._settings, self.eligibility = built, settings, built.eligibility
        self._rows, self.absorbed = rows.astype(np.int32), absorbed
        self.bank, self.alive = bank, alive
        hidden = ~alive[rows]
        self._shown = built.hiding(hidden) if hidden.any() else built
        rows = self.absorbed + np.flatnonzero(alive[self.absorbed :])
        self._fresh_rows = rows.astype(np.int32)
        self._fresh_keys = unit_rows(bank.keys[rows])
        times = None if bank.times is None else bank.times[rows]
        self._fresh_columns = (bank.user_ids[rows], bank.lengths[rows], times)

    def _fresh(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines [queries, at most k] of the best fresh rows, -inf where a query may not see one."""
        rows = self._fresh_rows
        parts = []
        step = max(1, _SCORES_AT_ONCE // len(rows))
        for start in range(0, len(queries.vectors), step):
            part = Queries(*(c if c is None else c[start : start + step] for c in queries))
            scores = unit_rows(part.vectors) @ self._fresh_keys.T + 0.0  # + 0.0: no -0.0
            seen = eligible(self.eligibility, *self._fresh_columns, *part[1:])
            scores = np.where(seen, scores, -np.inf).astype(np.float32)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            parts.append((rows[best], np.take_along_axis(scores, best, axis=1)))
        if not parts:
            width = min(k, len(rows))
            return np.zeros((0, width), np.int32), np.zeros((0, width), np.float32)
        return tuple(np.concatenate(found) for found in zip(*parts, strict=True))
