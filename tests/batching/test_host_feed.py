"""Batches made on the host: the very batches of the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.batching.feeds import Batch, epoch_order, packed_feed, prefix_feed, training_batch
from raserec_jax.batching.host_feed import host_batches
from tests.quick_jit import quick_jit
from tests.small_logs import random_split

LENGTHS = [*np.random.default_rng(4).integers(3, 12, 25), 1, 2, 31, 24]


def make(mode, split, on_host):
    common = {"max_len": 6, "targets_per_batch": 20, "row_len": 8, "seed": 0, "on_host": on_host}
    if mode == "prefix":
        return prefix_feed(split, **common)
    return packed_feed(split, long_history=mode, **common)


@pytest.mark.parametrize("mode", ["chunked", "exact", "prefix"])
def test_an_epoch_has_the_batches_of_the_device(mode, tmp_path):
    split = random_split(LENGTHS)
    feed, host = make(mode, split, False), make(mode, split, True)
    assert feed._replace(arrays=None, on_host=True) == host._replace(arrays=None)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host.arrays))
    # A log may lie in a file.
    np.save(tmp_path / "items.npy", host.arrays.item_ids)
    in_file = np.load(tmp_path / "items.npy", mmap_mode="r")
    host = host._replace(arrays=host.arrays._replace(item_ids=in_file))

    order = epoch_order(feed, jax.random.key(7))
    np.testing.assert_array_equal(epoch_order(host, jax.random.key(7)), order)
    on_device = quick_jit(lambda step: training_batch(feed, order, step))
    stacked = quick_jit(lambda batches, step: training_batch(host, batches, step))
    steps = feed.steps_per_epoch
    most = next(size for size in (4, 3, 5) if steps % size)  # the last call is a short one
    for first in range(0, steps, most):
        count = min(most, steps - first)
        batches = host_batches(host, np.asarray(order), first, count, most)
        for i in range(count):
            expected = on_device(jnp.int32(first + i))
            found = stacked(jax.device_put(batches), jnp.int32(i))
            for name, one, other in zip(Batch._fields, found, expected, strict=True):
                assert one.dtype == other.dtype and one.shape == other.shape, name
                np.testing.assert_array_equal(one, other, err_msg=name)
        assert all((field[count:] == 0).all() for field in batches)


def test_windows_without_room_get_no_weight():
    split = random_split(LENGTHS)
    feed, host = (
        make("prefix", split, on_host)._replace(batch_rows=3) for on_host in (False, True)
    )
    order = epoch_order(feed, jax.random.key(1))
    expected = quick_jit(lambda order: training_batch(feed, order, jnp.int32(0)))(order)
    found = host_batches(host, np.asarray(order), 0, 1, 1)
    assert 0 < np.sum(expected.weights) < 20
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other)
