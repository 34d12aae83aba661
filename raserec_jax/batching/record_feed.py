"""The batches of a log that lies in records: read, packed and sent ahead by Grain, in processes of their own.

They are the very batches of `feeds` and `host_feed`, functions of the epoch's order and the step alone. So a resumed
run needs no state of an iterator, on any number of worker processes: Grain's random access serves it. What stays in
memory is a few numbers per window; items are read where they are used.
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

    def batches(self, order: np.ndarray, first: int, count: int, most: int) -> Batch:
        """As `host_feed.host_batches`."""
        make, users_of = self._packed, self._users_of_rows
        if self._layout is None:
            make, users_of = self._prefix, self._users_of_examples
        steps = list(host_feed.at_steps(order, self._feed.per_step, first, count))
        wanted = np.concatenate([[0], *steps])
        # All at once: a read costs more than what is read.
        first_user = self._users_of_examples(np.zeros(1, np.int64))
        users = np.unique(np.concatenate([first_user, users_of(wanted[wanted >= 0])])).tolist()
        histories = dict(zip(users, self._users.items(users), strict=True))
        return host_feed.stacked((make(step, histories) for step in steps), most)

    def _users_of_rows(self, rows: np.ndarray) -> np.ndarray:
        return self._layout.users[self._windows(rows)[1]]

    def _users_of_examples(self, examples: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first_example, examples, side="right") - 1

    def _windows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of `rows`, and which window, of each window in these rows."""
        counts = np.diff(self._layout.first_window)[rows]
        row = np.repeat(np.arange(len(rows)), counts)
        window = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, window + self._layout.first_window[rows][row]

    def _packed(self, row_ids: np.ndarray, histories: dict[int, np.ndarray]) -> Batch:
        """A batch of some rows, by a feed of these alone, and of row 0 and example 0, which stand where nothing is."""
        real = row_ids >= 0
        rows = np.concatenate([[0], row_ids[real]])
        layout = self._layout
        row, window = self._windows(rows)
        users, starts = layout.users[window], layout.starts[window]
        lengths, columns = layout.lengths[window], layout.columns[window]
        ends = starts + lengths
        own = [histories[user] for user in users.tolist()]
        stretches = list(zip(own, starts.tolist(), ends.tolist(), strict=True))
        items = np.concatenate([history[start:end] for history, start, end in stretches])
        following = np.concatenate(
            [history[start + 1 : end + 1] for history, start, end in stretches]
        )
        at = np.repeat(np.arange(len(window)), lengths)
        offset = np.arange(len(at)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        read = offset >= (lengths - layout.num_targets[window])[at]
        example_ids = (self._first_example[users] + starts)[at] + offset
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
        targets = np.concatenate([[self._first_target(histories)], following[read]])
        arrays = FeedArrays(items, none, none, targets, packed, row_examples)
        batch = host_feed.packed_batch(self._feed._replace(arrays=arrays), local)
        return _known_as(batch, np.concatenate([[0], example_ids[read]]))

    def _prefix(self, example_ids: np.ndarray, histories: dict[int, np.ndarray]) -> Batch:
        """A batch of some examples, by a feed of these alone, and of example 0, which stands where none is."""
        real = example_ids >= 0
        examples = np.concatenate([[0], example_ids[real]])
        users = self._users_of_examples(examples)
        places = examples - self._first_example[users]  # of the last item before the target
        lengths = np.minimum(places + 1, self._max_len)
        own = [histories[user] for user in users.tolist()]
        ends = places + 1
        stretches = zip(own, ends - lengths, ends, strict=True)
        items = np.concatenate([history[start:end] for history, start, end in stretches])
        targets = np.array([history[end] for history, end in zip(own, ends, strict=True)])
        local = np.full(len(example_ids), -1)
        local[real] = np.arange(1, len(examples))
        starts = np.cumsum(lengths) - lengths
        arrays = FeedArrays(items, starts, lengths, targets, None, None)
        return _known_as(
            host_feed.prefix_batch(self._feed._replace(arrays=arrays), local), examples
        )

    def _first_target(self, histories: dict[int, np.ndarray]) -> np.int32:
        """The target of example 0, whose window is in row 0 or not."""
        user = int(self._users_of_examples(np.zeros(1, np.int64))[0])
        return histories[user][1]


def _known_as(batch: Batch, example_ids: np.ndarray) -> Batch:
    """The batch with the log's numbers of its examples."""
    return batch._replace(example_ids=example_ids[batch.example_ids].astype(np.int32))


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
        self, calls: Calls, order_of: Callable[[int], np.ndarray]
    ) -> Iterator[Iterator[Batch]]:
        """Context with the batches of all calls, [most, ...] each; the processes end with it.

        Args:
          calls: what is still to be done.
          order_of: epoch -> its order.
        """
        grain = extra("grain")
        _settle_flags()
        spans = calls.spans()
        with tempfile.TemporaryDirectory() as folder:
            orders = Orders(folder)
            dataset = grain.MapDataset.source(spans).map(_Make(self.maker, orders, calls.most))
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

    def __init__(self, maker: CallMaker, orders: Orders, most: int):
        self._maker, self._orders, self._most = maker, orders, most

    def __call__(self, span: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
        epoch, first, count = span
        return tuple(self._maker.batches(self._orders.take(epoch), first, count, self._most))


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
