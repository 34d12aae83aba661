"""Rows of a table by their ids, with a gradient that does not suffer from ids that repeat.

The gradient of a plain gather is a scatter-add. On a GPU it goes through atomic adds: 450 to 2,000 times slower under
repeated ids in jaxlib 0.10.2 and 0.11.0 (openxla/xla#46225), and in another order each time. Items, targets and, most
of all, positions and padding repeat in every batch. What a table's rows mean is left to others.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

TABLE_GRADIENTS = ("auto", "scatter", "sorted", "repeatable")
"""How gradients of rows with one id are added up.

scatter: as they come.  sorted: by rising id, so that equal ones are neighbours.  repeatable: the same bits in whatever
order they come or the device adds.  auto: scatter on a CPU, else sorted.
"""


def table_gradient_for(how: str) -> str:
    """What `how` means on this device.

    Raises:
      ValueError: unknown `how`.
    """
    if how not in TABLE_GRADIENTS:
        raise ValueError(
            f"table_gradient={how!r} is unknown; use one of {', '.join(TABLE_GRADIENTS)}"
        )
    if how != "auto":
        return how
    return "scatter" if jax.default_backend() == "cpu" else "sorted"


def take_rows(
    table: Float[Array, "rows dim"], ids: Int[Array, "*places"], how: str = "auto"
) -> Float[Array, "*places dim"]:
    """table[ids], with the gradient that `how` says (`TABLE_GRADIENTS`); ids are rows of the table."""
    how = table_gradient_for(how)
    return table[ids] if how == "scatter" else _take(table, ids, table.shape[0], how)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _take(table, ids, rows, how):
    return table[ids]


def _take_fwd(table, ids, rows, how):
    return table[ids], ids


def _take_bwd(rows, how, ids, grad):
    grad = grad.reshape(-1, grad.shape[-1])
    zeros = jnp.zeros((rows, grad.shape[-1]), grad.dtype)
    return add_rows(zeros, ids.reshape(-1), grad, how), None


_take.defvjp(_take_fwd, _take_bwd)


def add_rows(
    table: Float[Array, "rows dim"],
    ids: Int[Array, " places"],
    values: Float[Array, "places dim"],
    how: str = "auto",
) -> Float[Array, "rows dim"]:
    """The table with `values` added to the rows `ids`; equal ids add up, as `how` says (`TABLE_GRADIENTS`)."""
    how = table_gradient_for(how)
    if how == "scatter":
        return table.at[ids].add(values)
    order = jnp.argsort(ids)
    ids, values = ids[order], values[order].astype(table.dtype)
    if how == "sorted":
        return table.at[ids].add(values, indices_are_sorted=True)
    # Side by side: XLA makes one scatter of a sum of two, and what is added to is then no longer exact.
    parts = jnp.concatenate(_exact_parts(values), axis=1)
    sums = jnp.zeros((table.shape[0], parts.shape[1]), table.dtype)
    sums = sums.at[ids].add(parts, indices_are_sorted=True)
    return table + sum(jnp.split(sums, parts.shape[1] // table.shape[1], axis=1))


def _exact_parts(values: Array) -> list[Array]:
    """Parts that add up to the values, each of them integers times a power of two so large that any sum of them is
    exact, in whatever order (Demmel & Nguyen 2013); what is left is below 2^-32 of the largest value, and dropped."""
    digits = jnp.finfo(values.dtype).nmant
    spare = math.ceil(math.log2(max(values.shape[0], 2)))  # digits that a sum of all values takes
    # The largest value is below 2^exponent. Below 2^-60 nothing of a gradient matters, and 1 / unit stays finite.
    exponent = jnp.maximum(_exponent(jnp.max(jnp.abs(values), initial=0.0)) + 1, -60)
    assert spare < digits, "more values than a float has digits for"
    parts = []
    while len(parts) * (digits + 1 - spare) < 32:
        exponent = exponent - (0 if not parts else digits + 1 - spare)
        places = digits - spare - exponent
        part = jnp.round(values * _power(places, values.dtype)) * _power(-places, values.dtype)
        parts.append(part)
        values = values - part
    return parts


def _exponent(x: Array) -> Array:
    """floor(log2 x) of a positive number, from its bits; what comes of 0 is smaller than that of any other number."""
    info = jnp.finfo(x.dtype)
    bits = jax.lax.bitcast_convert_type(x, f"int{info.bits}")
    return (bits >> info.nmant) - (info.maxexp - 1)


def _power(exponent: Array, dtype) -> Array:
    """2^exponent, exactly; `jnp.ldexp` and `jnp.exp2` are a rounding away from it on some devices."""
    info = jnp.finfo(dtype)
    bits = (exponent + (info.maxexp - 1)).astype(f"int{info.bits}") << info.nmant
    return jax.lax.bitcast_convert_type(bits, dtype)
