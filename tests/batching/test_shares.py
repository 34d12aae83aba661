"""Shares of batches: put together they are the batch, and nobody reads what is another's."""

import jax
import numpy as np
import pytest

from raserec_jax.batching.host_feed import host_batches
from raserec_jax.batching.shares import Share, joined, send, share_of
from raserec_jax.batching.windows import training_examples
from raserec_jax.mesh import use
from tests.batching.test_record_feed import LENGTHS, InMemory, assert_same, feeds, order_of
from tests.parallel.tasks import emulated_mesh
from tests.small_logs import random_split

MODES = ("chunked", "exact", "prefix")


class Counting(InMemory):
    """Users that keep who was read."""

    def __init__(self, log):
        super().__init__(log)
        self.read = []

    def items(self, users):
        self.read = list(users)
        return super().items(users)


@pytest.fixture(scope="module")
def split():
    return random_split(LENGTHS)


def put_together(found, rows):
    """`shares.joined` of the shares of all processes, by NumPy."""
    fields = [np.concatenate(parts, axis=1) for parts in zip(*found, strict=True)]
    first = found[0]
    whole = {name: array[:, :rows] for name, array in zip(first._fields[:3], fields, strict=False)}
    targets = fields[first._fields.index("target_ids")].sum(axis=1, dtype=np.int32)
    return first._replace(**whole, target_ids=targets)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("processes", [((0,), (1,)), ((0, 1), (2,)), ((0,), (1,), (2,), (3,))])
def test_shares_make_up_the_batches(mode, processes, split):
    users = Counting(split.log)
    feed, host = feeds(mode, split, users)
    maker, order = feed.stream.__self__.maker, order_of(host, 7)
    parts, user_ids = sum(map(len, processes)), training_examples(split).user_ids
    for first in range(0, host.steps_per_epoch, 2):
        given = order, first, min(2, host.steps_per_epoch - first), 2
        expected, of_records, of_host = host_batches(host, *given), [], []
        for own in processes:
            share = Share(parts, own)
            of_records.append(maker.batches(*given, share))
            of_host.append(host_batches(host, *given, share))
            # Whose targets stand in its rows; and whoever has row 0 knows example 0, which stands where none is.
            mine = share.has(expected.read_rows[: given[2]], host.batch_rows)
            wanted = set(user_ids[expected.example_ids[: given[2]][mine]].tolist())
            assert sorted(users.read) == sorted(wanted | ({user_ids[0]} if 0 in own else set()))
        for found in (of_records, of_host):
            assert_same(put_together(found, host.batch_rows), expected)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_sent_is_joined_on_every_device(mode, split):
    """All parts of one process on eight devices, with rows that do not divide evenly."""
    feed, host = feeds(mode, split, InMemory(split.log))
    mesh = emulated_mesh(4, 2)
    share, given = share_of(mesh), (order_of(host, 1), 0, 2, 3)
    assert share == Share(4, (0, 1, 2, 3))
    sent = send(mesh, share, feed.stream.__self__.maker.batches(*given, share))
    assert {one.data.shape[1] for one in sent.item_ids.addressable_shards} == {
        -(-host.batch_rows // 4)
    }
    with use(mesh):
        found = jax.jit(lambda batch: joined(batch, host.batch_rows))(sent)
    assert all(field.sharding.is_fully_replicated for field in found)
    assert_same(jax.tree.map(np.asarray, found), host_batches(host, *given))
