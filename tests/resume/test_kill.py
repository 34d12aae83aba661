"""kill -9 at any instant, and SIGTERM: the run goes on, and ends with the same bits as one that nobody disturbed."""

import collections
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.resume.runs import (
    ROOT,
    STAGES,
    Runs,
    assert_same_run,
    leftovers,
    stage_of,
    wait_for_start,
)


def kill_while_writing(process, workdir, draw) -> None:
    """kill -9 within 30 ms of the moment at which something is seen half-written."""
    while process.poll() is None and not leftovers(workdir):
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.03))
    process.kill()


def kill_many(runs: Runs, folder, expected, kills: int, seconds: float, seed: int) -> dict:
    """Kills `kills` times, every other time during a save; each run that gets to its end is compared.

    Args:
      seconds: most that pass between the first output of a process and its end, or the watch for a save.

    Returns:
      How often which stage was killed, and how often something was left half-written.
    """
    draw = random.Random(seed)
    account: collections.Counter = collections.Counter()
    for number in range(10 * kills):
        workdir = folder / f"run{account['finished']}"
        process = runs.start(workdir)
        wait_for_start(process)
        end = time.monotonic() + draw.uniform(0, seconds)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        if number % 2:
            kill_while_writing(process, workdir, draw)
        else:
            process.kill()
        if process.wait() == 0:
            assert_same_run(workdir, expected)
            account["finished"] += 1
            continue
        assert process.returncode == -signal.SIGKILL, process.output.read_text()
        account["killed"] += 1
        account[f"killed in {stage_of(workdir, runs.stages)}"] += 1
        account["killed while something was half-written"] += bool(leftovers(workdir))
        if account["killed"] == kills:
            break
    runs.finish(workdir)
    assert_same_run(workdir, expected)
    assert not leftovers(workdir)
    return account


def test_killed_and_interrupted_runs_end_with_the_same_bits(tmp_path):
    """Two kills, one of them while something is half-written, and a SIGTERM."""
    stages = ("pretrain", "memory", "finetune", "evaluate")
    settings = {"pretrain.stopping.epochs": 3, "finetune.stopping.epochs": 2}
    runs = Runs(tmp_path, stages, **settings, **{"finetune.control": False})
    runs.finish(tmp_path / "expected")
    workdir = tmp_path / "run"
    process = runs.start(workdir)
    kill_while_writing(process, workdir, random.Random(0))
    assert process.wait() == -signal.SIGKILL
    process = runs.start(workdir)
    while process.poll() is None and stage_of(workdir) == "pretrain":
        time.sleep(0.005)
    process.terminate()
    assert process.wait() == 4, process.output.read_text()
    assert "go on" in process.output.read_text() or "state saved" in process.output.read_text()
    process = runs.start(workdir)
    while process.poll() is None and not (workdir / "checkpoints" / "finetune").exists():
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    runs.finish(workdir)
    assert_same_run(workdir, tmp_path / "expected")


@pytest.mark.slow
def test_25_kills_over_all_stages_change_no_bit(tmp_path, capsys):
    runs = Runs(tmp_path)
    runs.finish(tmp_path / "warm")  # compiles; the next one shows how long a run takes
    began = time.monotonic()
    runs.finish(tmp_path / "expected")
    seconds = time.monotonic() - began
    assert_same_run(tmp_path / "warm", tmp_path / "expected")
    account = kill_many(runs, tmp_path, tmp_path / "expected", 25, seconds / 4, seed=25)
    with capsys.disabled():
        print("\n", dict(account), f"a run takes {seconds:.0f} s")
    assert account["killed while something was half-written"] >= 5
    assert sum(account[f"killed in {stage}"] > 0 for stage in STAGES) >= 4


_WAIT = """
import os, signal, sys, time
from raserec_jax.errors import Interrupted
from raserec_jax.training import signals
number = getattr(signal, sys.argv[1])
if sys.argv[2] == "flag":
    with signals.StopFlag() as stop:
        os.kill(os.getpid(), number)
        assert stop.is_set
        print("first", flush=True)
        os.kill(os.getpid(), number)
        time.sleep(60)
try:
    with signals.interruptible():
        os.kill(os.getpid(), number)
        time.sleep(60)
except Interrupted as interrupted:
    print(interrupted, flush=True)
with signals.interruptible():
    try:
        os.kill(os.getpid(), number)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), number)
        time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [("flag", "first"), ("leave", "stopped; what is finished was kept")],
)
def test_the_first_signal_asks_and_the_second_ends_the_process_at_once(name, kind, said):
    command = [sys.executable, "-c", _WAIT, name, kind]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == -getattr(signal, name), done.stderr
    assert said in done.stdout
