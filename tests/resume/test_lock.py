"""One process at a time trains in a workdir; a dead one keeps nobody out, and readers never wait."""

import errno
import fcntl
import signal
import subprocess
import sys

import pytest

from raserec_jax.errors import ConfigError
from raserec_jax.recommend import Recommender
from raserec_jax.training import workdir as wd
from raserec_jax.training.reevaluate import reevaluate
from tests.resume.runs import ROOT, Runs, exit_code_and_output, is_at, wait_for
from tests.tiny_workdir import quick_compiles, trained

_HOLD = """
import sys, time
from raserec_jax.training import workdir as wd
with wd.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", _HOLD, tmp_path / "run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_process_that_has_the_workdir_is_named_until_it_dies(tmp_path, holder):
    with (
        pytest.raises(ConfigError, match=rf"run is in use by process {holder.pid}; wait until it"),
        wd.locked(tmp_path / "run"),
    ):
        pass
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    for _ in range(2):
        with wd.locked(tmp_path / "run"):
            pass


def test_the_lock_ends_with_its_context_also_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), wd.locked(tmp_path / "run"):
        with pytest.raises(ConfigError, match="in use"), wd.locked(tmp_path / "run"):
            pass
        raise ZeroDivisionError
    with wd.locked(tmp_path / "run"):
        pass


def test_a_holder_on_another_machine_is_named_with_it(tmp_path):
    with wd.locked(tmp_path):
        (tmp_path / wd.LOCK_FILE).write_text("77 elsewhere\n")
        with (
            pytest.raises(ConfigError, match="by process 77 on elsewhere;"),
            wd.locked(tmp_path),
        ):
            pass


def test_a_place_that_cannot_be_locked_is_named(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(ConfigError, match="--workdir=.*file.run: cannot be written"),
        wd.locked(tmp_path / "file" / "run"),
    ):
        pass

    def refuse(code):
        def flock(descriptor, operation):
            raise OSError(code, "refused")

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.EIO)
    with pytest.raises(ConfigError, match="cannot be written .refused"), wd.locked(tmp_path):
        pass
    refuse(errno.ENOLCK)  # as some network file systems do
    with wd.locked(tmp_path):
        pass
    assert "this file system has no locks" in caplog.text


def test_a_workdir_in_use_can_be_read(tmp_path_factory):
    workdir = trained(tmp_path_factory.getbasetemp())
    with wd.locked(workdir), quick_compiles():
        assert Recommender.load(workdir).recommend([["i001", "i002"]], k=3)
        assert reevaluate(workdir).holds


def test_a_second_training_process_ends_with_2_and_leaves_the_first_alone(tmp_path):
    runs = Runs(tmp_path, ("pretrain",), **{"pretrain.stopping.epochs": 1})
    first = runs.start(tmp_path / "run")
    try:
        assert wait_for(first, lambda: is_at(first, tmp_path / "run", "pretrain"))
        code, said = exit_code_and_output(runs.start(tmp_path / "run"))
    finally:
        first.kill()
    assert code == 2, said
    assert said.startswith("error: ") and f"is in use by process {first.pid}; " in said
    assert said.count("\n") == 1
    assert first.wait() == -signal.SIGKILL
    runs.finish(tmp_path / "run")
