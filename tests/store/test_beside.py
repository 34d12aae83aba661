"""Readers and writers beside one another: nobody sees half a change, and a writer waits or is refused."""

import multiprocessing
import os
import shutil

import pytest

from raserec_jax.errors import CheckpointError
from raserec_jax.store import MemoryStore, StoreReader, reading, verify_store, verifying
from tests.store.rows import USERS, entries, live_entries


def _hold(folder, ready, end):
    with MemoryStore(folder).writing():
        ready.set()
        end.wait(60)


def test_a_second_writer_waits_or_is_refused_and_a_dead_one_keeps_nothing(folder):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(folder, ready, end))
    first.start()
    assert ready.wait(60)
    second = MemoryStore(folder, timeout_s=0.0)
    with pytest.raises(CheckpointError, match=f"process {first.pid} is writing to it; wait"):
        second.append(**entries(1))
    assert StoreReader(folder).version == second.version  # readers do not mind
    first.kill()
    first.join()
    assert second.append(**entries(1)) == second.version


def test_a_writer_in_the_same_process_waits_too(folder):
    first, second = MemoryStore(folder), MemoryStore(folder, timeout_s=0.0)
    with first.writing():
        with pytest.raises(CheckpointError, match="is writing to it"):
            second.compact()
        first.append(**entries(1))
        first.append(**entries(1))
    second.append(**entries(1))  # at the newest version, not over it
    assert first.refresh() and len(live_entries(first.snapshot)) == len(
        live_entries(second.snapshot)
    )


def test_a_reader_outlives_a_compaction_that_removes_its_files(folder):
    reader, store = StoreReader(folder), MemoryStore(folder)
    old = reader.snapshot
    before = live_entries(old)
    store.compact()
    store.delete(users=range(USERS))
    store.compact()
    assert live_entries(old) == before
    assert reader.refresh() and live_entries(reader.snapshot) == live_entries(store.snapshot)


def compacting_at_the_first_segment(monkeypatch, module, store):
    """Has the store compacted when the module reads its first segment; what is returned is filled then."""
    read, calls = module.read_segment, []

    def late(*arguments, **options):
        if not calls:
            calls.append(1)
            store.compact()
        return read(*arguments, **options)

    monkeypatch.setattr(module, "read_segment", late)
    return calls


def test_a_compaction_between_manifest_and_files_is_read_again(folder, monkeypatch):
    store = MemoryStore(folder)
    calls = compacting_at_the_first_segment(monkeypatch, reading, store)
    reader = StoreReader(folder)
    assert calls and live_entries(reader.snapshot) == live_entries(store.snapshot)


def test_verify_and_stats_beside_a_writer_tell_of_no_damage(folder, monkeypatch):
    store, other, lstat = MemoryStore(folder), MemoryStore(folder), os.lstat
    calls = compacting_at_the_first_segment(monkeypatch, verifying, store)
    assert verify_store(folder) == [] and calls

    def gone(path):
        if str(path).endswith("keys.npy"):
            raise FileNotFoundError(path)
        return lstat(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", gone)
        assert other.stats()["bytes"] > 0


def test_a_copy_that_was_put_back_is_read_anew(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    store = MemoryStore(folder)
    store.append(**entries(5, seed=1))
    reader = StoreReader(folder)
    seen = reader.snapshot
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    older = StoreReader(folder)
    older.refresh()
    assert reader.refresh() and reader.version == older.version == seen.version - 1
    assert live_entries(reader.snapshot) == live_entries(older.snapshot)
    assert not reader.snapshot.follows(seen)
    reader, late = store, MemoryStore(folder)  # a writer's handle from before, too
    late.append(**entries(9, seed=2))
    assert late.version == seen.version
    assert reader.refresh() and live_entries(reader.snapshot) == live_entries(late.snapshot)
    late.append(**entries(1, seed=3))
    before = reader.snapshot
    reader.refresh()
    assert reader.snapshot.follows(before)


def test_names_of_a_version_stay_as_they_were(folder):
    store = MemoryStore(folder)
    before = store.snapshot
    labels, by_label = dict(before.labels), dict(before.user_ids_by_label)
    store.append(**entries(1), new_users={before.next_user_id: "later"})
    store.delete(users=[USERS + 1])
    assert (before.labels, before.user_ids_by_label) == (labels, by_label)
    assert store.snapshot.labels != labels
