"""16 threads that search while a process of its own writes; prints latencies and rates as JSON.

    python tests/store/load.py SECONDS

Each append brings as many entries as events, of one mark that all their columns bear, and each deletion removes both
of a user: so a torn read shows in any version. Every search must find only rows that are there, all of one version.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from raserec_jax.store import Events, MemoryStore, Snapshot, StoreReader

THREADS, BASE, BATCH, QUERIES, K = 16, 50_000, 20, 8, 10
DIM, USERS, ITEMS = 64, 1000, 997
ENCODER = "load"


def rows(mark: int, count: int) -> tuple:
    """(keys, target_ids, user_ids, lengths), all of them functions of the mark."""
    keys = np.random.default_rng(mark).normal(size=(count, DIM)).astype(np.float32)
    users = np.full(count, mark % USERS)
    return keys, np.full(count, 1 + mark % ITEMS), users, np.full(count, mark)


def write(folder: str, seconds: float) -> None:
    """Appends, and now and then deletes or compacts; prints how many of each."""
    store, done = MemoryStore(folder, ENCODER), {"appends": 0, "deletions": 0, "compactions": 0}
    end = time.monotonic() + seconds
    mark = 1
    while time.monotonic() < end:
        keys, targets, users, lengths = rows(mark, BATCH)
        store.append(keys, targets, users, lengths, events=Events(users, targets))
        done["appends"] += 1
        if mark % 40 == 0:
            store.delete(users=[int(users[0])])
            done["deletions"] += 1
        if mark % 150 == 0:
            store.compact()
            done["compactions"] += 1
        mark += 1
    print(json.dumps(done))


def check_version(snapshot: Snapshot) -> None:
    """Raises AssertionError if a version is torn."""
    assert int(snapshot.alive.sum()) == int(snapshot.event_alive.sum())
    marks = snapshot.lengths
    np.testing.assert_array_equal(snapshot.target_ids, 1 + marks % ITEMS)
    np.testing.assert_array_equal(snapshot.user_ids, marks % USERS)


class Readers:
    """Threads that share a reader and the index of its newest version."""

    def __init__(self, folder: str):
        from raserec_jax.retrieval.growing import GrowingIndex
        from raserec_jax.retrieval.memory_bank import MemoryBank

        self._bank_of = lambda s: MemoryBank(s.keys, s.target_ids, s.user_ids, s.lengths)
        self._index_of = GrowingIndex
        self.reader = StoreReader(folder, ENCODER)
        self.latencies_ms: list[float] = []
        self.refreshes_ms: list[float] = []
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        self.shown = self._show(None)

    def _show(self, before):
        now = self.reader.snapshot
        check_version(now)
        bank = self._bank_of(now)
        if before is not None and before[0].epoch == now.epoch:
            return now, before[1].following(bank, now.alive)
        return now, self._index_of("exact", bank, now.alive, eligibility="all", top_k=K)

    def refresh(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            began = time.perf_counter()
            if self.reader.refresh():
                self.shown = self._show(self.shown)
                self.refreshes_ms.append(1e3 * (time.perf_counter() - began))
        finally:
            self._lock.release()

    def search(self, draw) -> None:
        from raserec_jax.retrieval.eligibility import Queries

        snapshot, index = self.shown
        nobody = np.full(QUERIES, -1)
        asked = Queries(draw.normal(size=(QUERIES, DIM)).astype(np.float32), nobody, nobody)
        began = time.perf_counter()
        ids, _, mask = map(np.asarray, index.search(asked, K))
        self.latencies_ms.append(1e3 * (time.perf_counter() - began))
        assert mask.all() and snapshot.alive[ids].all()

    def run(self, seconds: float, seed: int) -> None:
        draw, end = np.random.default_rng(seed), time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                self.refresh()
                self.search(draw)
        except BaseException as error:
            self.errors.append(error)


def main(seconds: float) -> dict:
    place = os.environ.get("RASEREC_LOAD_DIR")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        folder = f"{folder}/store"
        store = MemoryStore.create(
            folder, encoder_fingerprint=ENCODER, dim=DIM, num_users=USERS, num_items=ITEMS
        )
        keys, targets, users, lengths = rows(0, BASE)
        store.append(keys, targets, users, lengths, events=Events(users, targets))
        readers = Readers(folder)
        readers.search(np.random.default_rng(0))  # compiles
        readers.latencies_ms.clear()
        command = [sys.executable, __file__, "write", folder, str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            threads = [
                threading.Thread(target=readers.run, args=(seconds, seed))
                for seed in range(THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            written = json.loads(writer.communicate()[0])
        if readers.errors:
            raise readers.errors[0]
        readers.reader.refresh()
        check_version(readers.reader.snapshot)
        assert MemoryStore(folder).verify() == []
    percentiles = (50, 90, 99, 100)
    return {
        **written,
        "appends_per_s": round(written["appends"] / seconds, 1),
        "searches": len(readers.latencies_ms),
        "searches_per_s": round(len(readers.latencies_ms) / seconds, 1),
        "search_ms": dict(
            zip(percentiles, _percentiles(readers.latencies_ms, percentiles), strict=True)
        ),
        "versions_read": len(readers.refreshes_ms),
        "refresh_ms": dict(
            zip(percentiles, _percentiles(readers.refreshes_ms, percentiles), strict=True)
        ),
    }


def _percentiles(values: list[float], percentiles: tuple) -> list[float]:
    return [round(float(value), 1) for value in np.percentile(values or [0.0], percentiles)]


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], float(sys.argv[3]))
    else:
        print(json.dumps(main(float(sys.argv[1]))))
