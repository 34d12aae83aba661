"""kill -9 at any instant, and SIGTERM: the run goes on, and ends with the same bits as one that nobody disturbed."""

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
    is_at,
    leftovers,
    stage_of,
    wait_for,
)


def kill_while_writing(process, workdir, draw) -> None:
    """kill -9 within 30 ms of the moment at which something is seen half-written."""
    while process.poll() is None and not leftovers(workdir):
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.03))
    process.kill()


def timed_run(runs: Runs, workdir) -> dict[str, float]:
    """Trains to the end; seconds that each stage took, as one sees them from outside."""
    process, began = runs.start(workdir), {}
    for stage in STAGES:
        assert wait_for(process, lambda: is_at(process, workdir, stage)), process.output.read_text()  # noqa: B023
        began[stage] = time.monotonic()
    assert process.wait() == 0, process.output.read_text()
    ends = [*list(began.values())[1:], time.monotonic()]
    return {stage: end - began[stage] for stage, end in zip(STAGES, ends, strict=True)}


def kill_in(process, workdir, stage: str, seconds: float, draw, while_writing: bool) -> None:
    """kill -9 at a random instant of a stage, which takes about `seconds`; or at the first save from there on."""
    wait_for(process, lambda: is_at(process, workdir, stage))
    end = time.monotonic() + draw.uniform(0, seconds)
    wait_for(process, lambda: time.monotonic() > end)
    if while_writing:
        kill_while_writing(process, workdir, draw)
    else:
        process.kill()


def kill_many(runs: Runs, folder, expected, kills: int, seconds: dict, seed: int) -> dict:
    """Kills `kills` times, each stage as often as the others, every other time during a save; each run that gets to
    its end is compared.

    Args:
      seconds: about how long each stage takes; the instants are drawn from that.

    Returns:
      How often each stage was killed, how often something was left half-written, and how many runs were compared.
    """
    draw = random.Random(seed)
    killed = dict.fromkeys(STAGES, 0)
    half_written = finished = 0
    for _ in range(10 * kills):
        workdir = folder / f"run{finished}"
        process = runs.start(workdir)
        # The stage that was killed least, if this run has not left it behind; else to the end.
        wanted = min(STAGES[STAGES.index(stage_of(workdir)) :], key=killed.get)
        if sum(killed.values()) < kills and killed[wanted] == min(killed.values()):
            writing = bool(sum(killed.values()) % 2)
            kill_in(process, workdir, wanted, seconds[wanted], draw, writing)
        if process.wait() == 0:
            assert_same_run(workdir, expected)
            assert not leftovers(workdir)
            finished += 1
            if sum(killed.values()) == kills:
                break
            continue
        assert process.returncode == -signal.SIGKILL, process.output.read_text()
        killed[stage_of(workdir)] += 1
        half_written += bool(leftovers(workdir))
    return {"killed": killed, "half-written": half_written, "runs compared": finished}


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
    wait_for(process, lambda: stage_of(workdir) != "pretrain")
    process.terminate()
    assert process.wait() == 4, process.output.read_text()
    assert "go on" in process.output.read_text() or "state saved" in process.output.read_text()
    process = runs.start(workdir)
    wait_for(process, (workdir / "checkpoints" / "finetune").exists)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    runs.finish(workdir)
    assert_same_run(workdir, tmp_path / "expected")


@pytest.mark.slow
def test_25_kills_over_all_stages_change_no_bit(tmp_path, capsys):
    runs = Runs(tmp_path)
    runs.finish(tmp_path / "warm")  # compiles; the next one shows how long a run takes
    seconds = timed_run(runs, tmp_path / "expected")
    assert_same_run(tmp_path / "warm", tmp_path / "expected")
    account = kill_many(runs, tmp_path, tmp_path / "expected", 25, seconds, seed=25)
    with capsys.disabled():
        told = {stage: round(took, 1) for stage, took in seconds.items()}
        print("\n", account, f"seconds of an uninterrupted run: {told}")
    assert sum(account["killed"].values()) == 25
    assert min(account["killed"].values()) >= 1
    assert account["half-written"] >= 5


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
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 128 + getattr(signal, name), done.stderr
    assert said in done.stdout
    assert done.stderr == (
        "ended at once; run the same command again to go on from what was saved\n"
    )


# One call of many minutes, as a compilation may be one of many seconds: no handler of Python's runs meanwhile.
_BUSY = """
import hashlib
from raserec_jax.training import signals
with signals.interruptible(), signals.StopFlag():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"word", b"salt", 2**31 - 1)
"""


def test_the_second_signal_ends_a_process_that_is_inside_a_long_call():
    command = [sys.executable, "-c", _BUSY]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert said.startswith("ended at once")
