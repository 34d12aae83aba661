"""Feeds: (epoch order, step) -> batch, inside jit, from arrays that stay on the device (or on the host: `host_feed`).

A feed is a pure function of its arrays, the order of the epoch and the step, so a resumed run sees the batches of
an uninterrupted one. `packed` shuffles rows that were packed once; `prefix` draws one window per training target
and packs each batch where it is drawn. Over the same examples both give the same losses.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from raserec_jax.batching.packing import (
    PackedRows,
    default_row_len,
    gather_items,
    pack_on_device,
    pack_on_host,
    rows_needed,
)
from raserec_jax.batching.windows import (
    Examples,
    prefix_windows,
    training_examples,
    user_windows,
)
from raserec_jax.data.splits import Split
from raserec_jax.mesh import spread


class Batch(NamedTuple):
    """Rows for one encoder pass and what is predicted at which place of them.

    item_ids, segment_ids, positions: [rows, seq] int32, as the encoder takes them.
    read_rows, read_columns: [reads] int32, the places with a target.
    example_ids: [reads] int32, which training example each is.
    target_ids: [reads] int32, the next items.
    weights: [reads] float32, 0 = no example there.
    """

    item_ids: Array
    segment_ids: Array
    positions: Array
    read_rows: Array
    read_columns: Array
    example_ids: Array
    target_ids: Array
    weights: Array

    def spread_reads(self) -> "Batch":
        """With the reads over the devices of the mesh in force, and reads of weight 0 until they divide evenly."""
        names = ("read_rows", "read_columns", "example_ids", "target_ids", "weights")
        return self._replace(**{name: spread(getattr(self, name)) for name in names})


class FeedArrays(NamedTuple):
    """What the batches of either feed are gathered from; it lives on the device, or, NumPy arrays, on the host.

    item_ids: [interactions] all histories, one after the other.
    starts, lengths: [examples] the window of each training example.
    target_ids: [examples] its next item.
    rows: PackedRows of the `packed` feed (reads unused), else None.
    row_examples: [rows, seq] example whose target follows the place, -1 = none; None for `prefix`.
    """

    item_ids: Array
    starts: Array
    lengths: Array
    target_ids: Array
    rows: PackedRows | None
    row_examples: Array | None


class TrainingFeed(NamedTuple):
    """Arrays and static sizes of a feed.

    arrays: FeedArrays.
    steps_per_epoch: batches that cover everything once; the last may be short (weights 0).
    batch_rows: packed rows per batch.
    reads: static budget of targets per batch; never exceeded.
    row_len: places per row.
    fill: share of the places of its rows that hold items.
    on_host: the arrays are NumPy's, and `host_feed.host_batches` makes the batches.
    shuffled: what the order of an epoch is of: rows (packed) or examples (prefix).
    per_step: how many of these a batch takes.
    stream: makes the batches of a run from records (`record_feed.RecordBatches`), if they come from there; the arrays
      are then None but for target_ids.
    """

    arrays: FeedArrays
    steps_per_epoch: int
    batch_rows: int
    reads: int
    row_len: int
    fill: float = 1.0
    on_host: bool = False
    shuffled: int = 0
    per_step: int = 0
    stream: Callable | None = None


def packed_feed(
    split: Split,
    *,
    max_len: int,
    long_history: str,
    targets_per_batch: int,
    row_len: int,
    seed: int,
    on_host: bool = False,
) -> TrainingFeed:
    """Whole histories, packed once; a batch is as many rows as hold about `targets_per_batch` targets."""
    examples = training_examples(split)
    row_len = row_len or default_row_len(max_len)
    windows = user_windows(split, max_len, long_history)
    rows = pack_on_host(windows, row_len, np.random.default_rng([seed, 1]))
    example_of_place = np.full(split.log.num_interactions + 1, -1, np.int32)
    example_of_place[examples.target_places] = np.arange(len(examples.lengths))
    row_examples = np.full(rows.token_places.shape, -1, np.int32)
    at = (rows.read_rows, rows.read_columns)
    row_examples[at] = example_of_place[rows.token_places[at] + 1]
    per_row = (row_examples >= 0).sum(axis=1)
    steps, batch_rows, reads = packed_sizes(per_row, targets_per_batch)
    arrays = _arrays(split, examples, max_len, rows, row_examples, on_host)
    fill = float((rows.segment_ids > 0).mean())
    return TrainingFeed(
        arrays, steps, batch_rows, reads, row_len, fill, on_host, len(per_row), batch_rows
    )


def packed_sizes(per_row: np.ndarray, targets_per_batch: int) -> tuple[int, int, int]:
    """Steps per epoch, rows per batch and the most targets of a batch, from the number of targets of each row."""
    per_row = np.sort(per_row)[::-1]
    batch_rows = int(np.clip(round(targets_per_batch / max(per_row.mean(), 1)), 1, len(per_row)))
    return -(-len(per_row) // batch_rows), batch_rows, int(per_row[:batch_rows].sum())


def prefix_feed(
    split: Split,
    *,
    max_len: int,
    targets_per_batch: int,
    row_len: int,
    seed: int,
    on_host: bool = False,
) -> TrainingFeed:
    """One window per training target, as published."""
    examples = training_examples(split)
    row_len = row_len or default_row_len(max_len)
    count = min(targets_per_batch, len(examples.lengths))
    lengths = np.minimum(examples.lengths, max_len)
    batch_rows = rows_needed(lengths, count, row_len, seed)
    arrays = _arrays(split, examples, max_len, None, None, on_host)
    steps, fill = -(-len(lengths) // count), float(lengths.mean() * count / batch_rows / row_len)
    return TrainingFeed(
        arrays, steps, batch_rows, count, row_len, fill, on_host, len(lengths), count
    )


def _arrays(
    split: Split, examples: Examples, max_len: int, rows, row_examples, on_host: bool
) -> FeedArrays:
    windows = prefix_windows(examples, max_len)
    arrays = FeedArrays(
        split.log.item_ids, windows.starts, windows.lengths, examples.target_ids, rows, row_examples
    )
    return jax.tree.map(np.asarray if on_host else jnp.asarray, arrays)


def epoch_order(feed: TrainingFeed, key: Array) -> Array:
    """Order of the epoch: a permutation of rows (packed) or examples (prefix), -1 after the end; int32."""
    order = jax.random.permutation(key, jnp.arange(feed.shuffled, dtype=jnp.int32))
    missing = feed.steps_per_epoch * feed.per_step - feed.shuffled
    return jnp.pad(order, (0, missing), constant_values=-1)


def training_batch(feed: TrainingFeed, order: Array | Batch, step_in_epoch: Array) -> Batch:
    """The batch of a step, inside jit.

    Args:
      order: of the epoch; or batches that are stacked, and then the step counts in these.
    """
    if isinstance(order, Batch):
        return jax.tree.map(
            lambda field: jax.lax.dynamic_index_in_dim(field, step_in_epoch, keepdims=False), order
        )
    if feed.arrays.rows is not None:
        return _packed_batch(feed, order, step_in_epoch)
    return _prefix_batch(feed, order, step_in_epoch)


def stacked_batches(
    feed: TrainingFeed, order: Array, first: Array, count: Array, most: int
) -> Batch:
    """The batches of steps first..first + count - 1, [most, ...] each, 0 after the last; inside jit.

    Steps that take their batch from here are compiled to the same program, and so to the same bits, as steps that take
    it from `host_feed.host_batches`.
    """
    shapes = jax.eval_shape(lambda: training_batch(feed, order, first))

    def one(i, batches):
        batch = training_batch(feed, order, first + i)
        return jax.tree.map(
            lambda stacked, field: jax.lax.dynamic_update_index_in_dim(stacked, field, i, 0),
            batches,
            batch,
        )

    empty = jax.tree.map(lambda field: jnp.zeros((most, *field.shape), field.dtype), shapes)
    return jax.lax.fori_loop(0, count, one, empty)


def _packed_batch(feed: TrainingFeed, order: Array, step_in_epoch: Array) -> Batch:
    arrays = feed.arrays
    row = jax.lax.dynamic_slice(order, (step_in_epoch * feed.batch_rows,), (feed.batch_rows,))
    real, row = (row >= 0)[:, None], jnp.maximum(row, 0)
    token_places = jnp.where(real, arrays.rows.token_places[row], -1)
    examples = jnp.where(real, arrays.row_examples[row], -1)
    segment_ids = jnp.where(real, arrays.rows.segment_ids[row], 0)
    flat = jnp.nonzero(examples.reshape(-1) >= 0, size=feed.reads, fill_value=-1)[0]
    weights, flat = (flat >= 0).astype(jnp.float32), jnp.maximum(flat, 0).astype(jnp.int32)
    example_ids = jnp.maximum(examples.reshape(-1)[flat], 0)
    return Batch(
        gather_items(arrays.item_ids, token_places),
        segment_ids,
        arrays.rows.positions[row],
        flat // feed.row_len,
        flat % feed.row_len,
        example_ids,
        arrays.target_ids[example_ids],
        weights,
    )


def _prefix_batch(feed: TrainingFeed, order: Array, step_in_epoch: Array) -> Batch:
    example_ids = jax.lax.dynamic_slice(order, (step_in_epoch * feed.reads,), (feed.reads,))
    return example_batch(feed, example_ids, feed.batch_rows)


def example_batch(feed: TrainingFeed, example_ids: Array, batch_rows: int) -> Batch:
    """The windows of given examples (-1 = none), packed inside jit and read at their ends.

    A window that finds no room in `batch_rows` rows gets weight 0.
    """
    arrays = feed.arrays
    real, example_ids = example_ids >= 0, jnp.maximum(example_ids, 0)
    rows, fits = pack_on_device(
        arrays.starts[example_ids],
        jnp.where(real, arrays.lengths[example_ids], 0),
        batch_rows,
        feed.row_len,
    )
    return Batch(
        gather_items(arrays.item_ids, rows.token_places),
        rows.segment_ids,
        rows.positions,
        rows.read_rows,
        rows.read_columns,
        example_ids,
        arrays.target_ids[example_ids],
        (real & fits).astype(jnp.float32),
    )
