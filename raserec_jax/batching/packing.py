"""Packing: several windows share a fixed-length row, so that little of a batch is padding.

`pack_on_host` lays out a whole data set once; `pack_on_device` lays out the windows of one batch inside jit, where
they are drawn. Both are best fit: a window goes to the fullest row that has room for it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from raserec_jax.batching.windows import Windows

GOOD_FILL = 0.95
"""Share of the places of packed rows that should hold items."""


class PackedRows(NamedTuple):
    """Rows of the flat item array, several windows each; int32.

    token_places: [rows, seq] index in the flat item array, -1 = padding.
    segment_ids: [rows, seq] which window of the row, 0 = padding.
    positions: [rows, seq] place within the window.
    read_rows, read_columns: [reads] places to read: those with a target, or each window's end.
    """

    token_places: np.ndarray | Array
    segment_ids: np.ndarray | Array
    positions: np.ndarray | Array
    read_rows: np.ndarray | Array
    read_columns: np.ndarray | Array


def default_row_len(max_len: int) -> int:
    """max_len rounded up to a multiple of 32, the row length used when none is configured."""
    return -(-max_len // 32) * 32


def best_fit(lengths: np.ndarray, row_len: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and first column of each window, in the order given, and the number of rows.

    Raises:
      ValueError: a window is longer than row_len.
    """
    if len(lengths) and lengths.max() > row_len:
        raise ValueError(f"a window of {lengths.max()} items does not fit row_len={row_len}")
    rows_with_room: list[list[int]] = [[] for _ in range(row_len + 1)]
    rows = np.empty(len(lengths), np.int32)
    columns = np.empty(len(lengths), np.int32)
    num_rows = 0
    for i, length in enumerate(lengths.tolist()):
        for room in range(length, row_len + 1):
            if rows_with_room[room]:
                row = rows_with_room[room].pop()
                break
        else:
            row, room, num_rows = num_rows, row_len, num_rows + 1
        rows[i], columns[i] = row, row_len - room
        rows_with_room[room - length].append(row)
    return rows, columns, num_rows


def lay_out(
    windows: Windows, row_len: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and first column of each window, int32 [windows], and the number of rows; shuffled, so rows hold mixtures.

    Where that leaves rows less than `GOOD_FILL` full, the longest windows go first, if it takes fewer rows.
    """
    order = rng.permutation(len(windows.lengths))
    fitted = best_fit(windows.lengths[order], row_len)
    if windows.lengths.sum() < GOOD_FILL * fitted[2] * row_len:
        longest_first = order[np.argsort(-windows.lengths[order], kind="stable")]
        again = best_fit(windows.lengths[longest_first], row_len)
        if again[2] < fitted[2]:
            order, fitted = longest_first, again
    rows, columns = np.empty(len(order), np.int32), np.empty(len(order), np.int32)
    rows[order], columns[order], num_rows = fitted
    return rows, columns, num_rows


def pack_on_host(windows: Windows, row_len: int, rng: np.random.Generator) -> PackedRows:
    """Packs all windows as `lay_out` says; reads every place with a target.

    Reads come in the order of the windows, and of the places within each.
    """
    rows, columns, num_rows = lay_out(windows, row_len, rng)
    window = np.repeat(np.arange(len(rows)), windows.lengths)
    offset = np.arange(len(window)) - np.repeat(
        np.cumsum(windows.lengths) - windows.lengths, windows.lengths
    )
    at = (rows[window], columns[window] + offset)
    packed = [np.full((num_rows, row_len), -1, np.int32)]
    packed += [np.zeros((num_rows, row_len), np.int32) for _ in range(2)]
    # Any id that differs between neighbours of a row will do; the first column + 1 does, and is never 0.
    for field, values in zip(
        packed, (windows.starts[window] + offset, columns[window] + 1, offset), strict=True
    ):
        field[at] = values
    read = offset >= (windows.lengths - windows.num_targets)[window]
    return PackedRows(*packed, rows[window][read], (columns[window] + offset)[read])


def rows_needed(lengths: np.ndarray, count: int, row_len: int, seed: int = 0) -> int:
    """Rows that hold `count` windows drawn from `lengths`, with a margin: 5% above the worst of 40 trial draws."""
    rng = np.random.default_rng(seed)
    trials = [best_fit(-np.sort(-rng.choice(lengths, size=count)), row_len)[2] for _ in range(40)]
    return min(int(np.ceil(max(trials) * 1.05)) + 1, count)


def pack_on_device(
    starts: Int[Array, " windows"], lengths: Int[Array, " windows"], num_rows: int, row_len: int
) -> tuple[PackedRows, Array]:
    """Packs the windows of one batch inside jit, longest first; reads the end of each, in the order given.

    Returns:
      The rows, and bool [windows]: False where a window found no room (it then reads place (0, 0)).
    """
    order = jnp.argsort(-lengths, stable=True)

    def place(room, length):
        candidates = jnp.where(room >= length, room, row_len + 1)
        row = jnp.argmin(candidates).astype(jnp.int32)
        fits = candidates[row] <= row_len
        column = row_len - room[row]
        return room.at[row].add(jnp.where(fits, -length, 0)), (row, column, fits)

    _, placed = jax.lax.scan(place, jnp.full(num_rows, row_len, jnp.int32), lengths[order])
    rows, columns, fits = (jnp.zeros_like(field).at[order].set(field) for field in placed)

    # Windows were placed by rank, so along a row the rank rises: a running maximum spreads it over the window.
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    row_or_drop = jnp.where(fits, rows, num_rows)
    marks = jnp.full((num_rows, row_len), -1, jnp.int32)
    marks = marks.at[row_or_drop, columns].set(rank.astype(jnp.int32), mode="drop")
    window = order[jnp.maximum(jax.lax.cummax(marks, axis=1), 0)]
    offset = jnp.arange(row_len, dtype=jnp.int32)[None, :] - columns[window]
    real = (jax.lax.cummax(marks, axis=1) >= 0) & (offset < lengths[window])
    packed = PackedRows(
        jnp.where(real, starts[window] + offset, -1).astype(jnp.int32),
        jnp.where(real, columns[window] + 1, 0).astype(jnp.int32),
        jnp.where(real, offset, 0).astype(jnp.int32),
        jnp.where(fits, rows, 0).astype(jnp.int32),
        jnp.where(fits, jnp.maximum(columns + lengths - 1, 0), 0).astype(jnp.int32),
    )
    return packed, fits


def gather_items(item_ids: Int[Array, " interactions"], token_places: Array) -> Array:
    """Items at the places of packed rows; padding stays 0."""
    return jnp.where(token_places >= 0, item_ids[jnp.maximum(token_places, 0)], 0)
