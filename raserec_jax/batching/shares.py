"""A process's share of the batches from the host: the rows that lie on its devices, and the targets that stand in them.

The rows of a batch are cut into as many parts as the mesh has places along `data`, filled up until they are equally
many. A process makes the parts of its own devices, from what it reads for them alone; the parts of all processes are
one global array (`send`). Where targets are read, which examples they are and their weights every process knows from
the layout: these few numbers it sends whole. A target itself is known to whoever has its row, and 0 to the others,
so their sum is the batch's (`joined`).
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from raserec_jax.batching.feeds import Batch
from raserec_jax.mesh import DATA, everywhere, own_parts, put_everywhere, put_parts

_OF_ROWS = ("item_ids", "segment_ids", "positions")


class Share(NamedTuple):
    """Which rows of each batch a process makes.

    parts: into how many the rows are cut.
    own: the parts of this process, increasing.
    """

    parts: int
    own: tuple[int, ...]

    def has(self, rows: np.ndarray, count: int) -> np.ndarray:
        """[n] bool: whether it makes those rows [n] of a batch of `count`."""
        return np.isin(rows // self._each(count), self.own)

    def of_rows(self, array: np.ndarray, fill: int = 0) -> np.ndarray:
        """Its rows of an array [rows, seq] of all; rows of `fill` where it is filled up."""
        count, seq = array.shape
        missing = self._each(count) * self.parts - count
        whole = np.pad(array, ((0, missing), (0, 0)), constant_values=fill)
        return whole.reshape(self.parts, -1, seq)[list(self.own)].reshape(-1, seq)

    def of_reads(self, array: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        """[own parts, reads]: an array [reads] where what is read stands in rows [reads] of the part, 0 elsewhere."""
        part = rows // self._each(count)
        return np.where(part == np.array(self.own)[:, None], array, 0).astype(array.dtype)

    def _each(self, count: int) -> int:
        return -(-count // self.parts)


def share_of(mesh: Mesh) -> Share:
    """This process's share on a mesh."""
    return Share(mesh.shape[DATA], own_parts(mesh))


def send(mesh: Mesh, share: Share, batches: Batch) -> Batch:
    """Stacked batches of which this process has its share, onto the mesh; all processes call it for the same batches.

    Returns:
      Global arrays for `joined`: rows [steps, rows filled up, seq] and targets [steps, parts, reads] over `data`, the
      rest everywhere. Nothing is exchanged yet.
    """
    by_part = {
        name: put_parts(mesh, share.own, getattr(batches, name))
        for name in (*_OF_ROWS, "target_ids")
    }
    rest = {name: field for name, field in batches._asdict().items() if name not in by_part}
    return Batch(**by_part, **put_everywhere(mesh, rest))


def joined(batches: Batch, rows: int) -> Batch:
    """What was sent as one process has it, everywhere; inside jit, under the mesh. rows: of a batch."""
    whole = {name: getattr(batches, name)[:, :rows] for name in _OF_ROWS}
    targets = batches.target_ids.sum(axis=1, dtype=batches.target_ids.dtype)
    return jax.tree.map(everywhere, batches._replace(**whole, target_ids=targets))
