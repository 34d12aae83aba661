"""Cross-entropy over a catalogue that lies over several devices: each streams its own rows, for its own queries.

Rows of the table lie over `model`, rows of the batch over `data`. What is exchanged: one number per query for the
normaliser and one for the target's logit, forward; backward, the queries' gradients over `model`, those of a device's
rows of the table over `data`. Neither logits nor the table leave a device (Megatron-LM's vocabulary-parallel loss,
streamed).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from raserec_jax.losses.streamed import log_norm, log_norm_and_mean, make_chunks, norm_gradients
from raserec_jax.mesh import BATCH_ROWS, DATA, ITEM_ROWS, MODEL, in_force, rows_on
from raserec_jax.table_rows import add_rows


def sharded_cross_entropy(
    query: Float[Array, "batch dim"],
    item_table: Float[Array, "rows dim"],
    target_ids: Int[Array, " batch"],
    classes: tuple[int, int],
    chunk_items: int,
    matmul_dtype: str,
    table_gradient: str | None,
) -> Float[Array, " batch"]:
    """Loss of each row, in nats; under a mesh of several devices.

    Args:
      query, item_table, target_ids: as in `next_item_loss`; neither needs rows that divide evenly.
      classes: (first, end) rows of the table that are classes; those beyond are there to fill up.
      chunk_items, matmul_dtype, table_gradient: as in `next_item_loss`; chunk_items at least 1; table_gradient None for
        a table that gets no gradient.
    """
    mesh, batch = in_force(), query.shape[0]
    assert mesh is not None, "called under a mesh"
    missing = rows_on(mesh, BATCH_ROWS, batch) - batch
    rows = rows_on(mesh, ITEM_ROWS, item_table.shape[0])
    filled = (
        jnp.pad(query, ((0, missing), (0, 0))),
        jnp.pad(item_table, ((0, rows - item_table.shape[0]), (0, 0))),
        jnp.pad(target_ids, (0, missing)),
    )
    static = classes, chunk_items, matmul_dtype
    if table_gradient is None:
        return _frozen_cross_entropy(*filled, *static)[:batch]
    return _cross_entropy(*filled, *static, table_gradient)[:batch]


def _on_each_device(function, inputs: tuple, outputs):
    """The function of one device's rows, over the mesh in force."""
    return jax.shard_map(
        function, mesh=in_force(), in_specs=inputs, out_specs=outputs, check_vma=False
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _cross_entropy(query, item_table, target_ids, *static):
    return _cross_entropy_fwd(query, item_table, target_ids, *static)[0]


def _cross_entropy_fwd(query, item_table, target_ids, *static):
    classes, chunk_items, matmul_dtype, _ = static

    def local(query, table, target_ids):
        chunks, place, inside = _own_part(table, target_ids, classes, chunk_items)
        norm = _norm_of_all(log_norm(query, chunks, matmul_dtype)[0])
        target_logit = jnp.sum(query * jnp.where(inside[:, None], table[place], 0.0), axis=1)
        return norm, jax.lax.psum(target_logit, MODEL)

    inputs = (BATCH_ROWS, ITEM_ROWS, BATCH_ROWS)
    norm, target_logit = _on_each_device(local, inputs, (BATCH_ROWS, BATCH_ROWS))(
        query, item_table, target_ids
    )
    return norm - target_logit, (query, item_table, target_ids, norm)


def _cross_entropy_bwd(classes, chunk_items, matmul_dtype, table_gradient, residuals, cotangent):
    def local(query, table, target_ids, norm, cotangent):
        chunks, place, inside = _own_part(table, target_ids, classes, chunk_items)
        scaled = query * cotangent[:, None]
        grad_query, grad_table = norm_gradients(query, scaled, chunks, norm, matmul_dtype)
        inside = inside[:, None]
        grad_query = grad_query - jnp.where(inside, table[place], 0.0)
        grad_table = add_rows(grad_table, place, jnp.where(inside, -scaled, 0.0), table_gradient)
        grad_query = jax.lax.psum(grad_query * cotangent[:, None], MODEL)
        return grad_query, jax.lax.psum(grad_table, DATA)

    inputs = (BATCH_ROWS, ITEM_ROWS, BATCH_ROWS, BATCH_ROWS, BATCH_ROWS)
    grads = _on_each_device(local, inputs, (BATCH_ROWS, ITEM_ROWS))(*residuals, cotangent)
    return *grads, None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _frozen_cross_entropy(query, item_table, target_ids, *static):
    return _cross_entropy_fwd(query, item_table, target_ids, *static, None)[0]


def _frozen_fwd(query, item_table, target_ids, classes, chunk_items, matmul_dtype):
    def local(query, table, target_ids):
        chunks, place, inside = _own_part(table, target_ids, classes, chunk_items)
        own, mean = log_norm_and_mean(query, chunks, matmul_dtype)
        norm = _norm_of_all(own)
        mean = jax.lax.psum(mean * jnp.exp(own - norm)[:, None], MODEL)
        target = jax.lax.psum(jnp.where(inside[:, None], table[place], 0.0), MODEL)
        return norm - jnp.sum(query * target, axis=1), mean - target

    inputs = (BATCH_ROWS, ITEM_ROWS, BATCH_ROWS)
    return _on_each_device(local, inputs, (BATCH_ROWS, BATCH_ROWS))(query, item_table, target_ids)


def _frozen_bwd(classes, chunk_items, matmul_dtype, gradient, cotangent):
    return gradient * cotangent[:, None], None, None


_frozen_cross_entropy.defvjp(_frozen_fwd, _frozen_bwd)


def _norm_of_all(own: Array) -> Array:
    """Inside a device: the log-sum-exp over all devices' classes, from that over its own."""
    top = jax.lax.pmax(own, MODEL)
    return top + jnp.log(jax.lax.psum(jnp.exp(own - top), MODEL))


def _own_part(table: Array, target_ids: Array, classes: tuple[int, int], chunk_items: int):
    """Inside a device: its classes in chunks, where targets stand in its part of the table, and which do."""
    first_row = jax.lax.axis_index(MODEL) * table.shape[0]
    counted = classes[0] - first_row, classes[1] - first_row
    place = target_ids - first_row
    inside = (place >= 0) & (place < table.shape[0])
    return make_chunks(table, 0, chunk_items, counted), jnp.where(inside, place, 0), inside
