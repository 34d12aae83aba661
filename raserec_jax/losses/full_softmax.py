"""Cross-entropy over the whole catalogue, streamed: never all logits at once, forward or backward."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from raserec_jax.losses.reduction import weighted_mean
from raserec_jax.losses.repeats import PastItems, add_repeat_bias
from raserec_jax.losses.sharded_softmax import sharded_cross_entropy
from raserec_jax.losses.streamed import log_norm, log_norm_and_mean, make_chunks, norm_gradients
from raserec_jax.mesh import BATCH_ROWS, DATA, ITEM_ROWS, MODEL, in_force, rows_on
from raserec_jax.table_rows import add_rows, table_gradient_for

FEW_LOGITS_BYTES = 2**24
"""Up to here all logits of a batch are one chunk, which is kept for the gradient: one product of four is saved, and
fewer, larger products use two cores better (BUILD_NOTES 3). A constant, so memory never grows with the catalogue."""


def next_item_loss(
    query: Float[Array, "batch dim"],
    item_table: Float[Array, "rows dim"],
    target_ids: Int[Array, " batch"],
    weights: Float[Array, " batch"] | None = None,
    *,
    include_padding_class: bool = False,
    chunk_items: int = 0,
    past: PastItems | None = None,
    table_gradient: str = "auto",
    matmul_dtype: str = "float32",
    num_items: int = 0,
    frozen_table: bool = False,
) -> Float[Array, ""]:
    """Cross-entropy of the next item over the whole catalogue (RaSeRec eq. L_rec), in bounded memory.

    The catalogue is walked in chunks with a streamed log-sum-exp; the gradient recomputes each chunk, so peak
    memory is batch * chunk_items, whatever the catalogue. Where all logits are few (`default_chunk_items`) they are one
    chunk that is kept. On a mesh of devices each takes its rows of the batch against its rows of the catalogue
    (`sharded_softmax`), and keeps none.

    Args:
      query: user vectors; float32.
      item_table: row 0 = padding, rows 1.. = items.
      target_ids: 1..rows-1.
      weights: >= 0, 0 switches a row off; default 1.
      include_padding_class: count row 0 as a class, as the published code does.
      chunk_items: catalogue rows per chunk; 0 = what suits the device (`default_chunk_items`).
      past: each row's past items, if their scores have a repeat bias.
      table_gradient: how the gradients of targets that repeat are added up (`table_rows`).
      matmul_dtype: of the operands of the products with the catalogue (`products.einsum`).
      num_items: items of the catalogue, where a mesh filled the table up with further rows; 0 = all its rows.
      frozen_table: the table gets no gradient, and the query's is made in the forward pass: two products, not three.

    Returns:
      Weighted mean over rows, in nats; 0 if all weights are 0.

    Raises:
      ValueError: chunk_items < 0, or unknown table_gradient or matmul_dtype.
    """
    if chunk_items < 0:
        raise ValueError(f"chunk_items={chunk_items} must be at least 1, or 0 for the default")
    gradient, mesh = table_gradient_for(table_gradient), in_force()
    gradient = None if frozen_table else gradient
    if mesh is None:
        chunk_items = chunk_items or default_chunk_items(query.shape[0], item_table.shape[0])
        static = include_padding_class, chunk_items, matmul_dtype
        per_row = (
            _frozen_cross_entropy(query, item_table, target_ids, *static)
            if gradient is None
            else _cross_entropy(query, item_table, target_ids, *static, gradient)
        )
    else:
        own_rows = rows_on(mesh, BATCH_ROWS, query.shape[0]) // mesh.shape[DATA]
        own_items = rows_on(mesh, ITEM_ROWS, item_table.shape[0]) // mesh.shape[MODEL]
        chunk_items = chunk_items or default_chunk_items(own_rows, own_items)
        classes = (
            int(not include_padding_class),
            num_items + 1 if num_items else item_table.shape[0],
        )
        static = classes, chunk_items, matmul_dtype
        per_row = sharded_cross_entropy(query, item_table, target_ids, *static, gradient)
    return weighted_mean(per_row if past is None else add_repeat_bias(per_row, past), weights)


def default_chunk_items(batch: int, rows: int) -> int:
    """Catalogue rows per chunk: all where their logits are few (`FEW_LOGITS_BYTES`); else on a CPU a block of logits
    that stays in the second-level cache (about 1 MiB; BUILD_NOTES, stage 1), on an accelerator one that fills it."""
    if 4 * batch * rows <= FEW_LOGITS_BYTES:
        return rows
    if jax.default_backend() == "cpu":
        return max(128, min(1024, 2**18 // max(batch, 1) // 64 * 64))
    return 8192


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _cross_entropy(
    query, item_table, target_ids, include_padding_class, chunk_items, matmul_dtype, table_gradient
):
    chunks = make_chunks(item_table, int(not include_padding_class), chunk_items)
    return log_norm(query, chunks, matmul_dtype)[0] - _own_logits(query, item_table, target_ids)


def _cross_entropy_fwd(
    query, item_table, target_ids, include_padding_class, chunk_items, matmul_dtype, table_gradient
):
    chunks = make_chunks(item_table, int(not include_padding_class), chunk_items)
    norm, of_rest = log_norm(query, chunks, matmul_dtype)
    per_row = norm - _own_logits(query, item_table, target_ids)
    return per_row, (query, item_table, target_ids, norm, of_rest)


def _cross_entropy_bwd(
    include_padding_class, chunk_items, matmul_dtype, table_gradient, residuals, cotangent
):
    query, item_table, target_ids, norm, of_rest = residuals
    scaled = query * cotangent[:, None]
    chunks = make_chunks(item_table, int(not include_padding_class), chunk_items)
    grad_query, grad_table = norm_gradients(query, scaled, chunks, norm, matmul_dtype, of_rest)
    grad_query = (grad_query - item_table[target_ids]) * cotangent[:, None]
    return grad_query, add_rows(grad_table, target_ids, -scaled, table_gradient), None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _frozen_cross_entropy(
    query, item_table, target_ids, include_padding_class, chunk_items, matmul_dtype
):
    chunks = make_chunks(item_table, int(not include_padding_class), chunk_items)
    return log_norm(query, chunks, matmul_dtype)[0] - _own_logits(query, item_table, target_ids)


def _frozen_fwd(query, item_table, target_ids, include_padding_class, chunk_items, matmul_dtype):
    chunks = make_chunks(item_table, int(not include_padding_class), chunk_items)
    norm, mean = log_norm_and_mean(query, chunks, matmul_dtype)
    per_row = norm - _own_logits(query, item_table, target_ids)
    return per_row, mean - item_table[target_ids]


def _frozen_bwd(include_padding_class, chunk_items, matmul_dtype, gradient, cotangent):
    return gradient * cotangent[:, None], None, None


_frozen_cross_entropy.defvjp(_frozen_fwd, _frozen_bwd)


def _own_logits(query: Array, item_table: Array, target_ids: Array) -> Array:
    """[batch] score of each row's target."""
    return jnp.sum(query * item_table[target_ids], axis=1)
