"""Exact search over a few rows, for those that a built engine does not have yet.

`FreshRows` does it on the host, in NumPy, because their number changes with every append and each new size would be
compiled anew on a device. `SpreadFreshRows` does it on a mesh, where a few rows of a large memory may be millions: they
are laid out for a capacity that doubles when it is reached, spread evenly over the devices with each append.
"""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from raserec_jax.retrieval.eligibility import Queries, eligible
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.layout import unit_rows
from raserec_jax.retrieval.memory_bank import MemoryBank

_SCORES_AT_ONCE = 2**22
_LEAST_CAPACITY = 4096


class FreshRows:
    """Some rows of a bank."""

    def __init__(self, bank: MemoryBank, rows: Int[np.ndarray, " rows"], eligibility: str):
        self._rows, self._rule = rows.astype(np.int32), eligibility
        self._keys = unit_rows(bank.keys[rows])
        times = None if bank.times is None else bank.times[rows]
        self._columns = (bank.user_ids[rows], bank.lengths[rows], times)

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines [queries, at most k] of the best, -inf where a query may not see one; in no order."""
        k = min(k, len(self._rows))
        found_ids = np.zeros((len(queries.vectors), k), np.int32)
        found_scores = np.full(found_ids.shape, -np.inf, np.float32)
        if k == 0:
            return found_ids, found_scores
        step = max(1, _SCORES_AT_ONCE // len(self._rows))
        for start in range(0, len(queries.vectors), step):
            part = Queries(*(c if c is None else c[start : start + step] for c in queries))
            scores = unit_rows(part.vectors) @ self._keys.T + 0.0  # + 0.0: no -0.0
            seen = eligible(self._rule, *self._columns, *part[1:])
            scores = np.where(seen, scores, -np.inf).astype(np.float32)
            best = _best(scores, k)
            found_ids[start : start + step] = self._rows[best]
            found_scores[start : start + step] = np.take_along_axis(scores, best, axis=1)
        return found_ids, found_scores


class SpreadFreshRows:
    """Some rows of a bank, over the devices of a mesh; the interface of FreshRows."""

    def __init__(
        self, bank: MemoryBank, rows: Int[np.ndarray, " rows"], eligibility: str, mesh: Mesh
    ):
        self._rows = rows.astype(np.int32)
        capacity = max(_LEAST_CAPACITY, 1 << max(len(rows) - 1, 0).bit_length())
        self._index = ExactIndex(
            bank.select(rows), eligibility=eligibility, mesh=mesh, capacity=capacity
        )

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As FreshRows.search, always k of them."""
        found = self._index.search_checked(queries, k)
        mask = np.asarray(found.mask)
        ids = self._rows[np.where(mask, found.ids, 0)]
        return ids, np.where(mask, found.scores, -np.inf).astype(np.float32)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """[queries, k] places of the highest scores; of equal ones the earlier places."""
    if k == scores.shape[1]:
        return np.broadcast_to(np.arange(k), scores.shape)
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    worst = np.take_along_axis(scores, best, axis=1).min(axis=1, keepdims=True)
    # Where the last of them has equals that were left out, the partition may have taken a later one.
    tied = np.flatnonzero(((scores >= worst).sum(axis=1) > k) & (worst[:, 0] > -np.inf))
    best[tied] = np.argsort(-scores[tied], axis=1, kind="stable")[:, :k]
    return best
