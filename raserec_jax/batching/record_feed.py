"""The batches of a log that lies in records: read, packed and sent ahead by Grain, in processes of their own.

They are the very batches of `feeds` and `host_feed`, functions of the epoch's order and the step alone. So a resumed
run needs no state of an iterator, on any number of worker processes: Grain's random access serves it. What stays in
memory is a few numbers per window; items are read where they are used, in a job of several processes by the process on
whose devices they lie (`shares`).
"""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from raserec_jax.batching import host_feed
from raserec_jax.batching.feeds import Batch, FeedArrays, TrainingFeed, packed_sizes
from raserec_jax.batching.packing import PackedRows, default_row_len, lay_out, rows_needed
from raserec_jax.batching.shares import Share
from raserec_jax.batching.windows import training_examples, user_windows
from raserec_jax.data.records.libraries import extra
from raserec_jax.data.sources import PathLike
from raserec_jax.data.splits import Split

_AHEAD = 2  # calls that each worker makes before they are asked for
_WAIT_S = 0.01


class Layout(NamedTuple):
    """Which windows are in which row, the windows in the order of the rows; int32, or int64 where said.

    first_window: [rows + 1] int64.
    users, starts, lengths, num_targets, columns: [windows] whose history, from which place of it, how many items, how
      many of the last of these have targets, and where in the row.
    """

    first_window: np.ndarray
    users: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    num_targets: np.ndarray
    columns: np.ndarray


@runtime_checkable
class Users(Protocol):
    """Histories by the user's number, such as `records.histories.RecordedHistories`."""

    def items(self, users: Sequence[int]) -> list[np.ndarray]:
        """The item ids, int32 [n] each, of some users."""


class CallMaker:
    """Makes the batches of a device call from records; sent to the worker processes.

    Args:
      users: the log's histories.
      feed: its sizes; the arrays are not used.
      first_example: [users + 1] int64, the number of each user's first training example.
      layout: of packed rows; None: every example is a window by itself.
      max_len: items of a window.
    """

    def __init__(
        self,
        users: Users,
        feed: TrainingFeed,
        first_example: np.ndarray,
        layout: Layout | None,
        max_len: int,
    ):
        self._users, self._feed, self._layout = users, feed, layout
        self._first_example, self._max_len = first_example, max_len

    def batches(
        self,
        order: np.ndarray,
        first: int,
        count: int,
        most: int,
        share: Share | None = None,
    ) -> Batch:
        """As `host_feed.host_batches`; only the users of its share are read."""
        plan = self._packed if self._layout is not None else self._prefix
        plans = [
            plan(step, share)
            for step in host_feed.at_steps(order, self._feed.per_step, first, count)
        ]
        users = np.unique(np.concatenate([one.users() for one in plans])).tolist()
        # All at once: a read costs more than what is read.
        histories = dict(zip(users, self._users.items(users), strict=True))
        return host_feed.stacked((self._filled(one, histories, share) for one in plans), most)

    def _owner_of(self, examples: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first_example, examples, side="right") - 1

    def _packed(self, row_ids: np.ndarray, share: Share | None) -> "_Plan":
        """Of a batch of some rows, by a feed of these alone, and of row 0, whose positions stand where nothing is."""
        real = row_ids >= 0
        rows = np.concatenate([[0], row_ids[real]])
        layout = self._layout
        counts = np.diff(layout.first_window)[rows]
        row = np.repeat(np.arange(len(rows)), counts)
        window = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        window += layout.first_window[rows][row]
        windows = _Windows(
            *(field[window] for field in (layout.users, layout.starts, layout.lengths)),
            layout.num_targets[window],
        )
        at, offset, read = windows.tokens()
        columns = layout.columns[window]
        shape = (len(rows), self._feed.row_len)
        token_places, row_examples = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        segment_ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        place = (row[at], columns[at] + offset)
        token_places[place] = np.arange(len(at))
        segment_ids[place] = columns[at] + 1
        positions[place] = offset
        row_examples[place] = np.where(read, np.cumsum(read), -1)
        none = np.zeros(0, np.int32)
        packed = PackedRows(token_places, segment_ids, positions, none, none)
        local = np.full(len(row_ids), -1)
        local[real] = np.arange(1, len(rows))
        feed = self._feed._replace(arrays=FeedArrays(none, none, none, none, packed, row_examples))
        row_in_batch = np.concatenate([[-1], np.flatnonzero(real)])
        return self._plan(windows, row_in_batch[row], host_feed.packed_places(feed, local), share)

    def _prefix(self, example_ids: np.ndarray, share: Share | None) -> "_Plan":
        """Of a batch of some examples, by a feed of these alone, and of an empty one, which stands where none is."""
        real = example_ids >= 0
        examples = example_ids[real]
        users = self._owner_of(examples)
        ends = examples - self._first_example[users] + 1
        lengths = np.minimum(ends, self._max_len)
        windows = _Windows(users, ends - lengths, lengths, np.ones_like(lengths))
        local = np.full(len(example_ids), -1)
        local[real] = np.arange(1, len(examples) + 1)
        starts = np.concatenate([[0], np.cumsum(lengths) - lengths])
        none = np.zeros(0, np.int32)
        arrays = FeedArrays(none, starts, np.concatenate([[0], lengths]), none, None, None)
        places = host_feed.prefix_places(self._feed._replace(arrays=arrays), local)
        return self._plan(windows, places.read_rows[real], places, share)

    def _plan(
        self, windows: "_Windows", rows: np.ndarray, places: host_feed.Places, share: Share | None
    ) -> "_Plan":
        """rows: of the batch, in which each window is; -1 = in none."""
        wanted, first = rows >= 0, True
        if share is not None:
            wanted &= share.has(rows, len(places.token_places))
            first = bool(share.has(np.zeros(1, np.int64), len(places.token_places))[0])
        owner = int(self._owner_of(np.zeros(1, np.int64))[0]) if first else None
        return _Plan(windows, wanted, owner, places)

    def _filled(
        self, plan: "_Plan", histories: dict[int, np.ndarray], share: Share | None
    ) -> Batch:
        users, starts, lengths, _ = plan.windows
        stretches = [
            histories[user][start : start + length + 1]
            if wanted
            else np.zeros(length + 1, np.int32)
            for user, start, length, wanted in zip(
                *(one.tolist() for one in (users, starts, lengths, plan.wanted)), strict=True
            )
        ]
        at, offset, read = plan.windows.tokens()
        items = np.concatenate([stretch[:-1] for stretch in stretches])
        following = np.concatenate([stretch[1:] for stretch in stretches])
        # Example 0 stands where none is.
        first_target = 0 if plan.first_user is None else histories[plan.first_user][1]
        targets = np.concatenate([[first_target], following[read]])
        arrays = self._feed.arrays._replace(item_ids=items, target_ids=targets)
        batch = host_feed.filled(self._feed._replace(arrays=arrays), plan.places, share)
        example_ids = ((self._first_example[users] + starts)[at] + offset)[read]
        known = np.concatenate([[0], example_ids])[batch.example_ids]
        return batch._replace(example_ids=known.astype(np.int32))


class _Windows(NamedTuple):
    """Windows one after the other; [windows] each, as in `Layout`."""

    users: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    num_targets: np.ndarray

    def tokens(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each item of the windows: which window, which place of it, and whether its successor is a target."""
        at = np.repeat(np.arange(len(self.lengths)), self.lengths)
        offset = np.arange(len(at)) - np.repeat(
            np.cumsum(self.lengths) - self.lengths, self.lengths
        )
        return at, offset, offset >= (self.lengths - self.num_targets)[at]


class _Plan(NamedTuple):
    """A batch before records are read.

    wanted: [windows] bool, whose items are.
    first_user: whose the log's example 0 is, if it is wanted.
    places: by the number of an example among the windows' targets, from 1; 0 = the log's example 0.
    """

    windows: _Windows
    wanted: np.ndarray
    first_user: int | None
    places: host_feed.Places

    def users(self) -> np.ndarray:
        """Who is to be read."""
        first = [] if self.first_user is None else [self.first_user]
        return np.concatenate([np.array(first, np.int64), self.windows.users[self.wanted]])


class Orders:
    """The order of an epoch, handed from the process that draws it to those that make its batches, in a file.

    Args:
      folder: of the files; only the present epoch's and the next are there.
    """

    def __init__(self, folder: PathLike):
        self._folder = pathlib.Path(folder)

    def give(self, epoch: int, order: np.ndarray) -> None:
        """Hands over the order of an epoch; that of two epochs before is not needed any more."""
        path = self._path(epoch)
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.save(file, order, allow_pickle=False)
        os.replace(path.with_suffix(".tmp"), path)
        self._path(epoch - 2).unlink(missing_ok=True)

    def take(self, epoch: int) -> np.ndarray:
        """The order of an epoch; waits until there is one."""
        path = self._path(epoch)
        while not path.exists():
            time.sleep(_WAIT_S)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _path(self, epoch: int) -> pathlib.Path:
        return self._folder / f"order-{epoch}.npy"


class Calls(NamedTuple):
    """The device calls of a run that are still to be made, as a source for Grain.

    steps_per_epoch, most: steps, and at most so many per call.
    first_step, last_step: of the run: from the one, before the other.
    """

    steps_per_epoch: int
    most: int
    first_step: int
    last_step: int

    def spans(self) -> list[tuple[int, int, int]]:
        """(epoch, first step in it, steps) of each call."""
        found, step = [], self.first_step
        while step < self.last_step:
            epoch, first = divmod(step, self.steps_per_epoch)
            count = min(self.most, self.steps_per_epoch - first)
            found.append((epoch, first, count))
            step += count
        return found


class RecordBatches:
    """The batches of a run, in the order in which its device calls want them.

    Args:
      maker: of the batches.
      workers: processes that make them; 0: threads of this one.
    """

    def __init__(self, maker: CallMaker, workers: int):
        self.maker, self._workers = maker, workers

    @contextlib.contextmanager
    def open(
        self, calls: Calls, order_of: Callable[[int], np.ndarray], share: Share | None = None
    ) -> Iterator[Iterator[Batch]]:
        """Context with the batches of all calls, [most, ...] each; the processes end with it.

        Args:
          calls: what is still to be done.
          order_of: epoch -> its order.
          share: of the batches, as `host_feed.host_batches` takes it.
        """
        grain = extra("grain")
        _settle_flags()
        spans = calls.spans()
        with tempfile.TemporaryDirectory() as folder:
            orders = Orders(folder)
            dataset = grain.MapDataset.source(spans).map(
                _Make(self.maker, orders, calls.most, share)
            )
            reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
            dataset = dataset.to_iter_dataset(reading)
            if self._workers:
                settings = grain.MultiprocessingOptions(self._workers, _AHEAD)
                dataset = dataset.mp_prefetch(settings)
            given = -1

            def batches() -> Iterator[Batch]:
                nonlocal given
                for epoch, *_ in spans:
                    # The next epoch's too, as the workers are ahead of us.
                    for wanted in range(max(given + 1, epoch), min(epoch + 1, spans[-1][0]) + 1):
                        orders.give(wanted, order_of(wanted))
                        given = wanted
                    # A copy: the workers' memory is handed back while the device may still read it.
                    yield Batch(*(np.array(field) for field in next(source)))

            source = iter(dataset)
            try:
                yield batches()
            finally:
                source.close()


class _Make:
    """The function that Grain maps over the calls."""

    def __init__(self, maker: CallMaker, orders: Orders, most: int, share: Share | None):
        self._maker, self._orders, self._most, self._share = maker, orders, most, share

    def __call__(self, span: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
        epoch, first, count = span
        order = self._orders.take(epoch)
        return tuple(self._maker.batches(order, first, count, self._most, self._share))


def _settle_flags() -> None:
    """Grain reads absl's flags, which only a script has parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def record_feed(
    split: Split,
    users: Users,
    *,
    mode: str,
    max_len: int,
    long_history: str,
    targets_per_batch: int,
    row_len: int,
    seed: int,
    workers: int,
) -> TrainingFeed:
    """As `feeds.packed_feed` or, mode "prefix", `feeds.prefix_feed`, with the same batches, made from records.

    Args:
      split: of the log.
      users: of the same log; what is sent to the processes.
      workers: processes that make batches; 0: threads of this one.
    """
    row_len = row_len or default_row_len(max_len)
    counts = np.maximum(split.train_end.astype(np.int64) - 1, 0)
    first_example = np.concatenate([[0], np.cumsum(counts)])
    layout = None
    if mode == "packed":
        windows = user_windows(split, max_len, long_history)
        rows, columns, num_rows = lay_out(windows, row_len, np.random.default_rng([seed, 1]))
        per_row = np.bincount(rows, windows.num_targets, num_rows).astype(np.int64)
        steps, batch_rows, reads = packed_sizes(per_row, targets_per_batch)
        fill = float(windows.lengths.sum() / (num_rows * row_len))
        by_row = np.argsort(rows, kind="stable")
        owners = split.log.user_ids[windows.starts[by_row]]
        layout = Layout(
            np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))]),
            owners,
            (windows.starts[by_row] - split.log.offsets[owners]).astype(np.int32),
            windows.lengths[by_row],
            windows.num_targets[by_row],
            columns[by_row],
        )
        shuffled, per_step = num_rows, batch_rows
    else:
        shuffled = int(first_example[-1])
        reads = per_step = min(targets_per_batch, shuffled)
        lengths = np.minimum(training_examples(split).lengths, max_len)
        batch_rows = rows_needed(lengths, reads, row_len, seed)
        steps, fill = -(-shuffled // reads), float(lengths.mean() * reads / batch_rows / row_len)
    nothing = FeedArrays(None, None, None, None, None, None)
    feed = TrainingFeed(nothing, steps, batch_rows, reads, row_len, fill, True, shuffled, per_step)
    maker = CallMaker(users, feed, first_example, layout, max_len)
    return feed._replace(
        arrays=nothing._replace(target_ids=training_examples(split).target_ids),
        stream=RecordBatches(maker, workers).open,
    )
