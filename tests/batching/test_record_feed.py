"""Batches from records: the very batches of the device, in this process and from Grain's."""

import jax
import numpy as np
import pytest

from raserec_jax.batching.feeds import epoch_order, packed_feed, prefix_feed
from raserec_jax.batching.host_feed import host_batches
from raserec_jax.batching.record_feed import Calls, Orders, record_feed
from raserec_jax.data.records.content import histories_of
from raserec_jax.data.records.folder import write_records
from raserec_jax.errors import DataError
from tests.small_logs import random_split

LENGTHS = [1, *np.random.default_rng(4).integers(3, 12, 25), 1, 2, 31, 24]
COMMON = {"max_len": 6, "targets_per_batch": 20, "row_len": 8, "seed": 0}


@pytest.fixture(scope="module")
def split():
    return random_split(LENGTHS)


@pytest.fixture(scope="module")
def folder(split, tmp_path_factory):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")
    folder = tmp_path_factory.mktemp("records") / "log"
    write_records(histories_of(split.log), folder)
    return folder


def feeds(mode, split, folder, workers=0):
    chosen = {"mode": "prefix" if mode == "prefix" else "packed", "long_history": mode}
    found = record_feed(split, folder, workers=workers, **chosen, **COMMON)
    if mode == "prefix":
        return found, prefix_feed(split, on_host=True, **COMMON)
    return found, packed_feed(split, long_history=mode, on_host=True, **COMMON)


def assert_same(found, expected):
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize(
    ("mode", "workers"), [("chunked", 0), ("exact", 0), ("prefix", 0), ("chunked", 2)]
)
def test_a_run_has_the_batches_of_the_host_feed_from_any_step_on(mode, workers, split, folder):
    feed, host = feeds(mode, split, folder, workers)
    assert feed._replace(arrays=None, stream=None) == host._replace(arrays=None)
    np.testing.assert_array_equal(feed.arrays.target_ids, host.arrays.target_ids)
    steps = feed.steps_per_epoch
    most = next(size for size in (4, 3, 5) if steps % size)

    def order_of(epoch):
        return np.asarray(epoch_order(host, jax.random.key(epoch)))

    calls = Calls(steps, most, steps + most, 3 * steps)  # goes on in the second epoch of three
    spans = calls.spans()
    assert sum(count for *_, count in spans) == 2 * steps - most
    with feed.stream(calls, order_of) as batches:
        for epoch, first, count in spans:
            expected = host_batches(host, order_of(epoch), first, count, most)
            assert_same(next(batches), expected)


def test_records_of_another_log_are_refused(folder):
    with pytest.raises(DataError, match="the records of another log"):
        feeds("chunked", random_split([5] * 9), folder)


def test_orders_are_handed_over_and_old_ones_go(tmp_path):
    orders = Orders(tmp_path)
    for epoch in range(4):
        orders.give(epoch, np.arange(epoch, epoch + 5))
        np.testing.assert_array_equal(orders.take(epoch), np.arange(epoch, epoch + 5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["order-2.npy", "order-3.npy"]
