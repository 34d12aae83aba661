"""Arrays that lie over several processes, on the host: all of one, or what of it is this process's to write."""

import dataclasses
import functools
import math

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from raserec_jax.distributed.meeting import is_writer
from raserec_jax.mesh import REPLICATED, placed

_PIECE_BYTES = 64 * 2**20
"""Of what is gathered at a time; so much of it a device holds beside its own part."""


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What one process writes of an array; a leaf of trees, where the array stood.

    shape, dtype: of the whole array.
    piece_shape: of the pieces into which all processes together cut it; the last along an axis may be smaller.
    own: (where it starts along each axis, values) of each piece that is this process's; no other process has it too.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    piece_shape: tuple[int, ...]
    own: tuple[tuple[tuple[int, ...], np.ndarray], ...]

    def __getitem__(self, rows: slice) -> "Pieces":
        """The first rows, as array[:rows]; pieces that start behind them are nobody's."""
        assert rows.start is None and rows.step is None, rows
        kept = [(at, values[: rows.stop - at[0]]) for at, values in self.own if at[0] < rows.stop]
        shape = (min(rows.stop, self.shape[0]), *self.shape[1:])
        return dataclasses.replace(self, shape=shape, own=tuple(kept))


def own_pieces(array: jax.Array | np.ndarray) -> Pieces:
    """What this process writes of an array, in memory of its own; nothing is exchanged. Of what every process has, a
    replicated array or one of its own, process 0's is written."""
    shape = np.shape(array)
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        whole = ((0,) * len(shape), np.array(array))
        return Pieces(shape, np.dtype(array.dtype), shape, (whole,) if is_writer() else ())
    own = [
        (tuple(part.start or 0 for part in shard.index), np.array(shard.data))
        for shard in array.addressable_shards
        if shard.replica_id == 0
    ]
    return Pieces(shape, np.dtype(array.dtype), array.sharding.shard_shape(shape), tuple(own))


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """All of an array on this host, in memory of its own; where it lies over several processes, all of them ask for it
    together and each gets it.

    What lies by its rows comes in pieces, so that no device ever holds the whole of it.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.array(array)
    if _by_rows(array):
        return _in_pieces(array)
    return np.array(multihost_utils.process_allgather(array, tiled=True))


def _by_rows(array: jax.Array) -> bool:
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding):
        return False
    spec = sharding.spec
    return len(spec) > 0 and spec[0] is not None and all(axis is None for axis in spec[1:])


def _in_pieces(array: jax.Array) -> np.ndarray:
    sharding = array.sharding
    rows = sharding.shard_shape(array.shape)[0]
    parts = array.shape[0] // rows
    of_a_row = parts * math.prod(array.shape[1:]) * array.dtype.itemsize
    size = max(1, min(rows, _PIECE_BYTES // max(of_a_row, 1)))
    found = np.empty((parts, rows, *array.shape[1:]), array.dtype)
    for start in range(0, rows, size):
        start = min(start, rows - size)  # the last reaches back, as another size would compile anew
        piece = _piece(array, start, sharding=sharding, parts=parts, size=size)
        found[:, start : start + size] = np.asarray(piece)
    return found.reshape(array.shape)


@functools.partial(jax.jit, static_argnames=("sharding", "parts", "size"))
def _piece(array, start, *, sharding, parts, size):
    """[parts, size, ...] on every device: so many rows of each part, from `start`."""
    by_part = array.reshape(parts, -1, *array.shape[1:])
    by_part = lax.with_sharding_constraint(by_part, sharding)
    piece = lax.dynamic_slice_in_dim(by_part, start, size, axis=1)
    return lax.with_sharding_constraint(piece, placed(sharding.mesh, REPLICATED))
