"""ExactIndex: the best rows by cosine, found by scoring all of them; the truth that other engines are measured by.

How they are found: `block_search` in a piece of the bank, `chunked_search` in all pieces of a device, `sharded_search`
on a mesh. Memory is query_chunk * bank_chunk / BLOCK_ROWS scores and one tile on a device, never [queries, bank].

The keys of a bfloat16 bank stay in bfloat16, at half the bytes: a tile is widened when it is scored, so products and
sums are float32. Dividing by their lengths would round them again, so the scores are multiplied by one over it.
"""

import copy
import threading
import time

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from raserec_jax.constants import NO_ROW
from raserec_jax.errors import ConfigError
from raserec_jax.mesh import MEMORY_ROWS, put_everywhere, rows_on
from raserec_jax.retrieval.chunked_search import search_chunks
from raserec_jax.retrieval.eligibility import Queries, check_times, checked_queries
from raserec_jax.retrieval.layout import Shelves, layout_of, shelve, unit_rows, without
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, masked
from raserec_jax.retrieval.sharded_search import search_parts

# Rows per tile and queries per chunk: on a CPU, scores of a tile (1 MiB) that stay in the second-level cache;
# elsewhere, few large calls.
TILE_ROWS = {"cpu": 512, "other": 32_768}
QUERY_CHUNK = {"cpu": 512, "other": 2048}
_BANK_CHUNK = 2**20
# Chunks of queries in one device call.
_CALL_CHUNKS = 16
_SMALLEST_CHUNK = 8
# Threads that started programs on several devices at once might start them in another order on each, and these would
# wait for one another for ever.
_one_on_a_mesh = threading.Lock()


class ExactIndex:
    """Exact cosine search over one version of a bank.

    Attributes:
      bank: what is searched.
      eligibility: rule of `eligibility.RULES`, applied inside the search.
      build_s: seconds that building took.
    """

    def __init__(
        self,
        bank: MemoryBank,
        *,
        eligibility: str = "own_earlier",
        query_chunk: int | None = None,
        bank_chunk: int = _BANK_CHUNK,
        tile_rows: int | None = None,
        mesh: Mesh | None = None,
        capacity: int = 0,
        approx_recall: float = 0.0,
    ):
        """Normalises the keys once and puts them on the device.

        Args:
          bank: any size.
          eligibility: which rows a query may see.
          query_chunk: queries per device call; default by backend.
          bank_chunk: rows between merges of the running top-k; bounds memory.
          tile_rows: rows scored at a time; default by backend.
          mesh: lay the rows out over all its devices, as many on each; None: the default device has all. What is
            found is the same. Of several processes all build it from the same bank and ask it the same together.
          capacity: lay out for so many rows where that is more than there are: banks up to that size then share
            their compiled programs.
          approx_recall: 0, or the share of the best rows that is to be found, in (0, 1): faster on a TPU
            (`approximate`).

        Raises:
          ConfigError: an unknown rule, `before` for a bank without times, or approx_recall outside [0, 1).
        """
        if not 0 <= approx_recall < 1:
            raise ConfigError(
                f"approx_recall={approx_recall} is no share below 1; set config.memory.approx_recall to 0 (exact) or, "
                "on a TPU, to for example 0.95"
            )
        check_times(eligibility, bank)
        start = time.perf_counter()
        backend = "cpu" if jax.default_backend() == "cpu" else "other"
        self.bank = bank
        self.eligibility = eligibility
        self._query_chunk = query_chunk or QUERY_CHUNK[backend]
        self._approx_recall = approx_recall
        self._layout = layout_of(
            bank.rows, tile_rows or TILE_ROWS[backend], bank_chunk, mesh, capacity
        )
        self._shelves = shelve(bank, self._layout)
        self.build_s = time.perf_counter() - start

    @property
    def shelves(self) -> Shelves:
        """The bank as `search_chunk` takes it."""
        return self._shelves

    def hiding(self, hidden: Bool[np.ndarray, " rows"]) -> "ExactIndex":
        """The same index without the rows that are set; this one stays as it is, and shares the keys."""
        index = copy.copy(self)
        index._shelves = without(self._shelves, self._layout, hidden)
        return index

    def search(self, queries: Queries, k: int) -> Retrieved:
        """The k best rows that each query may see.

        Args:
          queries: any number, also none.
          k: 1..bank rows.

        Returns:
          Retrieved, [queries, k]; a shorter masked list where fewer rows may be seen.

        Raises:
          ConfigError: k outside 1..bank rows, or `before` for queries without times.
          DataError: queries of another dim, not finite, or of columns that disagree.
        """
        return self.search_checked(checked_queries(self.eligibility, self.bank, queries, k), k)

    def search_checked(self, queries: Queries, k: int) -> Retrieved:
        """As `search`, of what `checked_queries` returned; k may be above the number of rows."""
        count = len(queries.vectors)
        queries = queries._replace(vectors=unit_rows(queries.vectors))
        mesh = self._layout.mesh
        chunk = _chunk_size(count, self._query_chunk)
        if mesh is not None:
            chunk = rows_on(mesh, MEMORY_ROWS, chunk)
        step = chunk * (1 if count <= chunk else _CALL_CHUNKS)
        rule, recall = self.eligibility, self._approx_recall
        options = {"chunk": chunk, "k": k, "rule": rule, "recall": recall}
        found = []
        for start in range(0, count, step):
            part, some = _padded(queries, start, step), np.int32(min(step, count - start))
            if mesh is None:
                found.append(search_chunks(self._shelves, part, some, **options))
                continue
            with _one_on_a_mesh:
                part, some = put_everywhere(mesh, (part, some))
                lists = search_parts(self._shelves, part, some, mesh=mesh, **options)
                found.append(tuple(map(np.asarray, lists)))
        if not found:
            found = [(np.zeros((0, k), np.float32), np.zeros((0, k), np.int32))]
        scores = np.concatenate([np.asarray(scores) for scores, _ in found])[:count]
        ids = np.concatenate([np.asarray(ids) for _, ids in found])[:count]
        return masked(ids, scores, ids != NO_ROW)


def _chunk_size(count: int, largest: int) -> int:
    """Queries per device call: a power of 4 times the smallest that takes them all, so few sizes are compiled."""
    size = min(_SMALLEST_CHUNK, largest)
    while size < min(count, largest):
        size = min(size * 4, largest)
    return size


def _padded(queries: Queries, start: int, chunk: int) -> Queries:
    """`chunk` queries from `start`, filled up with zeros."""

    def cut(column):
        padded = np.zeros((chunk, *column.shape[1:]), column.dtype)
        part = column[start : start + chunk]
        padded[: len(part)] = part
        return padded

    return Queries(*(None if column is None else cut(column) for column in queries))
