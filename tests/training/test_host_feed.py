"""Training from the host: the bits of training from the device, also after a stop; errors arrive; no thread stays."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from raserec_jax.batching.feeds import packed_feed
from raserec_jax.batching.sampling import same_target_index
from raserec_jax.batching.windows import training_examples
from raserec_jax.errors import ConfigError, Interrupted
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.training import loop
from raserec_jax.training.contrast import ContrastSettings, same_target_term
from raserec_jax.training.objectives import pretrain_task
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.state import create_state
from tests.small_logs import random_split
from tests.training.toy_fit import Bar, quick_steps, run_fit

FULL = {"next_item": "full", "num_negatives": 0, "include_padding_class": False, "chunk_items": 8}
TOUCHED = FULL | {
    "next_item": "sampled",
    "num_negatives": 6,
    "negatives": "popularity",
    "item_updates": "touched",
}
SPLIT = random_split([9] * 20, num_items=15)


def tiny_task(on_host, loss=FULL, terms=()):
    encoder = SequenceEncoder(
        SPLIT.log.num_items, 8, dim=8, num_layers=1, inner_dim=8, repeat_bias=True
    )
    feed = packed_feed(
        SPLIT,
        max_len=8,
        long_history="chunked",
        targets_per_batch=12,
        row_len=8,
        seed=0,
        on_host=on_host,
    )
    return pretrain_task(encoder, feed, terms, **loss), encoder


def params_of(encoder):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), s.dtype), shapes)


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def assert_same_bits(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def lazy_adam():
    return make_optimizer(
        learning_rate=0.03,
        schedule="constant",
        warmup_steps=0,
        total_steps=20,
        weight_decay=0.0,
        clip_norm=0.0,
        b1=0.9,
        b2=0.99,
        lazy=True,
    )


def test_the_host_trains_as_the_device_does(tmp_path, monkeypatch):
    """Bit for bit, over epochs, and across a stop in the middle of one; with one compilation."""
    results, optimizer, make_run_steps = {}, optax.adam(0.03), loop.make_run_steps
    for place in ("device", "host"):
        task, encoder = tiny_task(place == "host")
        assert task.steps_per_epoch % 3  # the last call of an epoch is a short one
        assert (task.host_batches is None) == (place == "device")
        # As in earnest: with `quick_jit` the rounding of a step depends on the program around it.
        steps = make_run_steps(task, optimizer)
        monkeypatch.setattr(loop, "make_run_steps", lambda task, optimizer, steps=steps: steps)
        common = {"task": task, "optimizer": optimizer, "params": params_of(encoder)}
        bar = Bar()
        result = run_fit(tmp_path / place, epochs=2, bar=bar, **common)
        assert steps._cache_size() == 1
        assert result.facts["fill"] > 0.5
        results[place] = result.params, bar.updates
    assert_same_bits(results["host"], results["device"])
    assert len(results["host"][1]) == 2 * -(-task.steps_per_epoch // 3)

    def interrupt(done):
        assert feed_threads()
        if done > task.steps_per_epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    parts = tmp_path / "parts"
    with pytest.raises(Interrupted, match="stopped at step"):
        run_fit(parts, epochs=2, bar=Bar(interrupt), **common)
    assert not feed_threads()
    resumed = run_fit(parts, epochs=2, **common)
    assert_same_bits(resumed.params, results["device"][0])
    assert steps._cache_size() == 1
    assert not feed_threads()


def test_sparse_steps_with_popular_negatives_too():
    losses = []
    for on_host in (False, True):
        task, encoder = tiny_task(on_host, TOUCHED)
        optimizer = lazy_adam()
        key = jax.random.key(2)
        order = task.order(task.constants, key)
        given = task.host_batches(np.asarray(order), 3, 4, 4) if on_host else order
        state = create_state(params_of(encoder), optimizer)
        run = quick_steps(task, optimizer)
        losses.append(run(state, task.constants, given, 3, 4, key, most=4)[1])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert len(set(losses[0].tolist())) == 4


def test_what_fails_in_the_thread_ends_the_run(tmp_path, monkeypatch):
    task, encoder = tiny_task(True)
    steps = quick_steps(task, optax.adam(0.03))
    monkeypatch.setattr(loop, "make_run_steps", lambda task, optimizer: steps)

    def failing(order, first, count, most, share):
        if first >= 6:
            raise OSError("the log's file is gone")
        return task.host_batches(order, first, count, most)

    bar = Bar()
    with pytest.raises(OSError, match="the log's file is gone"):
        run_fit(
            tmp_path,
            epochs=2,
            bar=bar,
            task=task._replace(host_batches=failing),
            optimizer=optax.adam(0.03),
            params=params_of(encoder),
        )
    assert len(bar.updates) == 2  # what came before was trained on
    assert not feed_threads()


def test_nothing_that_grows_with_the_log_is_on_the_device():
    task, _ = tiny_task(True, FULL)
    assert not jax.tree.leaves(task.constants)
    task, _ = tiny_task(True, TOUCHED | {"negatives": "uniform"})
    assert {leaf.shape for leaf in jax.tree.leaves(task.constants)} == {(1,), (16,)}


def test_contrastive_terms_are_refused():
    examples = training_examples(SPLIT)
    settings = ContrastSettings("un", "dot", 1.0, 0.1, 0.1, 0, False)
    term = same_target_term(settings, same_target_index(examples), examples.user_ids, 4)
    with pytest.raises(
        ConfigError, match="batching.feed=host and grain do not go with contrastive"
    ):
        tiny_task(True, terms=[term])
