"""The mesh of devices, and where every array lies on it: the only file that names a PartitionSpec.

One mesh for one chip and for a pod, with two axes. Rows of a batch lie over `data`; the item table, its
optimiser state and the softmax over the catalogue over `model`; rows of the memory over both. What is small is on
every device.

A mesh is in force where a function is traced under `jax.set_mesh`: then `over` and `pinned` say where arrays lie, and
XLA finds the exchange. Without one, as on one device, they do nothing, and the program is what it is without them.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from raserec_jax.errors import ConfigError

DATA, MODEL = "data", "model"

REPLICATED = PartitionSpec()
BATCH_ROWS = PartitionSpec(DATA)  # rows of batches, queries, ranks
ITEM_ROWS = PartitionSpec(MODEL)  # rows of the item table and of its optimiser state
BATCH_BY_ITEMS = PartitionSpec(DATA, MODEL)  # scores of drawn items
CALL_ROWS = PartitionSpec(None, DATA)  # of the batches of several steps, stacked
MEMORY_ROWS = PartitionSpec((DATA, MODEL))  # keys, values and owners of the memory

ITEM_TABLE = "item_table"

SPEC_OF = {
    ITEM_TABLE: ITEM_ROWS,  # moments of the optimiser have the name of their parameter
    "memory_keys": MEMORY_ROWS,
    "memory_target_ids": MEMORY_ROWS,
    "queries": MEMORY_ROWS,
    "retrieved_ids": MEMORY_ROWS,
}
"""Name of a leaf of parameters, optimiser state or a task's constants -> where its rows lie; others are everywhere."""


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
    """The mesh of these devices; neighbours lie along `model`, where most is exchanged.

    Args:
      devices: default all; or, where JAX is told of a default device (`jax_default_device`), that one.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = default_devices() if devices is None else devices
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


def mesh_of(config) -> Mesh | None:
    """The mesh that `config.mesh` describes; None if it has one device, on which everything is done without.

    Raises:
      ConfigError: as `make_mesh`.
    """
    return mesh_over(MeshShape(**config.mesh))


def mesh_over(shape: MeshShape, devices: list | None = None) -> Mesh | None:
    """`make_mesh`; None if it has one device, on which everything is done without."""
    mesh = make_mesh(shape, devices)
    return mesh if mesh.size > 1 else None


def mesh_of_process(mesh: Mesh | str | None) -> Mesh | None:
    """A mesh for what this process does by itself, whatever others of a job do.

    Args:
      mesh: one that is there, or its text as for `parse_mesh`, over this process's devices; None = one device.

    Raises:
      ConfigError: as `parse_mesh` and `make_mesh`, or a mesh with devices of other processes.
    """
    if isinstance(mesh, str):
        own = [one for one in default_devices() if one.process_index == jax.process_index()]
        return mesh_over(parse_mesh(mesh), own)
    if mesh is not None and any(
        one.process_index != jax.process_index() for one in mesh.devices.flat
    ):
        raise ConfigError(
            "the mesh has devices of other processes, which are not asked the same; make it of jax.local_devices()"
        )
    return mesh


def default_devices() -> list:
    """All devices; or the one that `jax_default_device` names."""
    chosen = jax.config.jax_default_device
    if chosen is None:
        return jax.devices()
    return jax.devices(chosen)[:1] if isinstance(chosen, str) else [chosen]


def placed(mesh: Mesh, spec: PartitionSpec) -> NamedSharding:
    """Where an array of this kind lies on this mesh."""
    return NamedSharding(mesh, spec)


def rows_on(mesh: Mesh | AbstractMesh, spec: PartitionSpec, rows: int) -> int:
    """`rows` rounded up to what divides evenly over the devices that the first dimension lies on."""
    axes = spec[0] if len(spec) else ()
    parts = math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))
    return -(-rows // parts) * parts


def put(mesh: Mesh, spec: PartitionSpec, array: Array | np.ndarray | np.generic | float) -> Array:
    """An array, the same in every process, onto the mesh; its rows filled up with zeros to what divides evenly.

    What lies on these devices already does not pass through the host, and stays as it is if it lies so.
    """
    sharding = placed(mesh, spec)
    shape = np.shape(array)
    if len(spec):
        shape = (rows_on(mesh, spec, shape[0]), *shape[1:])
    if isinstance(array, Array) and array.sharding.device_set == set(mesh.devices.flat):
        if array.shape != shape:
            array = jnp.pad(
                array, [(0, new - had) for new, had in zip(shape, array.shape, strict=True)]
            )
        return array if array.sharding == sharding else jax.device_put(array, sharding)
    on_host = np.asarray(array)

    def piece(index):
        part = on_host[index]
        missing = [
            (0, len(range(*one.indices(size))) - had)
            for one, size, had in zip(index, shape, part.shape, strict=True)
        ]
        return np.pad(part, missing) if any(short for _, short in missing) else part

    return jax.make_array_from_callback(shape, sharding, piece)


def own_parts(mesh: Mesh) -> tuple[int, ...]:
    """The places along `data` where this process has devices, increasing."""
    own = [[one.process_index == jax.process_index() for one in row] for row in mesh.devices]
    return tuple(np.flatnonzero(np.any(own, axis=1)).tolist())


def put_parts(mesh: Mesh, own: tuple[int, ...], array: np.ndarray) -> Array:
    """Stacked rows of which each process has the parts for its own devices, onto the mesh as one global array.

    Args:
      own: the parts that this process has, of as many as there are places along `data`.
      array: [steps, rows, ...] these parts one after the other, all of equally many rows.

    Returns:
      [steps, rows of all parts, ...], over `data`.
    """
    each = array.shape[1] // len(own)
    shape = (array.shape[0], each * mesh.shape[DATA], *array.shape[2:])

    def piece(index):
        first = own.index((index[1].start or 0) // each) * each
        return array[:, first : first + each]

    return jax.make_array_from_callback(shape, placed(mesh, CALL_ROWS), piece)


def put_made(mesh: Mesh, spec: PartitionSpec, rows: int, make: Callable) -> tuple[Array, ...]:
    """Arrays of that many rows onto the mesh, made for each device by itself: a process makes those of its own devices.

    Args:
      rows: divide evenly over the devices.
      make: slice of rows -> arrays with these rows, on the host.
    """
    sharding = placed(mesh, spec)
    pieces = [
        [jax.device_put(one, device) for one in make(index[0])]
        for device, index in sharding.addressable_devices_indices_map((rows,)).items()
    ]
    return tuple(
        jax.make_array_from_single_device_arrays((rows, *parts[0].shape[1:]), sharding, list(parts))
        for parts in zip(*pieces, strict=True)
    )


def in_force() -> AbstractMesh | None:
    """The mesh under which a function is traced, if it has several devices; an abstract one inside jit."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh if not mesh.empty and mesh.size > 1 and automatic else None


def use(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Context in which the mesh is in force; without one it changes nothing."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def over(spec: PartitionSpec, array: Array) -> Array:
    """The array, inside jit, lying so on the mesh in force; one that does not divide evenly lies as XLA likes.

    XLA would fill it up, and the gradient of a lookup would add what it was filled up with to row 0.
    """
    mesh = in_force()
    if mesh is None:
        return array
    parts = ((axes,) if isinstance(axes, str) else axes or () for axes in spec)
    counts = [math.prod(mesh.shape[axis] for axis in axes) for axes in parts]
    even = all(size % count == 0 for size, count in zip(array.shape, counts, strict=False))
    return jax.lax.with_sharding_constraint(array, spec) if even else array


def spread(array: Array, fill: int = 0) -> Array:
    """Rows of a batch, inside jit, over the devices of the mesh in force, with rows of `fill` so that they divide."""
    mesh = in_force()
    if mesh is None:
        return array
    missing = rows_on(mesh, BATCH_ROWS, array.shape[0]) - array.shape[0]
    widths = ((0, missing), *((0, 0) for _ in array.shape[1:]))
    # Everywhere first: so is the gradient, where rows that do not divide would come back filled up by XLA.
    return over(BATCH_ROWS, jnp.pad(over(REPLICATED, array), widths, constant_values=fill))


def spec_of(path: tuple) -> PartitionSpec:
    """Where a leaf lies, by the name at the end of its path in a tree (`SPEC_OF`)."""
    name = getattr(path[-1], "key", getattr(path[-1], "name", None)) if path else None
    return SPEC_OF.get(name, REPLICATED)


def pinned(tree: Any) -> Any:
    """A tree, inside jit, where each of its leaves belongs by its name."""
    return _by_path(lambda path, leaf: over(spec_of(path), leaf), tree)


def everywhere(tree: Any) -> Any:
    """A tree, inside jit, all of it on every device."""
    return jax.tree.map(lambda leaf: over(REPLICATED, leaf), tree)


def shardings_of(mesh: Mesh, shapes: Any) -> Any:
    """The shardings of a tree by the names of its leaves, as `jax.jit` takes them."""
    return _by_path(lambda path, leaf: placed(mesh, spec_of(path)), shapes)


def put_everywhere(mesh: Mesh, tree: Any) -> Any:
    """A tree onto the mesh, all of it on every device."""
    return jax.tree.map(lambda leaf: put(mesh, REPLICATED, leaf), tree)


def put_tree(mesh: Mesh, tree: Any) -> Any:
    """A tree as it is on one device onto the mesh, each leaf by its name."""
    return _by_path(lambda path, leaf: put(mesh, spec_of(path), leaf), tree)


def filled_up(mesh: Mesh, tree: Any) -> Any:
    """A tree, inside jit, with rows of zeros until each leaf divides evenly where it belongs."""

    def fill(path, leaf):
        spec = spec_of(path)
        if not len(spec):
            return leaf
        missing = rows_on(mesh, spec, leaf.shape[0]) - leaf.shape[0]
        return jnp.pad(leaf, ((0, missing), *((0, 0) for _ in leaf.shape[1:])))

    return _by_path(fill, tree)


def filled_up_shapes(mesh: Mesh, shapes: Any) -> Any:
    """The shapes that `filled_up` gives."""
    return jax.eval_shape(lambda tree: filled_up(mesh, tree), shapes)


def on_mesh_shapes(mesh: Mesh, shapes: Any) -> Any:
    """The shapes of a tree with where each leaf lies."""

    def placed_shape(path, leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed(mesh, spec_of(path)))

    return _by_path(placed_shape, shapes)


def made_on(mesh: Mesh, make: Callable, *args: Any) -> Any:
    """make(*args), a tree, computed where each of its leaves belongs: no device ever holds a whole item table."""

    def made(*args):
        return filled_up(mesh, make(*args))

    shardings = shardings_of(mesh, jax.eval_shape(made, *args))
    return jax.jit(made, out_shardings=shardings)(*args)


def without_padding(tree: Any, num_items: int) -> Any:
    """A tree whose item tables have a row for each item again, and one for the padding; of arrays or their shapes."""
    rows = num_items + 1

    def cut(path, leaf):
        if spec_of(path) != ITEM_ROWS:
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        return leaf[:rows]

    return _by_path(cut, tree)


def _by_path(of: Callable, tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(of, tree)
