"""Training from records through Grain: the bits of training from the device, also after a stop; no process stays."""

import multiprocessing
import os
import signal

import optax
import pytest

from raserec_jax.batching.record_feed import record_feed
from raserec_jax.data.records.content import histories_of
from raserec_jax.data.records.folder import records_of, write_records
from raserec_jax.errors import Interrupted
from raserec_jax.training import loop
from raserec_jax.training.objectives import pretrain_task
from tests.training.test_host_feed import (
    FULL,
    SPLIT,
    assert_same_bits,
    feed_threads,
    params_of,
    tiny_task,
)
from tests.training.toy_fit import Bar, run_fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")
    folder = tmp_path_factory.mktemp("records") / "log"
    write_records(histories_of(SPLIT.log), folder)
    return folder


def test_records_train_as_the_device_does(tmp_path, monkeypatch, folder):
    task, encoder = tiny_task(False)
    optimizer, make_run_steps = optax.adam(0.03), loop.make_run_steps
    expected = run_fit(
        tmp_path / "device", epochs=2, task=task, optimizer=optimizer, params=params_of(encoder)
    )
    feed = record_feed(
        SPLIT,
        records_of(folder),
        mode="packed",
        long_history="chunked",
        max_len=8,
        targets_per_batch=12,
        row_len=8,
        seed=0,
        workers=1,
    )
    task = pretrain_task(encoder, feed, (), **FULL)
    steps = make_run_steps(task, optimizer)
    monkeypatch.setattr(loop, "make_run_steps", lambda task, optimizer: steps)
    common = {"task": task, "optimizer": optimizer, "params": params_of(encoder)}

    def interrupt(done):
        assert multiprocessing.active_children()
        if done > task.steps_per_epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped at step"):
        run_fit(tmp_path / "records", epochs=2, bar=Bar(interrupt), **common)
    assert not multiprocessing.active_children() and not feed_threads()
    resumed = run_fit(tmp_path / "records", epochs=2, **common)
    assert_same_bits(resumed.params, expected.params)
    assert steps._cache_size() == 1
    assert not multiprocessing.active_children()
