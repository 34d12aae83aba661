"""Meshes of the eight devices that conftest.py makes of one CPU."""

import jax

from raserec_jax.mesh import MeshShape, make_mesh


def mesh_of(data, model):
    """A mesh of the first data * model devices."""
    return make_mesh(MeshShape(data, model), jax.devices()[: data * model])
