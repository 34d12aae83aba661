"""The third pass: each part sorted, and filtered by what concerns one user at a time; all by itself."""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from raserec_jax.data.dates import Bound
from raserec_jax.data.filters import (
    Filters,
    bounds_of,
    has_length,
    none_of_length,
    none_within,
    one_of_each,
    within,
)
from raserec_jax.data.on_disk.counts import Counts
from raserec_jax.data.on_disk.divide import PART_SIZE, part_path
from raserec_jax.data.on_disk.gather import Gathered
from raserec_jax.data.on_disk.parts import Part, Parts
from raserec_jax.data.on_disk.pieces import pieces
from raserec_jax.data.sorting import distinct, stable_order


def order(
    found: Gathered,
    folder: pathlib.Path,
    count: int,
    filters: Filters,
    name: str,
    *,
    part_done: Callable[[], object] = lambda: None,
) -> tuple[Parts, Counts, Counts]:
    """Makes ordered parts of the rows that `divide` dealt out, and removes those.

    Args:
      found: of the source.
      folder: of the rows, and for the parts.
      count: of the parts.
      filters: all but min_rating and min_interactions are applied, as `Filters.apply` does.
      name: of the log, for messages.
      part_done: called after each part.

    Returns:
      The parts, and what there is in the source and in the parts.

    Raises:
      DataError: nothing is left, or dates were given for a log without times.
      ConfigError: a date that cannot be compared with the log's times.
      OSError: a file cannot be written.
    """
    has_times = found.timestamp is not None
    bounds = bounds_of(filters.from_date, filters.to_date, name, has_times=has_times)
    usual = _usual_size(folder, count) if bounds else 0.0
    items = len(found.item_labels)
    source, before_lengths, left = Counts(items), Counts(items), Counts(items)
    parts = Parts(folder, count)
    for number in range(count):
        path = part_path(folder, number)
        part = _ordered(path)
        path.unlink()
        source.add(part)
        part = _filtered(part, bounds, usual, filters.duplicates)
        before_lengths.add(part)
        fits = has_length(part.lengths, filters.min_history, filters.max_history)
        part = part.select(np.repeat(fits, part.lengths))
        left.add(part)
        parts.save(number, part)
        part_done()
    if not before_lengths.users:
        raise none_within(name, bounds, source.first_time, source.last_time)
    if not left.users:
        raise none_of_length(
            name,
            filters.min_history,
            filters.max_history,
            before_lengths.shortest,
            before_lengths.longest,
        )
    return parts, source, left


def _ordered(path: pathlib.Path) -> Part:
    """The rows of a part by user, and within a user as `InteractionLog.from_columns` says."""
    codes, labels, item_ids, positions, times = zip(*pieces(path, PART_SIZE), strict=True)
    sizes = [len(piece) for piece in labels]
    labels, places = distinct(np.concatenate(labels))
    firsts = np.cumsum([0, *sizes[:-1]])
    users = np.concatenate(
        [
            places[first : first + size][piece]
            for first, size, piece in zip(firsts, sizes, codes, strict=True)
        ]
    )
    item_ids, position, timestamp = map(_joined, (item_ids, positions, times))
    by_user = stable_order(users, timestamp if position is None else position)
    rows = slice(None) if by_user is None else by_user
    return Part(
        labels,
        np.bincount(users, minlength=len(labels)),
        item_ids[rows],
        None if timestamp is None else timestamp[rows],
    )


def _filtered(part: Part, bounds: list[Bound], usual: float, duplicates: str) -> Part:
    if bounds:
        part = part.select(within(part.timestamps, bounds, usual))
    if duplicates != "all" and len(part.labels):
        part = part.select(one_of_each(part.user_ids, part.item_ids, duplicates))
    return part


def _joined(arrays: tuple) -> np.ndarray | None:
    return None if arrays[0] is None else np.concatenate(arrays)


def _usual_size(folder: pathlib.Path, count: int) -> float:
    """`dates.usual_size` of all times: the median, found digit by digit in passes over them."""
    total = sum(len(sizes) for sizes in _sizes(folder, count))
    middle = [_at_rank(folder, count, rank) for rank in {(total - 1) // 2, total // 2}]
    return float(np.mean(middle))


def _sizes(folder: pathlib.Path, count: int) -> Iterator[np.ndarray]:
    for number in range(count):
        for *_, times in pieces(part_path(folder, number), PART_SIZE):
            yield np.abs(times)


def _at_rank(folder: pathlib.Path, count: int, rank: int) -> np.number:
    """The size of that rank, from 0. Bits of numbers that are not negative are in the order of the numbers."""
    found, kind = 0, np.dtype(np.int64)
    for shift in (48, 32, 16, 0):
        counts = np.zeros(2**16, np.int64)
        for sizes in _sizes(folder, count):
            kind, bits = sizes.dtype, sizes.view(np.uint64) >> np.uint64(shift)
            same = bits >> np.uint64(16) == found
            counts += np.bincount(bits[same].astype(np.int64) & 0xFFFF, minlength=2**16)
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[digit] - counts[digit])
        found = found << 16 | digit
    return np.array([found], np.uint64).view(kind)[0]
