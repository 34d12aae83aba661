"""Batches from records: the very batches of the device, in this process and from Grain's."""

import jax
import numpy as np
import pytest

from raserec_jax.batching.feeds import epoch_order, packed_feed, prefix_feed
from raserec_jax.batching.host_feed import host_batches
from raserec_jax.batching.record_feed import Calls, Orders, record_feed
from raserec_jax.data.records.content import histories_of
from raserec_jax.data.records.folder import records_of, write_records
from tests.small_logs import random_split

LENGTHS = [1, *np.random.default_rng(4).integers(3, 12, 25), 1, 2, 31, 24]
COMMON = {"max_len": 6, "targets_per_batch": 20, "row_len": 8, "seed": 0}


@pytest.fixture(scope="module")
def split():
    return random_split(LENGTHS)


class InMemory:
    """The users of a log that is at hand."""

    def __init__(self, log):
        self._log = log

    def items(self, users):
        return [self._log.items_of(user) for user in users]


def feeds(mode, split, users, workers=0):
    chosen = {"mode": "prefix" if mode == "prefix" else "packed", "long_history": mode}
    found = record_feed(split, users, workers=workers, **chosen, **COMMON)
    if mode == "prefix":
        return found, prefix_feed(split, on_host=True, **COMMON)
    return found, packed_feed(split, long_history=mode, on_host=True, **COMMON)


def order_of(feed, epoch):
    return np.asarray(epoch_order(feed, jax.random.key(epoch)))


def assert_same(found, expected):
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("mode", ["chunked", "exact", "prefix"])
def test_the_batches_are_those_of_the_host_feed(mode, split):
    feed, host = feeds(mode, split, InMemory(split.log))
    assert feed._replace(arrays=None, stream=None) == host._replace(arrays=None)
    np.testing.assert_array_equal(feed.arrays.target_ids, host.arrays.target_ids)
    maker, order = feed.stream.__self__.maker, order_of(host, 7)
    steps = feed.steps_per_epoch
    for first in range(0, steps, 3):
        given = (order, first, min(3, steps - first), 3)
        assert_same(maker.batches(*given), host_batches(host, *given))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_from_any_step_with_the_same_batches(workers, split, tmp_path):
    pytest.importorskip("grain", reason="needs the extra tfds")
    write_records(histories_of(split.log), tmp_path / "log")
    feed, host = feeds("chunked", split, records_of(tmp_path / "log"), workers)
    steps = feed.steps_per_epoch
    most = next(size for size in (4, 3, 5) if steps % size)
    calls = Calls(steps, most, steps + most, 3 * steps)  # goes on in the second epoch of three
    spans = calls.spans()
    assert sum(count for *_, count in spans) == 2 * steps - most
    with feed.stream(calls, lambda epoch: order_of(host, epoch)) as batches:
        for epoch, first, count in spans:
            expected = host_batches(host, order_of(host, epoch), first, count, most)
            assert_same(next(batches), expected)


def test_orders_are_handed_over_and_old_ones_go(tmp_path):
    orders = Orders(tmp_path)
    for epoch in range(4):
        orders.give(epoch, np.arange(epoch, epoch + 5))
        np.testing.assert_array_equal(orders.take(epoch), np.arange(epoch, epoch + 5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["order-2.npy", "order-3.npy"]
