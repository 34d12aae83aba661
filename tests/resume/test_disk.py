"""A disk that is full or may not be written: one sentence, and what was saved before stays as it was."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

from raserec_jax import checkpoints
from raserec_jax.errors import CheckpointError
from raserec_jax.training.saving import Saver
from tests.resume.runs import STAGES, Runs, assert_same_run, exit_code_and_output

SMALL = {"w": np.arange(4.0, dtype=np.float32)}
LARGE = {"w": np.random.default_rng(0).random(1_000_000).astype(np.float32)}


@contextlib.contextmanager
def files_up_to(size: int):
    """Nothing larger can be written meanwhile, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def root(tmp_path):
    checkpoints.save_step(tmp_path / "steps", 1, SMALL, {"epochs_done": 1})
    return tmp_path / "steps"


def assert_as_before(root):
    assert [path.name for path in root.iterdir()] == ["000000001"]
    tree, meta = checkpoints.restore_newest(root, SMALL)
    np.testing.assert_array_equal(tree["w"], SMALL["w"])
    assert meta == {"epochs_done": 1}


def test_a_full_disk_leaves_earlier_checkpoints_alone(root, capfd):
    with files_up_to(100_000), pytest.raises(CheckpointError, match="cannot be written .*large"):
        checkpoints.save_step(root, 2, LARGE, {})
    assert_as_before(root)
    with files_up_to(100_000), pytest.raises(CheckpointError, match="cannot be written .*large"):
        checkpoints.save(root / "000000001", LARGE, {})  # nor is the one that is replaced
    assert_as_before(root)
    assert "Traceback" not in capfd.readouterr().err


def test_the_error_of_a_save_in_the_background_is_raised(root, caplog):
    def fail():
        with files_up_to(100_000):
            checkpoints.save_step(root, 2, LARGE, {})

    with pytest.raises(CheckpointError, match="cannot be written"), Saver() as saver:
        saver.submit(fail)
        with pytest.raises(CheckpointError, match="cannot be written"):
            saver.submit(lambda: None)  # at the next save
        saver.check()  # once
        saver.submit(fail)  # and at the end
    with pytest.raises(ZeroDivisionError), Saver() as saver:
        saver.submit(fail)
        raise ZeroDivisionError  # what went wrong first is what is told
    assert caplog.text.count("cannot be written") == 1  # and this behind it
    with pytest.raises(CheckpointError, match="metrics"), Saver() as saver:
        saver.submit(fail)
        raise CheckpointError(
            "metrics cannot be written"
        )  # of the same disk: one sentence is enough
    assert caplog.text.count("cannot be written") == 1
    assert_as_before(root)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_a_folder_that_may_not_be_written_is_refused():
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which others may not enter
        root = pathlib.Path(folder) / "steps"
        checkpoints.save_step(root, 1, SMALL, {"epochs_done": 1})
        user = os.geteuid()
        try:
            pathlib.Path(folder).chmod(0o755)
            root.chmod(0o555)
            if user == 0:
                os.seteuid(65534)  # root may write anywhere
            with pytest.raises(CheckpointError, match="cannot be written .Permission denied"):
                checkpoints.save_step(root, 2, SMALL, {})
        finally:
            os.seteuid(user)
            root.chmod(0o755)
        assert_as_before(root)


def assert_ends_with_one_sentence(process) -> None:
    """Exit code 2, one error, and nothing of threads or libraries around it."""
    code, said = exit_code_and_output(process)
    assert code == 2, said
    *before, error = said.splitlines()
    assert error.startswith("error: "), said
    told = tuple(f"{stage}{sign}" for stage in STAGES for sign in (":", " epoch "))
    assert not [line for line in before if not line.startswith(("workdir ", *told))], said


def assert_checkpoints_are_whole(workdir) -> None:
    for folder in (*workdir.glob("best/*"), *workdir.glob("checkpoints/*/*")):
        assert checkpoints.read_meta(folder)["stage"]


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_with_2_and_goes_on_later(tmp_path):
    """Files of any size but a few bytes fail somewhere: each time one sentence, and nothing is lost."""
    runs = Runs(tmp_path, ("pretrain", "memory"))
    runs.finish(tmp_path / "expected")
    for most_bytes in (1_000, 2_000, 8_000, 11_000, 20_000):
        assert_ends_with_one_sentence(runs.start(tmp_path / "run", most_bytes=most_bytes))
        assert_checkpoints_are_whole(tmp_path / "run")
    runs.finish(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "expected")


@contextlib.contextmanager
def small_disk(folder):
    """A file system of its own in a folder; yields a function that sets how many bytes fit."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    done = mount and subprocess.run(command, capture_output=True, text=True, check=False)
    if not mount or done.returncode:
        pytest.skip(
            f"a tmpfs cannot be mounted here: {done.stderr.strip() if mount else 'no mount'}"
        )

    def resize(size: int) -> None:
        subprocess.run([mount, "-o", f"remount,size={size}", folder], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_a_run_with_2_and_space_lets_it_go_on(tmp_path):
    """A real file system, made a little larger each time, so that the run fails at ever later writes."""
    runs = Runs(tmp_path, ("pretrain", "memory"))
    runs.finish(tmp_path / "expected")
    used = sum(-(-path.stat().st_size // 4096) for path in (tmp_path / "expected").rglob("*"))
    with small_disk(tmp_path / "disk") as resize:
        workdir = tmp_path / "disk" / "run"
        for part in (0.1, 0.3, 0.5, 0.7, 0.9):
            resize(int(part * used * 4096))
            assert_ends_with_one_sentence(runs.start(workdir))
            assert_checkpoints_are_whole(workdir)
        resize(64 << 20)
        runs.finish(workdir)
        assert_same_run(workdir, tmp_path / "expected")
