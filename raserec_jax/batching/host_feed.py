"""The batches of a feed whose arrays stay on the host: the same as those made on the device, for logs that do not fit.

A call's batches are gathered with NumPy, stacked, and sent ahead by `prefetch.Prefetch`. They are functions of the
epoch's order and the step, as on the device, so a resumed run sees the same.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from raserec_jax.batching.feeds import Batch, TrainingFeed
from raserec_jax.batching.shares import Share


class Places(NamedTuple):
    """A batch before its items are looked up; the fields that it has in common with `Batch` are as there.

    token_places: [rows, seq] int32 where in `FeedArrays.item_ids` each item is, -1 = none.
    """

    token_places: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    read_rows: np.ndarray
    read_columns: np.ndarray
    example_ids: np.ndarray
    weights: np.ndarray


def host_batches(
    feed: TrainingFeed,
    order: np.ndarray,
    first: int,
    count: int,
    most: int,
    share: Share | None = None,
) -> Batch:
    """The batches of steps first..first + count - 1 of an epoch, stacked: NumPy arrays [most, ...], 0 after the last.

    Args:
      feed: made with `on_host`.
      order: `feeds.epoch_order`, on the host.
      share: that of this process, as `shares.send` takes it; None: all of each batch.
    """
    find = prefix_places if feed.arrays.rows is None else packed_places
    steps = at_steps(order, feed.per_step, first, count)
    return stacked((filled(feed, find(feed, at), share) for at in steps), most)


def at_steps(order: np.ndarray, per_step: int, first: int, count: int) -> Iterator[np.ndarray]:
    """What of the order each of the steps first..first + count - 1 takes: [per_step]."""
    for step in range(first, first + count):
        yield order[step * per_step : (step + 1) * per_step]


def stacked(batches: Iterable[Batch], most: int) -> Batch:
    """Batches, at least one and at most `most`, as one of [most, ...] arrays; 0 after the last."""
    found = None
    for i, batch in enumerate(batches):
        if found is None:
            found = Batch(*(np.zeros((most, *field.shape), field.dtype) for field in batch))
        for whole, field in zip(found, batch, strict=True):
            whole[i] = field
    assert found is not None, "a call has at least one step"
    return found


def packed_places(feed: TrainingFeed, row: np.ndarray) -> Places:
    """Of `feeds._packed_batch`: rows of the order, -1 = none."""
    arrays = feed.arrays
    real, row = (row >= 0)[:, None], np.maximum(row, 0)
    examples = np.where(real, arrays.row_examples[row], -1).reshape(-1)
    read = np.flatnonzero(examples >= 0)
    flat = np.zeros(feed.reads, np.int32)
    flat[: len(read)] = read
    return Places(
        np.where(real, arrays.rows.token_places[row], -1),
        np.where(real, arrays.rows.segment_ids[row], 0),
        arrays.rows.positions[row],
        flat // feed.row_len,
        flat % feed.row_len,
        np.maximum(examples[flat], 0),
        np.arange(feed.reads) < len(read),
    )


def prefix_places(feed: TrainingFeed, example_ids: np.ndarray) -> Places:
    """Of `feeds.example_batch`: examples of the order, -1 = none; the packing is that of `packing.pack_on_device`."""
    real, example_ids = example_ids >= 0, np.maximum(example_ids, 0)
    starts = feed.arrays.starts[example_ids]
    lengths = np.where(real, feed.arrays.lengths[example_ids], 0)
    shape = (feed.batch_rows, feed.row_len)
    places = np.full(shape, -1, np.int32)
    segment_ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    room = np.full(feed.batch_rows, feed.row_len)
    read = np.zeros((2, len(starts)), np.int32)
    fits = np.zeros(len(starts), bool)
    for window in np.argsort(-lengths, kind="stable"):
        length = lengths[window]
        row = int(np.argmin(np.where(room >= length, room, feed.row_len + 1)))
        if room[row] < length:
            continue
        column = feed.row_len - room[row]
        room[row] -= length
        taken = (row, slice(column, column + length))
        positions[taken] = np.arange(length)
        places[taken] = starts[window] + positions[taken]
        segment_ids[taken] = column + 1
        read[:, window] = row, max(column + length - 1, 0)
        fits[window] = True
    return Places(places, segment_ids, positions, *read, example_ids, real & fits)


def filled(feed: TrainingFeed, found: Places, share: Share | None = None) -> Batch:
    """The batch with its items and targets, or a share of it."""
    places, segment_ids, positions = found.token_places, found.segment_ids, found.positions
    target_ids = feed.arrays.target_ids[found.example_ids].astype(np.int32)
    if share is not None:
        target_ids = share.of_reads(target_ids, found.read_rows, len(places))
        places = share.of_rows(places, fill=-1)
        segment_ids, positions = share.of_rows(segment_ids), share.of_rows(positions)
    items = feed.arrays.item_ids[np.maximum(places, 0)]
    return Batch(
        np.where(places >= 0, items, 0).astype(np.int32),
        segment_ids.astype(np.int32),
        positions.astype(np.int32),
        found.read_rows.astype(np.int32),
        found.read_columns.astype(np.int32),
        found.example_ids.astype(np.int32),
        target_ids,
        found.weights.astype(np.float32),
    )
