"""Feeds: an epoch is every example once, whatever the batching, and a batch is what its step says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.batching.feeds import (
    epoch_order,
    example_batch,
    packed_feed,
    prefix_feed,
    training_batch,
)
from raserec_jax.batching.windows import training_examples
from tests.quick_jit import quick_jit
from tests.small_logs import random_split

MAX_LEN = 6
LENGTHS = [*np.random.default_rng(4).integers(3, 12, 25), 1, 2, 31, 24]


@pytest.fixture(scope="module")
def split():
    return random_split(LENGTHS)


def make(split, mode, targets_per_batch=20, row_len=8):
    common = {"max_len": MAX_LEN, "targets_per_batch": targets_per_batch, "seed": 0}
    if mode == "prefix":
        return prefix_feed(split, row_len=row_len, **common)
    return packed_feed(split, long_history=mode, row_len=row_len, **common)


@pytest.fixture(scope="module", params=["chunked", "exact", "prefix"])
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def feed(split, mode):
    return make(split, mode)


@pytest.fixture(scope="module")
def batches(feed):
    """The batches of one epoch, on the host."""
    step = quick_jit(lambda order, step: training_batch(feed, order, step))
    order = epoch_order(feed, jax.random.key(7))
    found = [jax.tree.map(np.asarray, step(order, i)) for i in range(feed.steps_per_epoch)]
    assert step._cache_size() == 1
    return found


def test_an_epoch_is_every_example_once(split, feed, batches):
    seen = np.concatenate([batch.example_ids[batch.weights > 0] for batch in batches])
    assert sorted(seen) == list(range(len(training_examples(split).lengths)))
    assert {float(weight) for batch in batches for weight in batch.weights} <= {0.0, 1.0}


def test_batches_have_the_promised_shapes(feed, batches):
    for batch in batches:
        for field in batch[:3]:
            assert field.shape == (feed.batch_rows, feed.row_len) and field.dtype == np.int32
        for field in batch[3:]:
            assert field.shape == (feed.reads,)
    # Steps do what was asked for, on average.
    counts = [batch.weights.sum() for batch in batches[:-1]]
    assert 15 <= np.mean(counts) <= 25


def test_the_fullest_rows_together_do_not_exceed_the_budget(split, feed, mode):
    if mode == "prefix":
        assert feed.reads == 20
        return
    per_row = (np.asarray(feed.arrays.row_examples) >= 0).sum(axis=1)
    order = jnp.asarray(np.argsort(-per_row)[: feed.batch_rows].astype(np.int32))
    batch = quick_jit(lambda order: training_batch(feed, order, jnp.int32(0)))(order)
    assert batch.weights.sum() == per_row[order].sum() == feed.reads


def test_what_is_read_is_the_end_of_the_history(split, mode, batches):
    examples, item_ids = training_examples(split), split.log.item_ids
    for batch in batches:
        for read in np.flatnonzero(batch.weights):
            row, end, example = (
                batch.read_rows[read],
                batch.read_columns[read],
                batch.example_ids[read],
            )
            segment = batch.segment_ids[row] == batch.segment_ids[row, end]
            columns = np.flatnonzero(segment & (np.arange(len(segment)) <= end))
            kept = len(columns)
            place, length = examples.target_places[example], examples.lengths[example]
            assert batch.segment_ids[row, end] > 0
            np.testing.assert_array_equal(batch.positions[row, columns], np.arange(kept))
            history = item_ids[place - kept : place]
            np.testing.assert_array_equal(batch.item_ids[row, columns], history)
            assert batch.target_ids[read] == item_ids[place]
            if mode == "chunked":
                assert min(length, MAX_LEN // 2) <= kept <= min(length, MAX_LEN)
            else:
                assert kept == min(length, MAX_LEN)


def test_padding_is_padding(batches):
    for batch in batches:
        np.testing.assert_array_equal(batch.item_ids == 0, batch.segment_ids == 0)


def test_the_order_follows_the_key(feed):
    first, again, other = (epoch_order(feed, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()
    np.testing.assert_array_equal(np.sort(first), np.sort(other))


def test_one_batch_can_hold_everything(split, mode):
    everything = make(split, mode, targets_per_batch=10**6)
    assert everything.steps_per_epoch == 1
    assert everything.reads == len(training_examples(split).lengths)


def test_rows_default_to_a_multiple_of_32(split, mode):
    assert make(split, mode, row_len=0).row_len == 32


def test_example_batch_gives_no_weight_to_what_is_missing_or_does_not_fit(split):
    feed = make(split, "prefix")
    long = np.flatnonzero(training_examples(split).lengths >= 5)[:3]
    example_ids = jnp.array([long[0], -1, long[1], long[2]], jnp.int32)
    batch = quick_jit(lambda ids: example_batch(feed, ids, 2))(example_ids)
    # Two rows of eight hold two windows of five or six.
    assert np.asarray(batch.weights).tolist() == [1.0, 0.0, 1.0, 0.0]
