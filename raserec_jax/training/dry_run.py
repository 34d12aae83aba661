"""What a run would take: bytes on each device, bytes sent in a step, and whether it fits; nothing is trained.

Stage 1's step is compiled for the mesh and XLA is asked what it takes; what is computed by hand, from shapes, says so.
"""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from raserec_jax.batching.windows import training_examples
from raserec_jax.data.splits import Split
from raserec_jax.mesh import DATA, MODEL, default_devices, filled_up_shapes, on_mesh_shapes, use
from raserec_jax.training.collectives import Exchange, exchanges, sent_by_kind
from raserec_jax.training.objectives import Task
from raserec_jax.training.pretraining import make_encoder, make_feed, make_pretrain_task
from raserec_jax.training.pretraining import pretrain_optimizer as optimizer_of
from raserec_jax.training.semantic_stage import contrasts_semantics
from raserec_jax.training.state import create_state
from raserec_jax.training.steps import make_run_steps


class Needs(NamedTuple):
    """Bytes on each device, and what a step sends.

    parameters, optimizer, data: of stage 1.  memory: bank, queries and neighbours of stage 2, by shape.
    activations: what the compiled step takes beside its arguments and results.
    exchanges: of the compiled step.
    """

    parameters: int
    optimizer: int
    data: int
    memory: int
    activations: int
    exchanges: list[Exchange]

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.data + self.memory + self.activations


def dry_run(config, split: Split, mesh: Mesh | None) -> str:
    """The needs of a configuration on a mesh, in words; None = one device."""
    left_out = ""
    if contrasts_semantics(config):
        config = config.copy_and_resolve_references()
        config.sra_cl.update(inter_weight=0.0, intra_weight=0.0)
        left_out = "\nleft out: SRA-CL's tables and losses, which need the stage semantic"
    needs = compiled_needs(config, split, mesh)
    devices = default_devices()[:1] if mesh is None else list(mesh.devices.flat)
    limit, source = memory_limit(devices)
    spread = "one device" if mesh is None else f"each of {len(devices)} devices, {_words(mesh)}"
    rows = [
        ("parameters", needs.parameters, ""),
        ("optimizer", needs.optimizer, ""),
        ("data", needs.data, "the log and what indexes it"),
        ("memory", needs.memory, "computed: bank, queries and neighbours of stage 2"),
        ("activations", needs.activations, "of stage 1's compiled step"),
        ("in all", needs.total, f"of {_size(limit)} ({source})"),
    ]
    lines = [f"on {spread} ({devices[0].device_kind}):"]
    lines += [f"  {name:12} {_size(count):>10}  {words}".rstrip() for name, count, words in rows]
    lines.append(
        "it fits"
        if needs.total <= limit
        else "it does NOT fit: more devices along mesh.model "
        "for the item table, along mesh.data for activations"
    )
    if mesh is not None:
        lines += _exchange_lines(config, split, mesh, needs)
    return "\n".join(lines) + left_out


def compiled_needs(config, split: Split, mesh: Mesh | None) -> Needs:
    """Compiles stage 1's step for the mesh; without any array of the state."""
    if config.pretrain.batching.feed == "grain":  # the same step as of a log in memory
        config = config.copy_and_resolve_references()
        config.pretrain.batching.feed = "host"
    encoder = make_encoder(config, split.log.num_items)
    task = make_pretrain_task(config, encoder, split)
    optimizer = optimizer_of(config, task, config.pretrain.stopping.epochs)
    params = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    state, constants = step_shapes(task, optimizer, params, mesh)
    order = jax.eval_shape(task.order, task.constants, jax.random.key(0))
    most = min(config.checkpoint.steps_per_call, task.steps_per_epoch)
    if task.host_batches is not None:
        order = task.host_batches(
            np.asarray(task.order(task.constants, jax.random.key(0))), 0, 1, most
        )
    with use(mesh):
        lowered = make_run_steps(task, optimizer).lower(
            state, constants, order, 0, 1, jax.random.key(0), most=most
        )
    compiled = lowered.compile()
    told = compiled.memory_analysis()
    return Needs(
        bytes_on_device(state.params),
        bytes_on_device((state.opt_state, state.refreshed)),
        bytes_on_device(constants),
        memory_bytes(config, split, 1 if mesh is None else mesh.size),
        0 if told is None else int(told.temp_size_in_bytes),
        [] if mesh is None else exchanges(compiled.as_text(), mesh.size),
    )


def step_shapes(task: Task, optimizer, params: Any, mesh: Mesh | None) -> tuple[Any, Any]:
    """(state, constants) of a task's steps as shapes, with where they lie on the mesh."""
    put: Callable = (lambda tree: tree) if mesh is None else lambda tree: on_mesh_shapes(mesh, tree)
    params = params if mesh is None else filled_up_shapes(mesh, params)
    refreshes = task.refresh is not None
    state = jax.eval_shape(lambda p: create_state(p, optimizer, refreshes=refreshes), params)
    constants = jax.eval_shape(lambda c: c, task.constants)
    if mesh is not None:
        constants = filled_up_shapes(mesh, constants)
    return put(state), put(constants)


def memory_bytes(config, split: Split, devices: int) -> int:
    """Of the memory on each device: keys, four columns, and each training prefix's vector and neighbours."""
    examples = len(training_examples(split).lengths)
    key = config.encoder.dim * (2 if config.memory.key_dtype == "bfloat16" else 4)
    each = key + 4 * 4 + 4 * config.encoder.dim + 4 * config.memory.top_k
    return -(-examples // devices) * each


def bytes_on_device(tree: Any) -> int:
    """Of arrays or their shapes, what one device holds of them."""

    def held(leaf) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(held(leaf) for leaf in jax.tree.leaves(tree))


def memory_limit(devices: list) -> tuple[int, str]:
    """(bytes that each of the devices has, where they come from)."""
    devices = [
        one for one in devices if one.process_index == jax.process_index()
    ]  # others cannot be asked
    told = devices[0].memory_stats() or {}
    if "bytes_limit" in told:
        return int(told["bytes_limit"]), "the device's"
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return host // len(devices), "the host's" + (", shared" if len(devices) > 1 else "")


def computed_bytes(
    *, table_bytes: int, rest_bytes: int, vector_bytes: int, reads: int, places: int, mesh: Mesh
) -> dict[str, float]:
    """What each device sends in a step of stage 1 with the full softmax, by arithmetic, in a ring.

    Args:
      table_bytes, rest_bytes: of the whole item table, and of the other parameters.
      vector_bytes: of one vector of the width of the table.
      reads, places: of a batch.
    """
    data, model = mesh.shape[DATA], mesh.shape[MODEL]
    over_data, over_model = ((count - 1) / count for count in (data, model))
    return {
        # The table's comes from two sides, lookups and softmax.
        "gradients over data": 2 * over_data * (2 * table_bytes / model + rest_bytes),
        # Of the last block's input and of its attention, forward and backward; then the result, both ways.
        "places read, out of their rows and back, over data": 8 * over_data * reads * vector_bytes,
        "user vectors over data": 2 * over_data * reads * vector_bytes,
        "rows looked up, and gradients of user vectors, over model": 2
        * over_model
        * (places + 2 * reads)
        / data
        * vector_bytes,
    }


def computed_of(config, split: Split, mesh: Mesh, parameters: int) -> dict[str, float]:
    """`computed_bytes` of a configuration without contrast.

    Args:
      parameters: bytes of them on each device.
    """
    feed, dim = make_feed(config, split), config.encoder.dim
    table = 4 * dim * (split.log.num_items + 1)
    return computed_bytes(
        table_bytes=table,
        rest_bytes=parameters - -(-table // mesh.shape[MODEL]),
        vector_bytes=4 * dim,
        reads=feed.reads,
        places=feed.batch_rows * feed.row_len,
        mesh=mesh,
    )


def _exchange_lines(config, split: Split, mesh: Mesh, needs: Needs) -> list[str]:
    lines = ["sent by each device in a step, read from the compiled program:"]
    sent = sent_by_kind(needs.exchanges)
    for kind, (count, times) in sent.items():
        lines.append(f"  {kind:18} {_size(count):>10}  {times} times")
    lines.append(f"  {'in all':18} {_size(sum(count for count, _ in sent.values())):>10}")
    if config.pretrain.loss.next_item == "full" and config.pretrain.contrast.mode == "none":
        parts = computed_of(config, split, mesh, needs.parameters)
        lines.append("by arithmetic:")
        lines += [f"  {_size(count):>10}  {name}" for name, count in parts.items() if count]
        lines.append(f"  {_size(sum(parts.values())):>10}  in all")
    return lines


def _words(mesh: Mesh) -> str:
    return ",".join(f"{axis}:{size}" for axis, size in mesh.shape.items())


def _size(count: float | int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
