"""What precedes a target: first meetings by definition, and long batches in chunks with the same loss."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.batching.feeds import Batch
from raserec_jax.losses import Negatives, next_item_loss, sampled_loss
from raserec_jax.training import past_items
from tests.quick_jit import quick_jit

ROWS, SEQ, READS, ITEMS, DIM = 3, 30, 50, 12, 4


def long_batch(seed=0):
    draw = np.random.default_rng(seed)
    segment_ids = np.sort(draw.integers(1, 5, (ROWS, SEQ)), axis=1)
    segment_ids[1, 20:] = 0
    item_ids = np.where(segment_ids > 0, draw.integers(1, ITEMS + 1, (ROWS, SEQ)), 0)
    rows, columns = draw.integers(0, ROWS, READS), draw.integers(0, 20, READS)
    targets = draw.integers(1, ITEMS + 1, READS)
    weights = (draw.random(READS) < 0.9).astype(np.float32)
    fields = (item_ids, segment_ids, segment_ids, rows, columns, rows, targets)
    return Batch(*(jnp.asarray(field, jnp.int32) for field in fields), jnp.asarray(weights))


def test_first_meetings():
    batch = long_batch()
    expected = np.zeros((ROWS, SEQ), bool)
    for row in range(ROWS):
        seen = set()
        for column in range(SEQ):
            pair = int(batch.segment_ids[row, column]), int(batch.item_ids[row, column])
            expected[row, column] = pair not in seen
            seen.add(pair)
    found = past_items.first_meetings(batch.item_ids, batch.segment_ids)
    np.testing.assert_array_equal(found, expected)
    assert 0.2 < expected.mean() < 0.8


def test_long_batches_go_in_chunks(monkeypatch):
    batch = long_batch()
    draw = np.random.default_rng(1)
    query = jnp.asarray(draw.normal(size=(READS, DIM)), jnp.float32)
    params = {"item_table": jnp.asarray(draw.normal(size=(ITEMS + 1, DIM)), jnp.float32)}
    params["repeat_bias"] = jnp.float32(0.07)

    def loss(query, params):
        past = past_items.batch_past(query, params, batch)
        entries.append(past.margins.shape[1])
        table = params["item_table"]
        return next_item_loss(query, table, batch.target_ids, batch.weights, past=past)

    entries: list[int] = []
    gradients = jax.value_and_grad(loss, argnums=(0, 1))
    expected = quick_jit(gradients)(query, params)
    monkeypatch.setattr(past_items, "MOST_ENTRIES", 7 * ROWS * SEQ)
    found = quick_jit(lambda *args: gradients(*args))(query, params)
    assert entries == [ROWS * SEQ, 1]
    assert np.abs(expected[1][1]["repeat_bias"]) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


def test_over_all_items_a_sampled_softmax_with_past_items_is_the_full_one(monkeypatch):
    """Past items that score far above the rest, as those of a user do, and targets among them; whole and in chunks."""
    batch = long_batch()
    draw = np.random.default_rng(1)
    query = jnp.asarray(3 * draw.normal(size=(READS, DIM)), jnp.float32)
    params = {"item_table": jnp.asarray(draw.normal(size=(ITEMS + 1, DIM)), jnp.float32)}
    params["repeat_bias"] = jnp.float32(-0.2)
    everything = jnp.asarray(draw.permutation(ITEMS) + 1)
    negatives = Negatives(everything, jnp.full(ITEMS, -math.log(ITEMS)))

    def full(query, params):
        past = past_items.batch_past(query, params, batch)
        table = params["item_table"]
        return next_item_loss(query, table, batch.target_ids, batch.weights, past=past)

    def sampled(query, params):
        past = past_items.batch_past(query, params, batch, negative_ids=everything)
        table = params["item_table"]
        return sampled_loss(query, table, batch.target_ids, negatives, batch.weights, past=past)

    expected = quick_jit(jax.value_and_grad(full, argnums=(0, 1)))(query, params)
    for most in (past_items.MOST_ENTRIES, 7 * ROWS * SEQ):
        monkeypatch.setattr(past_items, "MOST_ENTRIES", most)
        gradients = jax.value_and_grad(lambda *args: sampled(*args), argnums=(0, 1))
        found = quick_jit(gradients)(query, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), found, expected
        )


def test_which_negatives_are_past_items():
    batch = long_batch()
    query, params = jnp.ones((READS, DIM)), {"item_table": jnp.ones((ITEMS + 1, DIM))}
    params["repeat_bias"] = jnp.float32(0.0)
    ids = np.array([5, 3, 5, 12, 1, 5, 99], np.int32)
    found = past_items.batch_past(query, params, batch, negative_ids=jnp.asarray(ids)).drawn
    items, segments = np.asarray(batch.item_ids), np.asarray(batch.segment_ids)
    for read in range(READS):
        row, column = int(batch.read_rows[read]), int(batch.read_columns[read])
        own = items[row, : column + 1][segments[row, : column + 1] == segments[row, column]]
        np.testing.assert_array_equal(found[read], np.isin(ids, own))
    assert 0.2 < float(found.mean()) < 0.8
