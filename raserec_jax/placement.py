"""Host arrays onto a mesh, each device its part.

Every process gives the same array and sends only what its own devices hold, so this is the same on one host and on
many.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from raserec_jax.mesh import REPLICATED, placed


def on_mesh(mesh: Mesh, spec: PartitionSpec, array: np.ndarray) -> jax.Array:
    """The array on the mesh; its first dimension must divide over the axes that `spec` names (`mesh.rows_on`)."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, placed(mesh, spec), lambda index: array[index])


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """The tree's arrays on every device of the mesh; those that lie on the mesh already stay as they are."""
    devices = set(mesh.devices.flat)

    def place(array):
        if isinstance(array, jax.core.Tracer):
            return array
        if isinstance(array, jax.Array) and array.sharding.device_set == devices:
            return array
        return on_mesh(mesh, REPLICATED, array)

    return jax.tree.map(place, tree)
