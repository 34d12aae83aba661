"""Whole data sets of histories -> vectors, and the queries of a split's evaluation.

A window read at its end is an evaluation query; a user's window read at every place is that user's part of the memory
bank. Both are packed once on the host and encoded in blocks of rows on the device.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from raserec_jax.batching.packing import PackedRows, default_row_len, gather_items, pack_on_host
from raserec_jax.batching.windows import (
    Examples,
    Windows,
    prefix_windows,
    query_windows,
    training_examples,
    user_windows,
)
from raserec_jax.data.splits import Split
from raserec_jax.models.backbones import Encoder
from raserec_jax.spread_encoding import encode_rows_over

# Packed rows that pass through the encoder together; below 32 a GRU's products round otherwise.
ROWS_PER_BLOCK = 128


class EvaluationSet(NamedTuple):
    """The queries of one part of a split: one per user with a target there.

    user_ids, target_ids, end_positions: [queries] int32; a history is the user's items at places 0..end-1.
    times: [queries] int32 rank of the target's time, or None for a log without times.
    rows: the packed histories; read i is the end of query i.
    """

    user_ids: np.ndarray
    target_ids: np.ndarray
    end_positions: np.ndarray
    times: np.ndarray | None
    rows: PackedRows


def evaluation_set(split: Split, part: str, *, max_len: int, row_len: int = 0) -> EvaluationSet:
    """Queries for `part` ("valid" or "test"): the last max_len items before each target, whatever the mode."""
    log = split.log
    positions = {"valid": split.valid_position, "test": split.test_position}[part]
    users = np.flatnonzero(positions > 0).astype(np.int32)
    ends = positions[users]
    starts = log.offsets[users]
    windows = query_windows(starts, ends, max_len)
    targets = starts + ends
    return EvaluationSet(
        users,
        log.item_ids[targets],
        ends.astype(np.int32),
        None if log.time_ranks is None else log.time_ranks[targets],
        _packed(windows, row_len or default_row_len(max_len)),
    )


def example_rows(
    split: Split,
    examples: Examples,
    *,
    max_len: int,
    long_history: str,
    row_len: int = 0,
    align: str = "left",
) -> PackedRows:
    """Rows that hold every training example once; read i is the history of example i.

    With `align="right"` (`Encoder.align`) each has a window of its own: no other place stands for it.
    """
    if align == "right":
        windows = prefix_windows(examples, max_len)
        return history_rows(windows, row_len or default_row_len(max_len))
    windows = user_windows(split, max_len, long_history)
    rows = _packed(windows, row_len or default_row_len(max_len))
    read_places = np.asarray(rows.token_places)[rows.read_rows, rows.read_columns]
    order = np.argsort(read_places)
    if not np.array_equal(read_places[order] + 1, examples.target_places):
        raise AssertionError("windows do not cover every training target exactly once")
    return rows._replace(read_rows=rows.read_rows[order], read_columns=rows.read_columns[order])


def example_encoder(
    encoder: Encoder, split: Split, *, long_history: str, mesh: Mesh | None = None
) -> tuple[Callable[[dict], Array], Examples]:
    """What encodes every training prefix, rows packed once: (params -> [examples, dim] float32, the examples).

    One pass over each user's history; with `encoder.align="right"` one over each prefix.
    On a mesh rows lie over all its devices, and the vectors are on the host.
    """
    examples = training_examples(split)
    rows = example_rows(
        split, examples, max_len=encoder.max_len, long_history=long_history, align=encoder.align
    )
    rows, item_ids = for_encoding(mesh, (rows, split.log.item_ids))
    return lambda params: encode_rows(encoder, params, item_ids, rows, mesh=mesh), examples


def history_rows(windows: Windows, row_len: int) -> PackedRows:
    """Packed rows of any windows, read at their ends."""
    return _packed(windows, row_len)


def _packed(windows: Windows, row_len: int) -> PackedRows:
    return pack_on_host(windows, row_len, np.random.default_rng(0))


def for_encoding(mesh: Mesh | None, arrays: Any) -> Any:
    """A tree of arrays where `encode_rows` reads them: on the device, sent once for many calls; for a mesh as it is, on
    the host, from where rows are dealt out."""
    return jax.tree.map(jnp.asarray, arrays) if mesh is None else arrays


def encode_rows(
    encoder: Encoder,
    params: dict,
    item_ids: Int[Array | np.ndarray, " interactions"],
    rows: PackedRows,
    *,
    rows_per_block: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array | np.ndarray, "reads dim"]:
    """Encodes packed rows without dropout, block by block, and returns the places that are read.

    Args:
      params: the encoder's.
      item_ids: the flat item array that `rows` points into.
      rows: packed rows; host or device arrays (for a mesh best on the host).
      rows_per_block: rows per pass; bounds the memory of the attention weights; None = what suits the device.
      mesh: spread the rows over all its devices, also those of other processes, with the same vectors; None = one
        device.

    Returns:
      hidden vectors, one per read, in the order of the reads; float32; from a mesh on the host.
    """
    rows_per_block = rows_per_block or ROWS_PER_BLOCK
    if mesh is not None:
        return encode_rows_over(mesh, encoder, params, item_ids, rows, rows_per_block)
    return encode_blocks(encoder, params, item_ids, rows, rows_per_block=rows_per_block)


@functools.partial(jax.jit, static_argnames=("encoder", "rows_per_block"))
def encode_blocks(
    encoder: Encoder,
    params: dict,
    item_ids: Int[Array, " interactions"],
    rows: PackedRows,
    *,
    rows_per_block: int,
) -> Float[Array, "reads dim"]:
    """`encode_rows` on one device, as one program."""
    count = rows.token_places.shape[0]
    block = min(rows_per_block, count)
    missing = -count % block

    def blocks(field, fill):
        padded = jnp.pad(field, ((0, missing), (0, 0)), constant_values=fill)
        return padded.reshape(-1, block, field.shape[1])

    def encode(one):
        places, segment_ids, positions = one
        return encoder.apply(
            {"params": params},
            gather_items(item_ids, places),
            segment_ids=segment_ids,
            positions=positions,
        )

    hidden = jax.lax.map(
        encode,
        (blocks(rows.token_places, -1), blocks(rows.segment_ids, 0), blocks(rows.positions, 0)),
    )
    return hidden.reshape(-1, *hidden.shape[2:])[rows.read_rows, rows.read_columns]
