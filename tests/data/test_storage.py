"""Saving and loading a log: equality, damage, and kills at every step."""

import dataclasses
import hashlib
import json
import os
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.data import storage
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import DataError


def a_log(times=(3, 1, 2), items=("x", "y", "é")):
    return InteractionLog.from_columns([7, 7, 8], items, timestamp=times, name="shop")


def assert_equal(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(left, right), field.name
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None), field.name
    assert one.fingerprint() == other.fingerprint()


text = st.text(min_size=1, max_size=4).filter(lambda label: not label.endswith("\0"))
ids = st.one_of(st.integers(0, 9).map(str), text)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(ids, ids, st.integers(-9, 9)), min_size=1, max_size=9),
    st.sampled_from([None, 1, 0.5]),
)
def test_load_returns_what_was_saved(tmp_path_factory, table, unit):
    users, items, times = zip(*table, strict=True)
    times = None if unit is None else [time * unit for time in times]
    log = InteractionLog.from_columns(users, items, timestamp=times)
    folder = tmp_path_factory.mktemp("logs") / "new" / "log"
    log.save(folder)
    assert_equal(InteractionLog.load(folder), log)


def test_saving_is_repeatable_and_replaces(tmp_path):
    folder = tmp_path / "log"
    a_log().save(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    a_log().save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    without_times = InteractionLog.from_columns([1], [2])
    without_times.save(str(folder))
    assert_equal(InteractionLog.load(str(folder)), without_times)
    assert not (folder / "timestamps.npy").exists()
    assert os.listdir(tmp_path) == ["log"]
    (tmp_path / "empty").mkdir()
    a_log().save(tmp_path / "empty")
    assert storage.is_saved_folder(tmp_path / "empty")
    assert not storage.is_saved_folder(tmp_path)
    assert not storage.is_saved_folder("\0")


def test_a_link_is_followed(tmp_path):
    a_log().save(tmp_path / "target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    a_log(times=(1, 2, 3)).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_equal(InteractionLog.load(tmp_path / "target"), a_log(times=(1, 2, 3)))


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="holds 'thesis.tex', which saving would delete"):
        a_log().save(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(DataError, match="is a file; give the name of a folder"):
        a_log().save(tmp_path / "thesis.tex")
    with pytest.raises(DataError, match="cannot be written"):
        a_log().save(tmp_path / "thesis.tex" / "below")


class Killed(BaseException):
    """Stands for a kill: nothing in the library may catch it."""


def calls_until_done(monkeypatch, action):
    """Runs `action` once per file-system call that it makes, killed right before that call."""
    names = ("rename", "replace", "fsync")
    real = {name: getattr(os, name) for name in names}
    write = storage.write_flushed
    for stop in range(100):
        count = 0

        def step(stop=stop):
            nonlocal count
            count += 1
            if count > stop:  # a killed process makes no further call
                raise Killed

        def guarded(function, step=step):
            def call(*arguments):
                step()
                return function(*arguments)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, guarded(real[name]))
            patch.setattr(storage, "write_flushed", guarded(write))
            try:
                action()
                return
            except Killed:
                yield stop
    raise AssertionError("never done")


@pytest.mark.parametrize("clean_up_runs", [True, False], ids=["exception", "kill"])
def test_a_kill_leaves_the_old_log_or_the_new_one(tmp_path, monkeypatch, clean_up_runs):
    old, new, folder = a_log(), a_log(times=(1, 2, 3)), tmp_path / "log"
    if not clean_up_runs:
        monkeypatch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)
    old.save(folder)
    killed = 0
    for stop in calls_until_done(monkeypatch, lambda: new.save(folder)):
        killed = stop + 1
        found = InteractionLog.load(folder)
        assert found.fingerprint() in (old.fingerprint(), new.fingerprint())
    assert killed > 6  # six files
    monkeypatch.undo()
    new.save(folder)
    assert_equal(InteractionLog.load(folder), new)


def test_the_first_save_is_whole_or_absent(tmp_path, monkeypatch):
    for _ in calls_until_done(monkeypatch, lambda: a_log().save(tmp_path / "log")):
        if (tmp_path / "log").exists():  # renamed, only the flush of the parent was missing
            assert_equal(InteractionLog.load(tmp_path / "log"), a_log())
            return
        assert os.listdir(tmp_path) == []
    raise AssertionError("never renamed")


def test_failing_rename_puts_the_old_log_back(tmp_path, monkeypatch):
    folder = tmp_path / "log"
    a_log().save(folder)
    real = os.rename

    def fail(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(DataError, match="cannot be written .No space left on device."):
        a_log(times=(1, 2, 3)).save(folder)
    assert_equal(InteractionLog.load(folder), a_log())
    assert os.listdir(tmp_path) == ["log"]


def test_a_log_between_two_renames_is_found(tmp_path):
    a_log().save(tmp_path / "log")
    os.rename(tmp_path / "log", tmp_path / ".log.previous")
    assert storage.is_saved_folder(tmp_path / "log")
    assert_equal(InteractionLog.load(tmp_path / "log"), a_log())
    a_log(times=(1, 2, 3)).save(tmp_path / "log")
    assert os.listdir(tmp_path) == ["log"]


ARRAYS = ["user_ids", "item_ids", "user_labels", "item_labels", "timestamps"]


@pytest.mark.parametrize("name", ARRAYS)
def test_every_flipped_bit_and_truncation_is_told(tmp_path, name):
    a_log().save(tmp_path / "log")
    path = tmp_path / "log" / f"{name}.npy"
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b"", content + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name}\.npy: damaged, its SHA-256 is not"):
            InteractionLog.load(tmp_path / "log")
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}\.npy: cannot be read"):
        InteractionLog.load(tmp_path / "log")


def edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        manifest[key] = value
    path.write_text(json.dumps(manifest))


def test_foreign_and_damaged_manifests(tmp_path):
    with pytest.raises(DataError, match=r"no InteractionLog here \(no manifest.json\)"):
        InteractionLog.load(tmp_path / "nowhere")
    folder = tmp_path / "log"
    a_log().save(folder)
    manifest = (folder / "manifest.json").read_text()
    for content in (manifest[:-9], "", "\0\1", "[" * 100_000):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=r"manifest.json: damaged, not JSON"):
            InteractionLog.load(folder)
    for content in ("[]", "{}", '{"sha256": 3}', manifest.replace("InteractionLog", "Bank")):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=r"not the manifest of a InteractionLog"):
            InteractionLog.load(folder)
    (folder / "manifest.json").write_text(manifest)
    edit_manifest(folder, version=2)
    with pytest.raises(DataError, match="version 2, expected 1"):
        InteractionLog.load(folder)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        InteractionLog.load(folder)


def plant(folder, name, content):
    """Puts a file with a fitting digest, as somebody who means harm would."""
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    (folder / f"{name}.npy").write_bytes(content)
    edit_manifest(folder, sha256={**digests, f"{name}.npy": hashlib.sha256(content).hexdigest()})


def test_planted_arrays(tmp_path):
    folder = tmp_path / "log"
    a_log().save(folder)
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (pathlib.Path.touch, (marker,))

    np.save(tmp_path / "pickle.npy", np.array([Payload()], object), allow_pickle=True)
    huge = b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (%d,), }"
    for content in (
        (tmp_path / "pickle.npy").read_bytes(),
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        (huge % 10**15).ljust(127) + b"\n",
        b"\x93NUMPY\x01\x00v\x00" + b"(" * 117 + b"\n",
    ):
        plant(folder, "item_ids", content)
        with pytest.raises(DataError, match=r"item_ids.npy: not a plain .npy array"):
            InteractionLog.load(folder)
    assert not marker.exists()
    a_log().save(folder)
    plant(folder, "item_ids", storage._npy_bytes(np.array([1, 2, 9], np.int32)))
    with pytest.raises(DataError, match=r"not a valid log: item_ids must be within 1\.\.3"):
        InteractionLog.load(folder)
    plant(folder, "item_ids", storage._npy_bytes(np.array([1, 2, 2], np.int32)))
    with pytest.raises(DataError, match="manifest and arrays are of different logs"):
        InteractionLog.load(folder)


def test_write_file(tmp_path):
    storage.write_file(tmp_path / "a", b"1")
    storage.write_file(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"2"
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(DataError, match="cannot be written"):
        storage.write_file(tmp_path / "absent" / "a", b"1")
