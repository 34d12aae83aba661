"""Two real processes that do nothing but save, killed in the middle of it."""

import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from raserec_jax import checkpoints
from tests.parallel.jobs import free_port
from tests.parallel.saver import SHAPES, state_of
from tests.resume.runs import ROOT, wait_for


def saved(output) -> int:
    """The last step that a process said it had saved; 0 = none."""
    lines = [line.split() for line in output.read_text().splitlines()]
    return max((int(line[1]) for line in lines if line[:1] == ["saved"]), default=0)


@pytest.mark.slow
def test_ten_kills_in_the_middle_of_saves_lose_nothing(tmp_path):
    """kill -9 of one process, or of both: what was said to be saved, or something newer, is there and whole."""
    draw, folder = random.Random(3), tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.parallel.saver"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for again in range(10):
        outputs = [tmp_path / f"{again}.{one}" for one in (0, 1)]
        port, processes = free_port(), []
        for one, output in enumerate(outputs):
            with output.open("w") as file:
                arguments = [*command, f"127.0.0.1:{port}", str(one), str(folder)]
                processes.append(
                    subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=file, stderr=file)
                )
        try:
            happened = wait_for(processes[0], lambda: saved(outputs[0]))  # noqa: B023
            assert happened, outputs[0].read_text()
            time.sleep(draw.uniform(0, 1))
            killed = draw.sample((0, 1), draw.choice((1, 1, 2)))
            for one in killed:
                processes[one].kill()
            codes = [process.wait(60) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [-9 if one in killed else 4 for one in (0, 1)]
        copy = tmp_path / "copy"  # the next two processes go on from the original
        shutil.copytree(folder, copy)
        for tree, meta in (
            checkpoints.restore_newest(copy / "steps", SHAPES),
            checkpoints.restore(copy / "best", SHAPES),
        ):
            assert meta["step"] >= max(map(saved, outputs))
            for name, array in state_of(meta["step"]).items():
                np.testing.assert_array_equal(tree[name], array)
        assert not list((copy / "steps").glob("damaged-*"))
        shutil.rmtree(copy)
