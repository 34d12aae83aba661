"""Steps whose cost does not grow with the catalogue: only the rows of the item table that a batch touches are read,
differentiated and updated.

The rows are gathered into a small table; ids of the batch become places in it, and encoder and loss run as they would
on the whole. Adam keeps its moments for every row and changes those of the touched ones only ("lazy" Adam): a row that
is not touched neither moves by its momentum nor decays, which is what makes the step cheap and is a different
optimiser from the dense one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from raserec_jax.mesh import ITEM_TABLE, everywhere

TABLE = ITEM_TABLE
BEYOND = 2**31 - 1
"""A row that no table has."""


class LazyAdamState(NamedTuple):
    """count: [] int32, steps.  mu, nu: moments, trees as the parameters, the item table's for all of its rows."""

    count: Array
    mu: dict
    nu: dict


def touched_rows(*ids: Array, num_items: int) -> Int[Array, " budget"]:
    """The distinct ids in rising order, row 0 among them; rows beyond the table after the last.

    The budget is the number of ids given, one more for row 0, at most the table's rows.
    """
    flat = jnp.concatenate([jnp.zeros(1, jnp.int32), *(one.reshape(-1) for one in ids)])
    budget = min(flat.shape[0], num_items + 1)
    return jnp.unique(flat, size=budget, fill_value=BEYOND)


def gather_rows(table: Array, rows: Int[Array, " budget"]) -> Array:
    """[budget, ...] rows of the table; zeros for those beyond it."""
    return everywhere(table.at[rows].get(mode="fill", fill_value=0, indices_are_sorted=True))


def set_rows(table: Array, rows: Int[Array, " budget"], values: Array) -> Array:
    """The table with `values` in those rows; what is beyond it is left out."""
    return table.at[rows].set(values, mode="drop", indices_are_sorted=True, unique_indices=True)


def places_of(rows: Int[Array, " budget"], ids: Array) -> Array:
    """Where each id stands among the touched rows; every one of them must be touched."""
    return jnp.searchsorted(rows, ids).astype(ids.dtype)


def apply_row_updates(params: dict, updates: dict, rows: Int[Array, " budget"]) -> dict:
    """`optax.apply_updates`, but the item table's updates are those of its touched rows."""
    rest = {name: value for name, value in params.items() if name != TABLE}
    others = {name: value for name, value in updates.items() if name != TABLE}
    moved = gather_rows(params[TABLE], rows) + updates[TABLE]
    table = set_rows(params[TABLE], rows, moved)
    return optax.apply_updates(rest, others) | {TABLE: table}


def scale_by_lazy_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Adam whose update takes `rows=` and gradients of the touched rows in place of the item table's.

    Bias is corrected by the number of all steps, as in other lazy Adams.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LazyAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(grads, state, params=None, *, rows, **_):
        del params
        count = state.count + 1

        def moments(old, power, decay):
            """(moments of what was touched, all moments)."""
            small = old | {TABLE: gather_rows(old[TABLE], rows)}
            new = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g**power, small, grads)
            return new, new | {TABLE: set_rows(old[TABLE], rows, new[TABLE])}

        mu, all_mu = moments(state.mu, 1, b1)
        nu, all_nu = moments(state.nu, 2, b2)
        first, second = (1 - decay ** count.astype(jnp.float32) for decay in (b1, b2))
        updates = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + eps), mu, nu)
        return updates, LazyAdamState(count, all_mu, all_nu)

    return optax.GradientTransformationExtraArgs(init, update)
