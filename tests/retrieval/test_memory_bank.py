"""MemoryBank: checked when made, appended without touching the old, durable or damaged but never half."""

import contextlib
import hashlib
import io
import json
import os
import shutil

import numpy as np
import pytest

from raserec_jax.errors import CheckpointError, DataError
from raserec_jax.retrieval.memory_bank import BANK, MemoryBank
from raserec_jax.store import files as store_files
from raserec_jax.store.arrays import as_int32
from raserec_jax.store.files import manifest_bytes, read_npy, replace_file

ENCODER = "e" * 64
COLUMNS = ("keys", "target_ids", "user_ids", "lengths", "times")


def columns(rows, dim=3, seed=0, times=True):
    rng = np.random.default_rng(seed)
    made = {
        "keys": rng.normal(size=(rows, dim)).astype(np.float32),
        "target_ids": rng.integers(1, 50, rows, dtype=np.int32),
        "user_ids": rng.integers(0, 9, rows, dtype=np.int32),
        "lengths": rng.integers(1, 20, rows, dtype=np.int32),
        "times": rng.integers(0, 99, rows, dtype=np.int32),
    }
    return made if times else {name: made[name] for name in COLUMNS[:-1]}


def assert_same(bank, other):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(bank, name), getattr(other, name))
    assert (bank.version, bank.segment_ends) == (other.version, other.segment_ends)
    assert bank.fingerprint == other.fingerprint


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# In memory.


def test_arrays_are_int32_and_float32_and_read_only():
    given = columns(4)
    bank = MemoryBank(
        **{name: column.astype("int64") for name, column in given.items() if name != "keys"}
        | {"keys": given["keys"].astype("float64")}
    )
    assert (bank.rows, bank.dim, bank.version) == (4, 3, 1)
    assert bank.keys.dtype == np.float32
    assert {getattr(bank, name).dtype for name in COLUMNS[1:]} == {np.dtype(np.int32)}
    with pytest.raises(ValueError, match="read-only"):
        bank.keys[0, 0] = 1
    given["keys"][0, 0] = 1  # the caller's array is the caller's


def test_append_makes_a_new_version_and_leaves_the_old():
    first, more = columns(4), columns(3, seed=1)
    old = MemoryBank(**first)
    new = old.append(**more)
    assert (old.rows, old.version, new.rows, new.version) == (4, 1, 7, 2)
    assert new.segment_ends == (4, 7)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(new, name), np.concatenate([first[name], more[name]]))
    assert new.append(**columns(0)) is new
    assert new.fingerprint != old.fingerprint


def test_fingerprint_is_of_the_content_alone():
    whole = columns(7)
    parts = [
        {name: column[part] for name, column in whole.items()}
        for part in (slice(0, 4), slice(4, 7))
    ]
    assert MemoryBank(**parts[0]).append(**parts[1]).fingerprint == MemoryBank(**whole).fingerprint
    assert MemoryBank(**columns(7, times=False)).fingerprint != MemoryBank(**whole).fingerprint


BAD_ROWS = [
    ("keys", np.array([[1.0, np.nan, 0], [0, 0, 0]]), r"memory keys row 0 is not finite"),
    ("keys", np.array([[1.0, 0, 0], [1e300, 0, 0]]), r"memory keys row 1 is not finite"),
    ("keys", np.zeros((2, 0)), r"memory keys has shape \(2, 0\)"),
    (
        "keys",
        np.zeros((2, 3), int),
        r"memory keys has shape .* dtype int64; give \[rows, dim\] floats",
    ),
    ("target_ids", np.array([1, 0]), r"memory target_ids\[1\] is 0; expected an integer in 1\.\."),
    ("user_ids", np.array([-1, 0]), r"memory user_ids\[0\] is -1"),
    ("lengths", np.array([1, 2**31]), r"memory lengths\[1\] is 2147483648"),
    ("lengths", np.array([1.0, 2.0]), r"memory lengths has shape \(2,\) and dtype float64"),
    ("lengths", np.array([[1, 2]]), r"memory lengths has shape \(1, 2\)"),
    ("times", np.array([1, 2, 3]), r"memory times has 3 rows but keys has 2; give one per key"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_ROWS)
def test_bad_rows_are_refused_before_anything_changes(name, value, message):
    with pytest.raises(DataError, match=message):
        MemoryBank(**(columns(2) | {name: value}))
    bank = MemoryBank(**columns(4))
    with pytest.raises(DataError, match=message):
        bank.append(**(columns(2) | {name: value}))
    assert_same(bank, MemoryBank(**columns(4)))


def test_append_of_another_kind_is_refused():
    bank = MemoryBank(**columns(4))
    with pytest.raises(DataError, match="keys to append have 5 dimensions but the bank has 3"):
        bank.append(**columns(2, dim=5))
    with pytest.raises(DataError, match="rows to append have no times but the bank has times"):
        bank.append(**columns(2, times=False))
    with pytest.raises(DataError, match="rows to append have times but the bank has no times"):
        MemoryBank(**columns(4, times=False)).append(**columns(2))


def test_as_int32_takes_unsigned_integers():
    assert as_int32(np.array([7], np.uint64), "x").dtype == np.int32
    with pytest.raises(DataError, match=r"x\[0\] is 18446744073709551615"):
        as_int32(np.array([2**64 - 1], np.uint64), "x")


# On disk.


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_save_and_load(tmp_path, rows, times):
    bank = MemoryBank(**columns(rows, times=times))
    bank.save(tmp_path / "a" / "memory", ENCODER)
    assert_same(MemoryBank.load(tmp_path / "a" / "memory"), bank)
    assert_same(MemoryBank.load(tmp_path / "a" / "memory", ENCODER), bank)


def test_saving_an_appended_bank_writes_only_the_new_segment(tmp_path):
    bank = MemoryBank(**columns(5))
    bank.save(tmp_path, ENCODER)
    first = tmp_path / "segments" / "000000"
    before = {path.name: path.stat().st_mtime_ns for path in (first, *first.iterdir())}
    for seed in (1, 2):
        bank = MemoryBank.load(tmp_path).append(**columns(3, seed=seed))
        bank.save(tmp_path, ENCODER)
        assert_same(MemoryBank.load(tmp_path), bank)
    assert {path.name: path.stat().st_mtime_ns for path in (first, *first.iterdir())} == before
    assert sorted(os.listdir(tmp_path / "segments")) == ["000000", "000001", "000002"]
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "segments"]


def test_saving_another_bank_replaces_the_old(tmp_path):
    MemoryBank(**columns(5)).append(**columns(2)).save(tmp_path, ENCODER)
    other = MemoryBank(**columns(6, seed=3))
    other.save(tmp_path, "f" * 64)
    assert_same(MemoryBank.load(tmp_path, "f" * 64), other)
    assert os.listdir(tmp_path / "segments") == ["000002"]


def test_another_encoder_is_refused(tmp_path):
    MemoryBank(**columns(5)).save(tmp_path, ENCODER)
    with pytest.raises(
        CheckpointError, match="built by encoder eeeeeeeeeeeeeeee but the encoder in use is ffff"
    ):
        MemoryBank.load(tmp_path, "f" * 64)


class Crash(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def crash_at(monkeypatch, event):
    """Makes the event-th write, flush or rename from now raise; returns how many there have been."""
    seen = [0]

    def wrap(function):
        def wrapped(*args, **kwargs):
            seen[0] += 1
            if seen[0] == event:
                raise Crash
            return function(*args, **kwargs)

        return wrapped

    for name in ("fsync", "rename", "replace", "mkdir", "open", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(store_files, "open", wrap(open), raising=False)
    monkeypatch.setattr(shutil, "rmtree", wrap(shutil.rmtree))
    return seen


@pytest.mark.parametrize("kind", ["first", "append", "replace"])
def test_a_crash_at_any_moment_leaves_the_old_or_the_new_bank(tmp_path, monkeypatch, kind):
    old = None if kind == "first" else MemoryBank(**columns(4))
    new = old.append(**columns(3, seed=1)) if kind == "append" else MemoryBank(**columns(6, seed=2))
    outcomes = set()
    for event in range(1, 200):
        folder = tmp_path / str(event)
        if old is not None:
            old.save(folder, ENCODER)
        with monkeypatch.context() as patch:
            seen = crash_at(patch, event)
            try:
                new.save(folder, ENCODER)
            except Crash:
                pass
        finished = seen[0] < event
        try:
            found = MemoryBank.load(folder, ENCODER)
        except CheckpointError as error:
            assert old is None and "no memory bank here" in str(error)
            found = None
        if found is not None:
            assert_same(found, new if finished or old is None or found.rows == new.rows else old)
        outcomes.add(None if found is None else found.rows)
        new.save(folder, ENCODER)  # the next writer
        assert_same(MemoryBank.load(folder), new)
        assert not [name for name in files_of(folder) if "unfinished" in name]
        assert len(os.listdir(folder / "segments")) == len(new.segment_ends)
        if finished:
            break
    assert finished and event > 15
    assert outcomes == {old and old.rows, new.rows}


def test_files_that_are_not_ours_survive_a_save(tmp_path):
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "notes.txt").write_text("mine")
    (tmp_path / "segments" / "000007").mkdir()  # of a save that never finished
    MemoryBank(**columns(5)).save(tmp_path, ENCODER)
    assert sorted(os.listdir(tmp_path / "segments")) == ["000000", "notes.txt"]


def flip(offset):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(offset * (len(content) - 1))] ^= 4
        path.write_bytes(content)

    return damage


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    **{f"bit flipped at {offset}": flip(offset) for offset in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_to_every_file_is_noticed(tmp_path, damage):
    MemoryBank(**columns(5)).append(**columns(3, seed=1)).save(tmp_path / "whole", ENCODER)
    names = files_of(tmp_path / "whole")
    assert len(names) == 11
    for place, name in enumerate(names):
        copy = tmp_path / str(place)
        shutil.copytree(tmp_path / "whole", copy)
        damage(copy / name)
        with pytest.raises(CheckpointError, match=r"damaged|cannot be read|no memory bank here"):
            MemoryBank.load(copy, ENCODER)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_to_every_file_is_repaired_and_told_once(tmp_path, caplog, damage):
    bank = MemoryBank(**columns(5)).append(**columns(3, seed=1))
    bank.save(tmp_path / "whole", ENCODER)
    for place, name in enumerate(files_of(tmp_path / "whole")):
        if (name, damage) == ("manifest.json", DAMAGES["a folder"]):
            continue  # refused, as a place that cannot be written
        copy = tmp_path / str(place)
        shutil.copytree(tmp_path / "whole", copy)
        damage(copy / name)
        caplog.clear()
        if name != "manifest.json":
            bank.save(copy, ENCODER)  # only by its word
            with pytest.raises(CheckpointError, match=r"damaged|cannot be read"):
                MemoryBank.load(copy)
            assert not caplog.records
        bank.save(copy, ENCODER, repair=True)
        assert_same(MemoryBank.load(copy, ENCODER), bank)
        said = [record.getMessage() for record in caplog.records]
        if (name, damage) != ("manifest.json", DAMAGES["deleted"]):  # then nothing was there
            assert len(said) == 1 and said[0].startswith("written again: ")
            assert said[0].count(name) == 1 and "\n" not in said[0]
        assert len(os.listdir(copy / "segments")) == 2
        caplog.clear()
        before = files_of(copy)
        bank.save(copy, ENCODER, repair=True)
        assert files_of(copy) == before and not caplog.records


def test_a_crash_while_repairing_leaves_what_the_next_repair_mends(tmp_path, monkeypatch):
    bank = MemoryBank(**columns(4)).append(**columns(3, seed=1))
    for event in range(1, 200):
        folder = tmp_path / str(event)
        bank.save(folder, ENCODER)
        DAMAGES["truncated"](folder / "segments" / "000000" / "keys.npy")
        with monkeypatch.context() as patch:
            seen = crash_at(patch, event)
            with contextlib.suppress(Crash):
                bank.save(folder, ENCODER, repair=True)
        try:
            found = MemoryBank.load(
                folder, ENCODER
            )  # whole, or still damaged: never something else
        except CheckpointError as error:
            assert "keys.npy: damaged" in str(error)
        else:
            assert_same(found, bank)
        bank.save(folder, ENCODER, repair=True)
        assert_same(MemoryBank.load(folder, ENCODER), bank)
        if seen[0] < event:
            break
    assert event > 15


def test_what_is_no_bank_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent: no memory bank here \(no manifest.json\)"):
        MemoryBank.load(tmp_path / "absent")
    for content in ("[]", "{", '{"format": "another"}', "\udcff"):
        (tmp_path / "manifest.json").write_text(content, errors="surrogateescape")
        with pytest.raises(
            CheckpointError, match="damaged, or not the manifest of a raserec_jax memory bank"
        ):
            MemoryBank.load(tmp_path)
        with pytest.raises(
            CheckpointError, match="damaged, or not the manifest of a raserec_jax memory bank"
        ):
            MemoryBank(**columns(2)).save(
                tmp_path, ENCODER
            )  # overwrites nothing that it does not understand


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file: the memory bank cannot be written"):
        MemoryBank(**columns(2)).save(tmp_path / "file", ENCODER)


def forged(folder, change):
    """A manifest with a right digest over wrong content, as no crash but only a stranger makes it."""
    MemoryBank(**columns(4)).save(folder, ENCODER)
    path = folder / "manifest.json"
    manifest = {
        name: value for name, value in json.loads(path.read_bytes()).items() if name != "sha256"
    }
    change(manifest)
    path.write_bytes(manifest_bytes(manifest, BANK))


def set_name(manifest):
    manifest["segments"][0]["name"] = "../000000"


def set_file(manifest):
    files = manifest["segments"][0]["files"]
    files["../keys.npy"] = files["keys.npy"]


def set_shape(manifest):
    manifest["segments"][0]["files"]["keys.npy"]["shape"] = [2, 6]


def drop_column(manifest):
    del manifest["segments"][0]["files"]["user_ids.npy"]


def drop_segments(manifest):
    manifest["segments"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_name, r"'../000000' is not the name of a segment"),
        (set_file, r"'../keys.npy' is not a file of a segment"),
        (set_shape, r"keys.npy: float32 \(4, 3\) is not what manifest.json says"),
        (drop_column, r"the memory bank contradicts itself"),
        (drop_segments, r"the memory bank contradicts itself"),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path, change, message):
    forged(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        MemoryBank.load(tmp_path)


def test_a_lying_header_allocates_nothing(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**40)}
    )
    path = tmp_path / "segments" / "000000" / "keys.npy"

    def name_its_digest(manifest):
        path.write_bytes(header.getvalue() + bytes(64))
        with open(path, "rb") as file:
            manifest["segments"][0]["files"]["keys.npy"]["sha256"] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()

    forged(tmp_path, name_its_digest)
    with pytest.raises(
        CheckpointError, match=r"keys.npy: not a plain .npy array \(its header says float32"
    ):
        MemoryBank.load(tmp_path)


def test_read_npy_refuses_what_is_not_plain():
    for array, message in [
        (np.array([None]), "its header says object"),
        (np.asfortranarray(np.ones((2, 3))), "its header says float64"),
    ]:
        file = io.BytesIO()
        np.lib.format.write_array(file, array)
        size = file.tell()
        file.seek(0)
        with pytest.raises(ValueError, match=message):
            read_npy(file, size)
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ones(3), version=(2, 0))
    file.seek(0)
    with pytest.raises(ValueError, match="not a version 1.0 .npy file"):
        read_npy(file, 1)


def test_replace_file_keeps_the_old_one_when_writing_fails(tmp_path):
    path = tmp_path / "f"
    replace_file(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
