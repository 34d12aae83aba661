"""Two real processes feed their own devices: they end as one process does, and each reads its share of the records."""

import json
import os
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import optax
import pytest

from raserec_jax.data.records.content import histories_of
from raserec_jax.data.records.folder import write_records
from raserec_jax.training import loop
from tests.parallel.jobs import free_port
from tests.resume.runs import ROOT
from tests.training.test_host_feed import SPLIT, params_of, tiny_task
from tests.training.toy_fit import quick_steps, run_fit


def test_each_process_reads_its_share_and_both_train_as_one(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")
    pytest.importorskip("grain", reason="needs the extra tfds")
    write_records(histories_of(SPLIT.log), tmp_path / "log")
    command = [
        *(sys.executable, "-m", "tests.parallel.feed_member", f"--records={tmp_path / 'log'}"),
        *(f"--output={tmp_path}", f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"),
    ]
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={one}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for one in range(2)
    ]
    try:
        (task, encoder), optimizer = tiny_task(False), optax.sgd(0.3)
        steps = quick_steps(task, optimizer)
        monkeypatch.setattr(loop, "make_run_steps", lambda task, optimizer: steps)
        expected = run_fit(
            tmp_path / "device",
            epochs=2,
            task=task,
            optimizer=optimizer,
            params=params_of(encoder),
        )
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    for name in ("records-0", "records-1", "host-0", "host-1"):
        with np.load(tmp_path / f"{name}.npz") as found:
            for leaf, array in zip(jax.tree.leaves(expected.params), found.values(), strict=True):
                np.testing.assert_allclose(array, leaf, rtol=1e-4, atol=1e-5)
    read = [Counter(json.loads(words.splitlines()[-1])) for words in said]
    # A history is a row here: in each of two epochs one process reads it, and the other does not.
    users = Counter(dict.fromkeys(range(SPLIT.log.num_users), 2))
    assert read[0] + read[1] - users <= Counter({0: 2 * -(-task.steps_per_epoch // 3)})
    assert users <= read[0] + read[1]
    assert all(total.total() < 0.6 * users.total() + 8 for total in read)
