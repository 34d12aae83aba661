"""Users and items of an evaluation over the devices of a mesh: users over `data`, rows of the item table over `model`.

Mixed scores divide by a sum over the whole catalogue, whose last bits depend on the order of the terms: for these the
table is on every device, and the users lie over all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from raserec_jax.evaluation.item_scores import Scores
from raserec_jax.mesh import (
    BATCH_ROWS,
    ITEM_ROWS,
    MEMORY_ROWS,
    MODEL,
    REPLICATED,
    placed,
    put,
    put_everywhere,
)


def parts_on(
    mesh: Mesh, scores: Scores, rows: Any, item_table: Array | np.ndarray
) -> tuple[Scores, Any, Array]:
    """The arguments of `over_parts` where they belong, filled up with rows of zeros.

    Args:
      rows: a tree of arrays with a row for each user.
    """
    users, items = _specs(scores)
    scalars = put_everywhere(mesh, {"mix": scores.mix, "repeat_bias": scores.repeat_bias})
    by_user, rows = jax.tree.map(lambda one: put(mesh, users, one), (scores.by_user(), rows))
    return by_user._replace(**scalars), rows, put(mesh, items, item_table)


def over_parts(
    mesh: Mesh, of_device: Callable, scores: Scores, rows: Any, item_table: Array, num_users: int
) -> Any:
    """of_device(scores, rows, item_table, first_id=, axis=) on every device with its users and items; in jit.

    Args:
      of_device: returns arrays with a row for each user, the same on all devices that have these users.
      num_users: how many of the rows are no filling.

    Returns:
      what `of_device` does, of all users, on every device.
    """
    users, items = _specs(scores)

    def part(scores, rows, item_table):
        if items == REPLICATED:
            return of_device(scores, rows, item_table, first_id=0, axis=None)
        first_id = lax.axis_index(MODEL) * item_table.shape[0]
        return of_device(scores, rows, item_table, first_id=first_id, axis=MODEL)

    of_users = jax.tree.map(lambda _: users, scores.by_user())
    of_scores = of_users._replace(
        mix=None if scores.mix is None else REPLICATED,
        repeat_bias=None if scores.repeat_bias is None else REPLICATED,
    )
    # check_vma off: scans begin with constants, which are alike everywhere, and end with each device's own.
    found = jax.shard_map(
        part, mesh=mesh, in_specs=(of_scores, users, items), out_specs=users, check_vma=False
    )(scores, rows, item_table)
    return jax.tree.map(
        lambda one: lax.with_sharding_constraint(one[:num_users], placed(mesh, REPLICATED)), found
    )


def _specs(scores: Scores) -> tuple[PartitionSpec, PartitionSpec]:
    """Where users and items lie."""
    return (BATCH_ROWS, ITEM_ROWS) if scores.mix is None else (MEMORY_ROWS, REPLICATED)
