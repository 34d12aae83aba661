"""Host arrays onto a mesh, each device its part.

Every process gives the same array and sends only what its own devices hold, so this is the same on one host and on
many.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from raserec_jax.mesh import REPLICATED, placed, rows_on


def on_mesh(mesh: Mesh, spec: PartitionSpec, array: np.ndarray) -> jax.Array:
    """The array on the mesh; its first dimension must divide over the axes that `spec` names (`mesh.rows_on`)."""
    return jax.make_array_from_callback(array.shape, placed(mesh, spec), lambda index: array[index])


def rows_over(mesh: Mesh, spec: PartitionSpec, array: jax.Array | np.ndarray) -> jax.Array:
    """The array on the mesh as `spec` says, rows of zeros added until they divide evenly."""
    missing = rows_on(mesh, spec, array.shape[0]) - array.shape[0]
    pads = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
    if _is_there(mesh, array):
        return jax.device_put(jnp.pad(array, pads) if missing else array, placed(mesh, spec))
    return on_mesh(mesh, spec, np.pad(np.asarray(array), pads))


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """The tree's arrays on every device of the mesh."""

    def place(array):
        if _is_there(mesh, array):
            return jax.device_put(array, placed(mesh, REPLICATED))
        return on_mesh(mesh, REPLICATED, np.asarray(array))

    return jax.tree.map(place, tree)


def _is_there(mesh: Mesh, array: Any) -> bool:
    """Whether an array lies on the devices of the mesh already."""
    return isinstance(array, jax.Array) and array.sharding.device_set == set(mesh.devices.flat)
