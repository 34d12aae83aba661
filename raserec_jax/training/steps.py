"""The program that trains: many steps of a task in one device call."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from raserec_jax.mesh import everywhere, pinned
from raserec_jax.training.objectives import Task
from raserec_jax.training.optimizer import SkipState
from raserec_jax.training.state import TrainState
from raserec_jax.training.touched_rows import TABLE, apply_row_updates, gather_rows


def make_run_steps(task: Task, optimizer: optax.GradientTransformation) -> Callable:
    """A jitted function that runs `count` steps (traced, at most `most`) in one device call.

    (state, constants, order, first_step_in_epoch, count, key, most) -> (state, losses [most], metric sums);
    losses beyond `count` are 0. In place of the order come the call's batches, and then first is 0, for a task with
    `host_batches` or `stream`. Where the optimizer skips steps that are not finite, their losses come back as they
    are and count for nothing in the sums.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def run_steps(state, constants, order, first, count, key, most):
        if task.batches is not None:
            order = everywhere(task.batches(constants, order, first, count, most))
        if task.batches or task.host_batches or task.stream:
            first = 0  # as a constant in both cases, or XLA would fuse, and so round, the steps differently

        def one(i, carry):
            state, losses, sums = carry
            at = (constants, order, first + i, jax.random.fold_in(key, state.step))
            gradients = jax.value_and_grad(task.loss, has_aux=True)
            if task.touched is None:
                (loss, metrics), grads = gradients(state.params, *at)
                updates, opt_state = optimizer.update(
                    pinned(grads), state.opt_state, state.params, value=loss
                )
                params = optax.apply_updates(state.params, updates)
            else:
                rows = task.touched(*at)
                small = state.params | {TABLE: gather_rows(state.params[TABLE], rows)}
                (loss, metrics), grads = gradients(small, *at, rows=rows)
                updates, opt_state = optimizer.update(
                    everywhere(grads), state.opt_state, small, value=loss, rows=rows
                )
                params = apply_row_updates(state.params, updates, rows)
            if isinstance(opt_state, SkipState):
                metrics = {
                    name: jnp.where(jnp.isfinite(loss), value, 0) for name, value in metrics.items()
                }
            sums = {name: sums[name] + value for name, value in metrics.items()}
            state = pinned(TrainState(state.step + 1, params, opt_state, state.refreshed))
            return state, losses.at[i].set(loss), sums

        shapes = jax.eval_shape(task.loss, state.params, constants, order, first, key)[1]
        sums = {name: jnp.zeros((), shape.dtype) for name, shape in shapes.items()}
        return jax.lax.fori_loop(0, count, one, (state, jnp.zeros(most), sums))

    return jax.jit(run_steps, static_argnames="most", donate_argnums=0)
