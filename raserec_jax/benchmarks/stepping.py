"""Any task of the loop as something that can be timed: its compiled steps, its state, and the work of a step."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from raserec_jax.benchmarks.counting import (
    Work,
    adam_work,
    encoder_work,
    full_softmax_work,
    sampled_softmax_work,
    total,
)
from raserec_jax.losses import default_chunk_items
from raserec_jax.mesh import put_tree, use
from raserec_jax.training.collectives import Exchange, exchanges
from raserec_jax.training.objectives import Task
from raserec_jax.training.state import TrainState, create_state
from raserec_jax.training.steps import make_run_steps


class Stepper:
    """Steps of a task from the beginning of an epoch, again and again; the state goes on.

    Attributes:
      temp_bytes: that the compiled steps take beside state and data, as XLA tells.
    """

    def __init__(
        self,
        task: Task,
        optimizer,
        state: TrainState | dict,
        most: int,
        seed: int = 0,
        mesh: Mesh | None = None,
    ):
        """state: parameters, or a whole state that is taken over.  mesh: None = one device, as the training has it."""
        self.most, self.mesh = min(most, task.steps_per_epoch), mesh
        self.key = jax.random.key(seed)
        if not isinstance(state, TrainState):
            state = create_state(state, optimizer, refreshes=task.refresh is not None, mesh=mesh)
        self.state = state
        constants = task.constants
        if task.refresh is not None:
            constants = task.refresh(state.params, constants)
        if mesh is None:
            constants = jax.tree.map(jnp.asarray, constants)
        else:
            constants = put_tree(mesh, constants)
        self.constants = jax.block_until_ready(constants)
        self.order = task.order(self.constants, self.key)
        with use(mesh):
            lowered = make_run_steps(task, optimizer).lower(
                *self._arguments(0, self.most), most=self.most
            )
        self._compiled = lowered.compile()
        self.temp_bytes = temp_bytes(self._compiled)

    def _arguments(self, first: int, count: int) -> tuple[Any, ...]:
        first, count = jnp.int32(first), jnp.int32(count)
        return self.state, self.constants, self.order, first, count, self.key

    def exchanges(self) -> list[Exchange]:
        """The collectives of a step, read from the compiled program."""
        devices = 1 if self.mesh is None else self.mesh.size
        return exchanges(self._compiled.as_text(), devices)

    def run(self, steps: int) -> jax.Array:
        """The first steps of the epoch in one call."""
        self.state, losses, _ = self._compiled(*self._arguments(0, steps))
        return losses

    def run_one_by_one(self, steps: int) -> list[float]:
        """The same, a call for each step, whose loss the host waits for."""
        told = []
        for step in range(steps):
            self.state, losses, _ = self._compiled(*self._arguments(step, 1))
            told.append(float(np.asarray(losses)[0]))
        return told


def temp_bytes(compiled) -> int | None:
    """What a compiled program takes beside its arguments and results; None where XLA does not tell."""
    told = compiled.memory_analysis()
    return None if told is None else int(told.temp_size_in_bytes)


def recording(encoder) -> tuple[Any, list[tuple[int, int, int | None]]]:
    """The same encoder, and a list that gets (rows, seq, reads) of each pass that is traced."""
    passes: list[tuple[int, int, int | None]] = []

    class Recording(type(encoder)):
        def apply(self, variables, item_ids, *args, read=None, **kwargs):
            passes.append((*item_ids.shape, None if read is None else read[0].shape[0]))
            return super().apply(variables, item_ids, *args, read=read, **kwargs)

    fields = {name: getattr(encoder, name) for name in type(encoder).__dataclass_fields__}
    for of_flax in ("parent", "name"):
        fields.pop(of_flax, None)
    return Recording(**fields), passes


def step_work(config, task: Task, params: dict, passes: list, *, reads: int) -> Work:
    """What a step of stage 1 needs: its passes, as `recording` saw them, the loss and the update.

    Args:
      passes: emptied and filled again, by tracing the loss.
      reads: targets of a step.
    """
    encoder, loss = config.encoder, config.pretrain.loss
    table = params["item_table"]
    key, at = jax.random.key(0), jnp.int32(0)
    order = jax.eval_shape(task.order, task.constants, key)
    touched = None
    if task.touched is not None:
        touched = jax.eval_shape(task.touched, task.constants, order, at, key)
        small = params | {
            "item_table": jax.ShapeDtypeStruct((touched.shape[0], table.shape[1]), table.dtype)
        }
    passes.clear()
    if touched is None:
        jax.eval_shape(task.loss, params, task.constants, order, at, key)
    else:
        jax.eval_shape(
            lambda *a: task.loss(*a[:-1], rows=a[-1]),
            small,
            task.constants,
            order,
            at,
            key,
            touched,
        )
    sizes = {name: encoder[name] for name in ("dim", "inner_dim", "num_layers", "num_heads")}
    works = [
        encoder_work(rows=rows, seq=seq, reads=got, backward=True, **sizes)
        for rows, seq, got in passes
    ]
    items = table.shape[0] - 1
    rest = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) - math.prod(table.shape)
    if loss.next_item == "full":
        chunk = loss.chunk_items or default_chunk_items(reads, items + 1)
        works.append(
            full_softmax_work(
                targets=reads,
                items=items,
                dim=encoder.dim,
                chunk=min(chunk, items),
                kept=chunk >= items,
            )
        )
    else:
        # Dense updates are counted with the optimizer's.
        rows = 0 if touched is None else touched.shape[0]
        works.append(
            sampled_softmax_work(
                targets=reads, negatives=loss.num_negatives, touched=rows, dim=encoder.dim
            )
        )
    dense = rest + (math.prod(table.shape) if touched is None else 0)
    return total([*works, adam_work(dense)])
