"""Arrays that lie over several processes, on the host: all of one, or what of it is this process's to write."""

import dataclasses

import jax
import numpy as np
from jax.experimental import multihost_utils

from raserec_jax.distributed.meeting import is_writer


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
    together and each gets it."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.array(array)
    return np.array(multihost_utils.process_allgather(array, tiled=True))
