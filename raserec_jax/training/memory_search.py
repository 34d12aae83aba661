"""Searches of a run's memory: saved, so that nothing is searched twice, accounted for, and audited."""

import logging
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from raserec_jax.distributed import by_writer, exchange, process_count
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.retrieval.eligibility import Queries, audit
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, load_retrieved, save_retrieved
from raserec_jax.retrieval.searcher import (
    Searcher,
    engine_name,
    make_searcher,
    recall_against_exact,
)
from raserec_jax.training.workdir import read_record, write_record


def search_bank(
    settings, bank: MemoryBank, queries: Queries, top_k: int, mesh: Mesh | None = None
) -> Retrieved:
    """The neighbours of queries, found with the engine of `config.memory` and audited; nothing is saved."""
    searcher = _searcher(settings, bank, min(top_k, bank.rows), mesh)
    found = searcher.search(queries, min(top_k, bank.rows))
    audited("search", found, bank, queries, settings.eligibility)
    return found


def audited(name: str, found: Retrieved, bank: MemoryBank, queries: Queries, rule: str) -> None:
    """Raises AssertionError if a query was given a row that it must not see: a leak ends the run."""
    violations = audit(np.asarray(found.ids), bank, queries, rule)
    if len(violations):
        query, slot = violations[0]
        raise AssertionError(
            f"{name}: {len(violations)} retrieved rows that their queries must not see, the first in query "
            f"{query}, slot {slot}; this is a bug in the search"
        )


def engine_of_job(engine: str) -> str:
    """The engine with which all processes of a job find the same: ScaNN has no seed, and searches in one process.

    Raises:
      ConfigError: "scann" with several processes.
    """
    if process_count() == 1:
        return engine
    if engine == "scann":
        raise ConfigError(
            "engine=scann searches in one process, each build differently; with several processes set "
            "config.memory.engine, or --engine, to exact, which they share, or auto"
        )
    return "exact"


def _searcher(settings, bank: MemoryBank, top_k: int, mesh: Mesh | None) -> Searcher:
    return make_searcher(
        engine_of_job(settings.engine),
        bank,
        eligibility=settings.eligibility,
        top_k=top_k,
        approx_recall=settings.approx_recall,
        mesh=mesh,
    )


class MemorySearch:
    """Searches a bank or reads the saved neighbours, builds an index only if one is needed, and keeps account.

    Attributes:
      report: engine, recall against exact search of float32 keys, seconds, violations.
    """

    def __init__(self, settings, folder: Path, top_k: int, mesh: Mesh | None = None):
        """settings: `config.memory`.  folder: where neighbours are saved.  top_k: neighbours per query.
        mesh: over which an exactly searched bank lies, of several processes all theirs; None = one device.
        """
        self.settings, self.folder, self.top_k, self.mesh = settings, folder, top_k, mesh
        self.searcher = None
        self.account = folder / "search.json"
        self.report = {"search_s": 0.0, "build_s": 0.0}
        self.report |= read_record(self.account) or {}
        self.report["violations"] = 0

    def __call__(
        self, name: str, bank: MemoryBank, queries: Queries, truth: MemoryBank | None = None
    ) -> Retrieved:
        """The neighbours of queries in a bank.

        Args:
          name: of the file `neighbours_NAME.npz`.
          truth: the same rows with float32 keys, by which recall is measured; default `bank`.
        """
        path = self.folder / f"neighbours_{name}.npz"
        found = self._saved(path, bank, queries)
        # All search, or none: they search together.
        if "" in exchange(f"neighbours of {name}: saved", "" if found is None else "saved"):
            if self.searcher is None or self.searcher.bank is not bank:
                self._build(bank, queries, bank if truth is None else truth)
            began = time.perf_counter()
            found = self.searcher.search(queries, self.top_k)
            jax.block_until_ready(found)
            self.report["search_s"] += time.perf_counter() - began
            by_writer(f"neighbours of {name}", lambda: self._save(path, found, bank))
        audited(name, found, bank, queries, self.settings.eligibility)
        return found

    def _save(self, path: Path, found: Retrieved, bank: MemoryBank) -> None:
        # The account first: neighbours that are there are not searched again, and so not accounted for again.
        write_record(self.account, self.report)
        save_retrieved(path, found, bank_fingerprint=bank.fingerprint)

    def _saved(self, path: Path, bank: MemoryBank, queries: Queries) -> Retrieved | None:
        if not path.exists():
            return None
        try:
            found = load_retrieved(path, bank_fingerprint=bank.fingerprint)
        except CheckpointError as error:
            logging.getLogger("raserec_jax").warning("searched again: %s", error)
            return None
        return found if found.ids.shape == (len(queries.user_ids), self.top_k) else None

    def _build(self, bank: MemoryBank, queries: Queries, truth: MemoryBank) -> None:
        self.searcher = _searcher(self.settings, bank, min(self.top_k, bank.rows), self.mesh)
        self.report["engine"] = engine_name(self.searcher)
        self.report["build_s"] += self.searcher.build_s
        self.report["recall"] = recall_against_exact(
            self.searcher,
            truth,
            queries,
            min(self.settings.top_k, bank.rows),
            self.settings.eligibility,
            sample=self.settings.recall_sample,
            mesh=self.mesh,
        )
