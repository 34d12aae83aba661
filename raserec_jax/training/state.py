"""TrainState: everything a step changes, as one explicit tree."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from raserec_jax.mesh import put_tree, shardings_of


class TrainState(NamedTuple):
    """What a step takes and returns, and what a checkpoint holds.

    step: [] int32, steps done; with the seed it fixes the batch, the dropout and the draws of the next one.
    params: the trained parameters.
    opt_state: Optax's state for them.
    refreshed: parameters of the epoch at which the task last refreshed its constants; None if it never does.
    """

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState
    refreshed: dict | None = None


def create_state(
    params: dict,
    optimizer: optax.GradientTransformation,
    *,
    refreshes: bool = False,
    mesh: Mesh | None = None,
) -> TrainState:
    """A fresh state at step 0; it copies, as a step takes its state's memory over (donation).

    On a mesh every part of it is made where it belongs, item tables with rows of zeros until they divide evenly.
    """

    def fresh(params):
        kept = jax.tree.map(jnp.copy, params) if refreshes else None
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), kept)

    # Jitted, so that all of it is placed as the parameters are: a mixture would compile the step twice.
    if mesh is None:
        return jax.jit(fresh)(jax.tree.map(jnp.array, params))
    params = put_tree(mesh, params)
    shardings = shardings_of(mesh, jax.eval_shape(fresh, params))
    return jax.jit(fresh, out_shardings=shardings)(params)
