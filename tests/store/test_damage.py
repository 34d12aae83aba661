"""Torn, flipped, missing, foreign and hostile files; full disks; two writers: a clear sentence or a clean recovery."""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import resource
import shutil

import numpy as np
import pytest

from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.store import (
    Events,
    MemoryStore,
    StoreReader,
    files,
    verify_store,
)
from raserec_jax.store.files import manifest_bytes
from raserec_jax.store.layout import STORE
from tests.store.rows import (
    DIM,
    ENCODER,
    USERS,
    create,
    entries,
    is_one_sentence,
    live_entries,
)


@contextlib.contextmanager
def files_up_to(size):
    """Nothing larger can be written meanwhile, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rewrite_manifest(folder, change):
    """Changes the manifest and signs it anew, as somebody could who wants to be believed."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    change(manifest)
    path.write_bytes(manifest_bytes(manifest, STORE))


def test_every_file_cut_flipped_or_gone_is_told_by_reader_and_verify(folder):
    draw = np.random.default_rng(0)
    files = sorted((folder / "segments").rglob("*.npy")) + [folder / "manifest.json"]
    assert len(files) > 30
    for number, path in enumerate(files):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[draw.integers(len(whole))] ^= 1 << draw.integers(8)
        damaged = (whole[: len(whole) // 2], bytes(flipped), b"", None)[number % 4]
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged|cannot be read|no memory store here"):
            StoreReader(folder)
        assert len(verify_store(folder)) == 1
        path.write_bytes(whole)
    assert verify_store(folder) == []


def test_what_is_not_of_the_store_is_ignored_by_readers_and_left_by_writers(folder):
    (folder / "segments" / "999999").mkdir()
    (folder / "segments" / ".unfinished-000009").mkdir()
    (folder / "segments" / "notes.txt").write_text("mine")
    before = live_entries(StoreReader(folder).snapshot)
    store = MemoryStore(folder)
    assert live_entries(store.snapshot) == before
    store.append(**entries(1))
    names = {path.name for path in (folder / "segments").iterdir()}
    assert "notes.txt" in names and not names & {"999999", ".unfinished-000009"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["segments"][0].update(name="../../outside"), "not the name of a segment"),
        (lambda m: m["segments"][0].update(name="/etc"), "not the name of a segment"),
        (lambda m: m["segments"][0].update(name=7), "not the name of a segment"),
        (lambda m: m["segments"][0]["files"].update({"../x.npy": {}}), "not a file of a segment"),
        (lambda m: m["segments"].append({"name": "000001"}), "describes no segment"),
        (lambda m: m.update(dim=2**40), "expected|has shape"),
        (lambda m: m.update(dim=2**70, segments=[]), "dim is 1180591620717411303424, expected"),
        (lambda m: m.update(dim=True), "dim is True"),
        (lambda m: m.update(history=[1]), "history is empty, or holds"),
        (lambda m: m.update(history=[]), "history is empty, or holds"),
        (lambda m: m.update(history=[{"version": "1"}]), "a version that is no int"),
        (lambda m: m["segments"][0].pop("name"), "None is not the name of a segment"),
        (lambda m: m.update(version=-1), "version is -1"),
        (lambda m: m.update(next_user_id=0), "next_user_id is 0, expected at least num_users"),
        (lambda m: m.update(next_user_id=0, num_users=0), "contradicts itself"),
        (lambda m: m.update(next_segment=0), "next_segment is 0, expected more than segment"),
        (lambda m: m.update(num_items=2), "contradicts itself"),
        (lambda m: m.update(key_dtype="object"), "none of this release"),
        (lambda m: m.update(time_dtype="O"), "none of this release"),
        (lambda m: m.update(format="raserec_jax memory store 2"), "not the manifest of"),
        (lambda m: m["segments"][0]["files"]["keys.npy"].update(shape=[10**12, DIM]), "in length"),
        (lambda m: m["segments"][0]["files"]["times.npy"].update(dtype="|O"), "expected <i8"),
    ],
)
def test_a_hostile_manifest_is_refused(folder, change, words):
    rewrite_manifest(folder, change)
    with pytest.raises(CheckpointError, match=words) as error:
        StoreReader(folder)
    assert is_one_sentence(error)
    assert verify_store(folder)


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    segment = next(path for path in (folder / "segments").iterdir())
    shutil.move(segment, tmp_path / "elsewhere")
    segment.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a link, expected a folder"):
        StoreReader(folder)
    segment.unlink()
    shutil.move(tmp_path / "elsewhere", segment)
    shutil.move(segment / "keys.npy", tmp_path / "keys.npy")
    (segment / "keys.npy").symlink_to(tmp_path / "keys.npy")
    with pytest.raises(CheckpointError, match="keys.npy: cannot be read"):
        StoreReader(folder)


@pytest.mark.parametrize("name", ["manifest.json", "keys.npy"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder, name):
    path = next(folder.rglob(name))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=f"{name}: "):
        StoreReader(folder)
    assert verify_store(folder)


def test_nothing_is_removed_through_a_link(folder, tmp_path):
    (folder / "segments" / "999999").symlink_to(tmp_path)
    store = MemoryStore(folder)
    store.append(**entries(1))
    assert (folder / "segments" / "999999").is_symlink()
    (folder / "segments" / "999999").unlink()
    shutil.move(folder / "segments", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "202401").mkdir()
    (folder / "segments").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="segments: a link, expected a folder"):
        StoreReader(folder)
    with pytest.raises(CheckpointError, match="segments: a link, expected a folder") as error:
        store.append(**entries(1))
    assert is_one_sentence(error)
    assert (tmp_path / "elsewhere" / "202401").is_dir()


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_pickles_and_object_arrays_are_refused_and_not_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = sorted((folder / "segments").rglob("times.npy"))[0]
    np.save(path, np.array([_Bomb()], object), allow_pickle=True)
    for content in (path.read_bytes(), pickle.dumps(_Bomb())):
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()

        def sign(manifest, digest=digest):
            for segment in manifest["segments"]:
                if segment["name"] == path.parent.name:
                    segment["files"]["times.npy"]["sha256"] = digest

        rewrite_manifest(folder, sign)
        with pytest.raises(CheckpointError, match="not a plain .npy array|damaged") as error:
            StoreReader(folder)
        assert is_one_sentence(error)
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_leaves_the_store_as_it_was(folder):
    store = MemoryStore(folder)
    before = live_entries(store.snapshot)
    large = entries(5000)
    with store.writing():
        files = sorted(folder.rglob("*"))
    with files_up_to(20_000):
        with pytest.raises(CheckpointError, match="cannot be written .*as before") as error:
            store.append(**large)
    assert is_one_sentence(error)
    with files_up_to(100):  # not even the manifest
        for change in (
            store.compact,
            lambda: store.delete(users=[1]),
            lambda: store.evict(total=3),
        ):
            with pytest.raises(CheckpointError, match="cannot be written .*as before"):
                change()
    assert sorted({*folder.rglob("*")} - {folder / ".unfinished-manifest.json"}) == files
    assert live_entries(store.snapshot) == live_entries(StoreReader(folder).snapshot) == before
    assert store.verify() == []
    store.append(**large)
    assert len(live_entries(store.snapshot)) == len(before) + 5000


def test_a_last_flush_that_fails_loses_no_file_of_the_new_version(folder, monkeypatch):
    store, flush = MemoryStore(folder), files.flush_path

    def failing(path):
        if path == folder:
            raise OSError(errno.EIO, "Input/output error")
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "flush_path", failing)
        with pytest.raises(CheckpointError, match="is there but could not be flushed") as error:
            store.append(**entries(4))
    assert is_one_sentence(error)
    assert verify_store(folder) == []
    found = live_entries(StoreReader(folder).snapshot)
    assert found[:-4] == live_entries(store.snapshot)  # the version at hand stays
    store.append(**entries(1, seed=1))
    assert live_entries(store.snapshot)[:-1] == found


def test_what_is_removed_is_flushed_away(folder, monkeypatch):
    flushed, flush = [], files.flush_path

    def watched(path):
        flushed.append((path, sorted(path.iterdir()) if path.is_dir() else None))
        flush(path)

    monkeypatch.setattr(files, "flush_path", watched)
    MemoryStore(folder).compact()
    assert flushed[-1] == (folder / "segments", sorted((folder / "segments").iterdir()))
    assert len(flushed[-1][1]) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_read_and_not_written(folder):
    for path in (folder, folder / "segments"):
        path.chmod(0o555)
    try:
        (folder / ".lock").chmod(0o444)
        store = MemoryStore(folder)
        with pytest.raises(CheckpointError, match="cannot be written"):
            store.append(**entries(1))
    finally:
        for path in (folder, folder / "segments"):
            path.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_refused_in_one_sentence(folder, tmp_path):
    store = MemoryStore(folder)
    with pytest.raises(CheckpointError, match="holds a memory already"):
        create(folder)
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written") as error:
        store.append(**entries(1))
    assert is_one_sentence(error)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        create(tmp_path / "file" / "store")
    with pytest.raises(CheckpointError, match="no memory store here"):
        StoreReader(tmp_path)


def test_another_encoder_is_refused(folder):
    with pytest.raises(CheckpointError, match="made by encoder eeee.*reencode"):
        StoreReader(folder, "f" * 64)
    reader, store = StoreReader(folder, ENCODER), MemoryStore(folder)
    alive = int(store.snapshot.alive.sum())
    with pytest.raises(DataError, match="one per entry"):
        store.replace_keys(np.ones((alive + 1, 5), np.float32), "f" * 64)
    store.replace_keys(np.ones((alive, 5), np.float32), "f" * 64)
    with pytest.raises(CheckpointError, match="made by encoder ffff"):
        reader.refresh()
    assert StoreReader(folder, "f" * 64).snapshot.keys.shape == (alive, 5)
    assert reader.snapshot.dim == DIM  # what was at hand stays


def test_a_store_of_another_log_is_not_imported(folder, tmp_path):
    other = create(tmp_path / "other", log_fingerprint="another")
    with pytest.raises(CheckpointError, match="log_fingerprint"):
        other.import_from(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"keys": np.full((2, DIM), np.nan)}, "keys row 0 is not finite"),
        ({"keys": np.ones((2, DIM + 1))}, "4 dimensions but the store's have 3"),
        ({"keys": np.array([["a"] * DIM] * 2)}, "give .rows, dim. floats"),
        ({"target_ids": np.array([1, 10])}, r"target_ids\[1\] is 10 but the store knows 1..9"),
        ({"target_ids": np.array([1, 0])}, r"target_ids\[1\] is 0"),
        ({"user_ids": np.array([0, 2**40])}, r"user_ids\[1\]"),
        ({"user_ids": np.array([0, USERS + 3])}, "user_ids"),
        ({"lengths": np.array([1, 2, 3])}, "differ in length"),
        ({"times": None}, "the store has times"),
        ({"times": np.array([1.0, np.inf])}, r"times\[1\] is inf"),
        ({"times": np.array([1.0, 2.5])}, "round it to a whole number"),
        ({"times": np.array([1.0, 1e300])}, "beyond 2.62"),
        ({"times": np.array(["1", "2"])}, "one number per row"),
        ({"events": Events(np.array([1]), np.array([0]), np.array([1]))}, "event item_ids"),
        ({"events": Events(np.array([1]), np.array([1]), None)}, "the store has times"),
        ({"new_users": {USERS + 3: ""}}, "empty or too long"),
        ({"new_users": {USERS + 3: "x" * 10_000_000}}, "10,000,000 characters"),
        ({"new_users": {USERS + 3: "\ud800"}}, "not valid text"),
        ({"new_users": {0: "me"}}, "the next one is 9"),
        ({"replaced_rows": np.array([10**6])}, "replaced_rows"),
    ],
)
def test_wrong_rows_are_refused_before_anything_changes(sound, changed, words):
    store = MemoryStore(sound)
    before = store.version
    with pytest.raises(DataError, match=words) as error:
        store.append(**(entries(2) | changed))
    assert is_one_sentence(error)
    assert store.version == before == StoreReader(sound).version


def test_ids_that_are_paths_are_names_and_nothing_else(folder, tmp_path):
    store = MemoryStore(folder)
    outside = sorted(path for path in tmp_path.rglob("*") if folder not in path.parents)
    name = "../../../etc/passwd\0\n"
    store.append(**entries(1), new_users={store.snapshot.next_user_id: name})
    assert name in StoreReader(folder).snapshot.user_ids_by_label
    store.compact()
    assert name in StoreReader(folder).snapshot.user_ids_by_label
    assert outside == sorted(path for path in tmp_path.rglob("*") if folder not in path.parents)


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"num_users": -1},
        {"key_dtype": "float16"},
        {"time_dtype": "int32"},
    ],
)
def test_a_store_that_could_not_be_opened_is_not_made(tmp_path, options):
    with pytest.raises(ConfigError, match="no memory store can be made: ") as error:
        create(tmp_path / "store", **options)
    assert is_one_sentence(error)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("wrong", [1.7, "1", True, float("nan"), None])
def test_who_is_deleted_is_never_guessed(sound, wrong):
    store = MemoryStore(sound)
    with pytest.raises(DataError, match=r"users\[1\] is .*; give the dense ids"):
        store.delete(users=[10**30, wrong])
    with pytest.raises(DataError, match=r"items\[0\] is .*; give the dense ids"):
        store.delete(items=[wrong])


@pytest.mark.parametrize(
    "bound",
    [
        {"older_than": float("nan")},
        {"older_than": 10**400},
        {"per_user": 0},
        {"total": -1},
    ],
)
def test_a_bound_that_is_none_is_refused(sound, bound):
    with pytest.raises(ConfigError, match=f"{next(iter(bound))}=") as error:
        MemoryStore(sound).evict(**bound)
    assert is_one_sentence(error)


def test_bfloat16_keys_are_rounded_once_and_stay(tmp_path):
    store = create(tmp_path / "store", key_dtype="bfloat16")
    given = entries(9)
    store.append(**given)
    store.append(**entries(2, seed=1))
    store.compact()
    keys = StoreReader(tmp_path / "store").snapshot.keys
    assert str(keys.dtype) == "bfloat16"
    np.testing.assert_array_equal(keys[:9], given["keys"].astype(keys.dtype))
