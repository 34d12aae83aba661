"""The interface that every search engine has, the choice among them, and how well one finds what exact search does."""

import time
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.retrieval.eligibility import Queries, audit, checked_queries
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.layout import unit_rows
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved
from raserec_jax.retrieval.scann_index import BRUTE_FORCE_BELOW, ScannIndex, import_scann

ENGINES = ("auto", "exact", "scann")
# Float32 dot products of unit vectors summed in another order differ by less.
_SAME_SCORE = 1e-5


@runtime_checkable
class Searcher(Protocol):
    """An index over one version of a bank."""

    bank: MemoryBank
    eligibility: str
    build_s: float

    def search(self, queries: Queries, k: int) -> Retrieved:
        """The k best rows each query may see, best first; a shorter masked list where there are fewer."""


def make_searcher(
    engine: str,
    bank: MemoryBank,
    *,
    eligibility: str = "own_earlier",
    recall_target: float = 0.97,
    top_k: int = 20,
    approx_recall: float = 0.0,
    mesh: Mesh | None = None,
    capacity: int = 0,
) -> Searcher:
    """Builds an index.

    Args:
      engine: "exact"; "scann"; or "auto": exact on an accelerator, for fewer than 20,000 rows, or where ScaNN does
        not load, else scann.
      bank: what is to be searched.
      eligibility: one of eligibility.RULES.
      recall_target, top_k: for scann, the recall of the best `top_k` to tune for, in (0, 1].
      approx_recall, capacity: for exact, as in ExactIndex.
      mesh: for exact, the devices that the rows lie over; None = the default device. Of several devices "auto" makes
        exact use, and scann none.

    Raises:
      ConfigError: an unknown engine or rule, ScaNN asked for where it is not installed, or `before` for a bank
        without times.
    """
    if engine not in ENGINES:
        raise ConfigError(
            f"engine={engine!r} is unknown; set config.memory.engine to one of {', '.join(ENGINES)}"
        )
    if engine == "auto":
        engine = "exact" if mesh is not None and mesh.size > 1 else _choose(bank.rows)
    if engine == "exact":
        return ExactIndex(
            bank,
            eligibility=eligibility,
            mesh=mesh,
            capacity=capacity,
            approx_recall=approx_recall,
        )
    return ScannIndex(bank, eligibility=eligibility, recall_target=recall_target, top_k=top_k)


def engine_name(searcher: Searcher) -> str:
    """Which of the engines an index is, for the report."""
    return {ExactIndex: "exact", ScannIndex: "scann"}.get(type(searcher), type(searcher).__name__)


def recall_against_exact(
    searcher: Searcher,
    bank: MemoryBank,
    queries: Queries,
    k: int,
    eligibility: str,
    sample: int = 1000,
    seed: int = 0,
    mesh: Mesh | None = None,
    exact: ExactIndex | None = None,
) -> dict[str, float]:
    """How much of what exact search finds an index finds, and how fast.

    A row counts as found if its cosine is not below that of the last exact one: where several rows are equal (short
    histories are: two users with the same one item have the same key), any of them is right.

    Args:
      searcher: the index to measure.
      bank: that it was built from.
      queries: real ones; `sample` of them are drawn.
      k: neighbours per query.
      eligibility: the rule it was built with.
      sample: at most so many queries.
      seed: of the draw.
      mesh: where the exact search runs.
      exact: of this bank and rule, if there is one already.

    Returns:
      recall, in 0..1 (1 if no query may see anything); build_s; queries_per_s, of one call with the sample after a
      first one; queries, how many were asked.

    Raises:
      ConfigError, DataError: as ExactIndex.search; DataError also without queries, or if the index returned a row
        that its query must not see.
    """
    queries = checked_queries(eligibility, bank, queries, k)
    count = len(queries.vectors)
    if count == 0 or sample < 1:
        raise DataError(
            f"recall needs queries but {min(count, sample)} were given; give at least one"
        )
    drawn = np.sort(np.random.default_rng(seed).choice(count, min(sample, count), replace=False))
    asked = Queries(*(None if column is None else column[drawn] for column in queries))
    searcher.search(asked, k)  # compiles
    start = time.perf_counter()
    found = jax.block_until_ready(searcher.search(asked, k))
    seconds = time.perf_counter() - start
    violations = audit(found.ids, bank, asked, eligibility)
    if len(violations):
        raise DataError(
            f"{len(violations)} rows that their queries must not see were retrieved, the first for query "
            f"{drawn[violations[0, 0]]} of user {asked.user_ids[violations[0, 0]]}; build the index with "
            f"eligibility={eligibility}"
        )
    exact = exact or ExactIndex(bank, eligibility=eligibility, mesh=mesh)
    truth = exact.search(asked, k)
    return {
        "recall": _recall(found, truth, bank, asked),
        "build_s": searcher.build_s,
        "queries_per_s": len(drawn) / seconds,
        "queries": len(drawn),
    }


def _choose(rows: int) -> str:
    if jax.default_backend() != "cpu" or rows < BRUTE_FORCE_BELOW:
        return "exact"
    try:
        import_scann()
    except ConfigError:
        return "exact"
    return "scann"


def _recall(found: Retrieved, truth: Retrieved, bank: MemoryBank, queries: Queries) -> float:
    mask = np.asarray(truth.mask)
    if not mask.any():
        return 1.0
    # Scored here, from the rows alone: an engine's own scores may be approximate.
    ids = np.where(found.mask, found.ids, 0)
    keys = unit_rows(bank.keys[ids.reshape(-1)]).reshape(*ids.shape, bank.dim)
    scores = np.einsum("qkd,qd->qk", keys, unit_rows(queries.vectors))
    worst = np.where(mask, truth.scores, np.inf).min(axis=1, keepdims=True)
    good = np.asarray(found.mask) & (scores >= worst - _SAME_SCORE)
    return float(np.minimum(good.sum(axis=1), mask.sum(axis=1)).sum() / mask.sum())
