"""A disk that is full or may not be written: one sentence, and what was saved before stays as it was."""

import contextlib
import os
import pathlib
import resource
import tempfile

import numpy as np
import pytest

from raserec_jax import checkpoints
from raserec_jax.errors import CheckpointError
from raserec_jax.training.saving import Saver
from tests.resume.runs import Runs

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


def test_the_error_of_a_save_in_the_background_is_raised(root):
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


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_with_2_and_goes_on_later(tmp_path):
    """Files of any size but a few bytes fail somewhere: each time one sentence, and nothing is lost."""
    runs = Runs(tmp_path, ("pretrain", "memory"))
    runs.finish(tmp_path / "expected")
    for most_bytes in (2_000, 8_000, 11_000, 20_000):
        process = runs.start(tmp_path / "run", most_bytes=most_bytes)
        assert process.wait() == 2, process.output.read_text()
        said = process.output.read_text()
        assert "Traceback" not in said
        assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
    runs.finish(tmp_path / "run")
    one, other = (tmp_path / name / "memory" / "segments" for name in ("run", "expected"))
    for path in other.rglob("*.npy"):
        assert (one / path.relative_to(other)).read_bytes() == path.read_bytes()
