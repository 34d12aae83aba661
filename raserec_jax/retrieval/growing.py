"""GrowingIndex: a search engine over a memory that is appended to and deleted from, never behind it.

The engine was built from a first part of the rows. Those that came since are searched exactly beside it, until they
are so many that it is built anew; rows that were removed are never found. An index is of one version: a later
version is another object, which shares what was built, so readers of either are not disturbed.
"""

import time
from typing import Protocol

import numpy as np
from jaxtyping import Bool

from raserec_jax.retrieval.eligibility import Queries, checked_queries, eligible
from raserec_jax.retrieval.exact import unit_rows
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, masked
from raserec_jax.retrieval.scann_index import best_seen
from raserec_jax.retrieval.searcher import Searcher, make_searcher

# Beside the engine so many rows are searched exactly, and such a share of its own where that is more.
FRESH_ROWS = 4096
FRESH_SHARE = 1 / 16
_SCORES_AT_ONCE = 2**22


class _Engine(Searcher, Protocol):
    def hiding(self, hidden: np.ndarray) -> "Searcher":
        """The same without some rows."""


class GrowingIndex:
    """The interface of ExactIndex over rows of which some may be removed.

    Attributes:
      bank: all rows, removed ones included.
      alive: [rows] bool, which of them may be found.
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
        """Builds the engine from all rows.

        Args:
          engine, eligibility, top_k: as `make_searcher`.
          bank: at least one row.
          alive: which rows may be found.

        Raises:
          ConfigError: as `make_searcher`.
        """
        self.eligibility = eligibility
        self._settings = (engine, top_k)
        self._built: _Engine = make_searcher(engine, bank, eligibility=eligibility, top_k=top_k)
        self.build_s = self._built.build_s
        self._show(bank, alive)

    @property
    def absorbed(self) -> int:
        """Rows that the engine has; those from there on are searched exactly beside it."""
        return self._built.bank.rows

    def following(self, bank: MemoryBank, alive: Bool[np.ndarray, " rows"]) -> "GrowingIndex":
        """The index of a later version: the same rows and more, more of them removed. This one stays as it is."""
        engine, top_k = self._settings
        if bank.rows - self.absorbed > max(FRESH_ROWS, FRESH_SHARE * self.absorbed):
            return GrowingIndex(engine, bank, alive, eligibility=self.eligibility, top_k=top_k)
        began = time.perf_counter()
        index = object.__new__(GrowingIndex)
        index.eligibility, index._settings = self.eligibility, self._settings
        index._built = self._built
        index._show(bank, alive)
        index.build_s = time.perf_counter() - began
        return index

    def search(self, queries: Queries, k: int) -> Retrieved:
        """The k best rows that are there and that each query may see; as ExactIndex.search.

        Scores of fresh rows are summed in another order than the engine's, so rows whose cosines differ by less than
        about 1e-6 may change places.
        """
        queries = checked_queries(self.eligibility, self.bank, queries, k)
        found = self._shown.search(queries, min(k, self.absorbed))
        ids, scores, mask = map(np.asarray, found)
        missing = ((0, 0), (0, k - ids.shape[1]))
        ids, scores, mask = (np.pad(array, missing) for array in (ids, scores, mask))
        if self._fresh_keys.shape[0] == 0:
            return masked(ids, scores, mask)
        fresh_ids, fresh_scores = self._fresh(queries, k)
        ids = np.concatenate([np.where(mask, ids, 0), fresh_ids], axis=1)
        scores = np.concatenate([np.where(mask, scores, -np.inf), fresh_scores], axis=1)
        return masked(*best_seen(ids, scores, scores > -np.inf, k))

    def _show(self, bank: MemoryBank, alive: np.ndarray) -> None:
        self.bank, self.alive = bank, alive
        hidden = ~alive[: self.absorbed]
        self._shown = self._built.hiding(hidden) if hidden.any() else self._built
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
