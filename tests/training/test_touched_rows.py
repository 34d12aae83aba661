"""Sparse steps: on the touched rows the same as dense ones, elsewhere nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from raserec_jax.batching.feeds import packed_feed
from raserec_jax.errors import ConfigError
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.training.objectives import pretrain_task
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.state import create_state
from raserec_jax.training.steps import make_run_steps
from raserec_jax.training.touched_rows import (
    BEYOND,
    TABLE,
    apply_row_updates,
    gather_rows,
    places_of,
    scale_by_lazy_adam,
    touched_rows,
)
from tests.quick_jit import quick_jit
from tests.small_logs import random_split

LOSS = {
    "next_item": "sampled",
    "num_negatives": 7,
    "include_padding_class": False,
    "chunk_items": 0,
}
RATE = {
    "learning_rate": 0.01,
    "schedule": "constant",
    "warmup_steps": 0,
    "total_steps": 10,
    "clip_norm": 0.0,
    "b1": 0.9,
    "b2": 0.99,
}


def case(num_items=0, **loss):
    split = random_split([9] * 12, num_items=60)
    encoder = SequenceEncoder(
        num_items or split.log.num_items, 8, dim=8, num_layers=1, inner_dim=8, repeat_bias=True
    )
    feed = packed_feed(
        split, max_len=8, long_history="chunked", targets_per_batch=18, row_len=16, seed=0
    )
    params = quick_jit(encoder.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    return pretrain_task(encoder, feed, **LOSS | loss), params


def test_rows_and_places():
    rows = touched_rows(jnp.array([[5, 2], [9, 5]]), jnp.array([2]), num_items=11)
    np.testing.assert_array_equal(rows, [0, 2, 5, 9, BEYOND, BEYOND])
    np.testing.assert_array_equal(places_of(rows, jnp.array([[5, 0], [9, 2]])), [[2, 0], [3, 1]])
    table = jnp.arange(12.0)[:, None]
    np.testing.assert_array_equal(gather_rows(table, rows)[:, 0], [0, 2, 5, 9, 0, 0])
    updates = {TABLE: jnp.ones((6, 1))}
    found = apply_row_updates({TABLE: table}, updates, rows)[TABLE][:, 0]
    np.testing.assert_array_equal(found, np.arange(12) + np.isin(np.arange(12), [0, 2, 5, 9]))


@pytest.mark.parametrize(
    "loss",
    [{}, {"negatives": "popularity"}, {"negatives": "in_batch"}, {"num_items": 900}],
    ids=["uniform", "popularity", "in_batch", "large_catalogue"],
)
def test_loss_and_gradients_are_those_of_the_whole_table(loss):
    task, params = case(item_updates="touched", **loss)
    key = jax.random.key(3)
    at = (task.constants, task.order(task.constants, key), jnp.int32(1), key)
    rows = task.touched(*at)
    assert 5 < int((rows < len(params[TABLE])).sum()) < len(params[TABLE])
    value = quick_jit(jax.value_and_grad(task.loss, has_aux=True))
    (expected, _), dense = value(params, *at)
    small = params | {TABLE: gather_rows(params[TABLE], rows)}
    (found, _), grads = value(small, *at, rows=rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    whole = jnp.zeros_like(params[TABLE]).at[rows].set(grads[TABLE], mode="drop")
    np.testing.assert_allclose(whole, dense[TABLE], rtol=1e-5, atol=1e-7)
    for name in set(dense) - {TABLE}:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
            grads[name],
            dense[name],
        )


@pytest.mark.parametrize("weight_decay", [0.1, pytest.param(0.0, marks=pytest.mark.slow)])
def test_steps_move_touched_rows_as_adam_would(weight_decay):
    """Row by row: Adam that is told of a row only in the steps that touch it."""
    task, params = case(item_updates="touched")
    optimizer = make_optimizer(**RATE, weight_decay=weight_decay, lazy=True)
    key, steps = jax.random.key(5), 3
    order = task.order(task.constants, key)
    state = create_state(params, optimizer)
    run = make_run_steps(task, optimizer)
    found, losses, _ = run(state, task.constants, order, 0, steps, key, most=4)
    assert np.isfinite(np.asarray(losses[:steps])).all()

    value = quick_jit(jax.value_and_grad(task.loss, has_aux=True))
    table = np.asarray(params[TABLE], np.float64)
    mu, nu = np.zeros_like(table), np.zeros_like(table)
    rest = {name: leaf for name, leaf in params.items() if name != TABLE}
    others = make_optimizer(**RATE, weight_decay=weight_decay)
    other_state, ever = others.init(rest), set()
    for step in range(steps):
        at = (task.constants, order, jnp.int32(step), jax.random.fold_in(key, step))
        rows = np.asarray(task.touched(*at))
        rows = rows[rows < len(table)]
        ever |= set(rows.tolist())
        (_, _), grads = value(rest | {TABLE: jnp.asarray(table, jnp.float32)}, *at)
        grad = np.asarray(grads[TABLE], np.float64)[rows]
        mu[rows] = 0.9 * mu[rows] + 0.1 * grad
        nu[rows] = 0.99 * nu[rows] + 0.01 * grad**2
        first, second = 1 - 0.9 ** (step + 1), 1 - 0.99 ** (step + 1)
        change = (mu[rows] / first) / (np.sqrt(nu[rows] / second) + 1e-8)
        table[rows] -= 0.01 * (change + weight_decay * table[rows])
        of_rest = {name: leaf for name, leaf in grads.items() if name != TABLE}
        updates, other_state = others.update(of_rest, other_state, rest)
        rest = optax.apply_updates(rest, updates)
    # Where a gradient is all but zero, the sign of Adam's first steps is a matter of rounding.
    sure = nu > 1e-14
    np.testing.assert_allclose(np.asarray(found.params[TABLE])[sure], table[sure], atol=2e-4)
    untouched = sorted(set(range(len(table))) - ever)
    assert untouched
    np.testing.assert_array_equal(
        np.asarray(found.params[TABLE])[untouched], np.asarray(params[TABLE])[untouched]
    )


def test_clipping_sees_the_same_norm():
    grads = {TABLE: jnp.array([[3.0], [4.0]]), "w": jnp.array([12.0])}
    optimizer = optax.chain(optax.clip_by_global_norm(6.5), scale_by_lazy_adam())
    params = {TABLE: jnp.zeros((9, 1)), "w": jnp.zeros(1)}
    state = optimizer.init(params)
    _, state = optimizer.update(grads, state, params, rows=jnp.array([1, 4]))
    np.testing.assert_allclose(
        state[1].mu[TABLE][:, 0], 0.05 * np.array([0, 3, 0, 0, 4, 0, 0, 0, 0]), rtol=1e-5
    )
    np.testing.assert_allclose(state[1].mu["w"], [0.6], rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"next_item": "full"}, "item_updates=touched needs a sampled loss"),
        ({"item_updates": "some"}, "loss.item_updates='some' is unknown; use one of all, touched"),
        ({"negatives": "hard"}, "loss.negatives='hard' is unknown; use one of uniform"),
        ({"next_item": "gbce"}, "encoder.repeat_bias is learned by a softmax"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(loss, message):
    with pytest.raises(ConfigError, match=message):
        case(**{"item_updates": "touched"} | loss)


def test_skipping_of_steps_needs_dense_updates():
    with pytest.raises(ConfigError, match="item_updates=touched it must be 0"):
        make_optimizer(**RATE, weight_decay=0.0, lazy=True, skip_nonfinite=3)
