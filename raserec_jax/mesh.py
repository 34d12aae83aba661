"""The mesh of devices, and where every array lies on it: the only file that names a PartitionSpec.

One mesh for one chip and for a pod, with two axes. Rows of a batch lie over `data`; the item table, its
optimiser state and the softmax over the catalogue over `model`; rows of the memory over both. What is small is on
every device. On one device all of this is one and the same program.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from raserec_jax.errors import ConfigError

DATA, MODEL = "data", "model"

REPLICATED = PartitionSpec()
BATCH_ROWS = PartitionSpec(DATA)  # rows of batches, queries, ranks
ITEM_ROWS = PartitionSpec(MODEL)  # rows of the item table and of its optimiser state
MEMORY_ROWS = PartitionSpec((DATA, MODEL))  # keys, values and owners of the memory


class MeshShape(NamedTuple):
    """Devices along each axis; -1 = what the other axis leaves."""

    data: int = -1
    model: int = 1


def parse_mesh(text: str) -> MeshShape:
    """`data:-1,model:1` and the like; an axis that is not named keeps its default.

    Raises:
      ConfigError: anything else.
    """
    sizes = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, size = part.partition(":")
        if name not in MeshShape._fields or name in sizes or not size.lstrip("-").isdigit():
            raise ConfigError(
                f"--mesh={text!r}: {part!r} is no axis with a size; expected for example data:-1,model:1, where -1 is "
                "what the other axis leaves"
            )
        sizes[name] = int(size)
    return MeshShape(**sizes)


def make_mesh(shape: MeshShape, devices: list | None = None) -> Mesh:
    """The mesh of these devices (default: all); neighbours lie along `model`, where most is exchanged.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(shape)
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ConfigError(
            f"a mesh of data:{shape.data},model:{shape.model} does not fit {len(devices)} devices; the sizes must "
            "multiply to that number, and at most one may be -1"
        )
    grid = np.asarray(devices).reshape(sizes)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def placed(mesh: Mesh, spec: PartitionSpec) -> NamedSharding:
    """Where an array of this kind lies on this mesh."""
    return NamedSharding(mesh, spec)


def rows_on(mesh: Mesh, spec: PartitionSpec, rows: int) -> int:
    """`rows` rounded up to what divides evenly over the devices that the first dimension lies on."""
    axes = spec[0] if len(spec) else ()
    parts = math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))
    return -(-rows // parts) * parts
