"""Recall of a living index after many random appends and deletes; a measurement, not a test.

    python tests/retrieval/million_changes.py [CHANGES] [START] [SEED]

Keys are clustered, as representations of histories are, and the clusters drift: later ones lie elsewhere.
"""

import sys
import time

import numpy as np

from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.growing import GrowingIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.searcher import recall_against_exact

DIM, CLUSTERS, AT_ONCE, TOP_K, ASKED = 64, 400, 1000, 20, 500


def drifting_keys(rows: int, draw: np.random.Generator) -> np.ndarray:
    """[rows, DIM] around centres that move, from the first row to the last, to centres of their own."""
    centres, later = draw.normal(size=(2, CLUSTERS, DIM))
    of = draw.integers(0, CLUSTERS, rows)
    share = np.linspace(0, 1, rows)[:, None]
    keys = (1 - share) * centres[of] + share * later[of]
    return (keys + 0.3 * draw.normal(size=keys.shape)).astype(np.float32)


def bank_of(keys: np.ndarray, rows: int) -> MemoryBank:
    ones = np.ones(rows, np.int32)
    return MemoryBank(keys[:rows], ones, ones, ones)


def main(changes: int = 1_000_000, start: int = 100_000, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    keys = drifting_keys(start + changes // 2, draw)
    alive = np.zeros(len(keys), bool)
    alive[:start] = True
    began = time.perf_counter()
    index = GrowingIndex(
        "scann", bank_of(keys, start), alive[:start], eligibility="all", top_k=TOP_K
    )
    print(f"built from {start} rows in {index.build_s:.1f} s: {index._built.settings}", flush=True)
    rows, trained, slowest = start, 1, 0.0
    for done in range(0, changes + 1, 2 * AT_ONCE):
        if done % (changes // 10) == 0:
            kept = np.flatnonzero(alive[:rows])
            asked = keys[draw.choice(kept, ASKED)] + 0.1 * draw.normal(size=(ASKED, DIM))
            nobody = np.zeros(ASKED, np.int32)
            queries = Queries(asked.astype(np.float32), nobody, nobody)
            report = recall_against_exact(
                _Kept(index, kept), index.bank.select(kept), queries, TOP_K, "all", ASKED
            )
            print(
                f"{done:8d} changes, {len(kept)} rows there, {rows - index.absorbed} searched beside: recall@{TOP_K} "
                f"{report['recall']:.4f}, {report['queries_per_s']:.0f} queries/s, trained {trained} times, slowest "
                f"change of {AT_ONCE} rows {slowest:.2f} s, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
        if done == changes:
            return
        before = index._built
        gone = draw.choice(np.flatnonzero(alive[:rows]), AT_ONCE, replace=False)
        alive[gone], alive[rows : rows + AT_ONCE] = False, True
        rows += AT_ONCE
        changed = time.perf_counter()
        index = index.following(bank_of(keys, rows), alive[:rows].copy())
        slowest = max(slowest, time.perf_counter() - changed)
        trained += index._built._rows is not before._rows


class _Kept:
    """The index over the rows that are there, numbered as a bank of them alone is."""

    def __init__(self, index: GrowingIndex, kept: np.ndarray):
        self.index, self.number = index, np.zeros(index.bank.rows, np.int32)
        self.number[kept] = np.arange(len(kept))
        self.build_s = index.build_s

    def search(self, queries: Queries, k: int):
        found = self.index.search(queries, k)
        ids = np.where(found.mask, self.number[np.maximum(found.ids, 0)], -1)
        return found._replace(ids=ids)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
