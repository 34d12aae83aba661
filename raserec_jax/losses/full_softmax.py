"""Cross-entropy over the whole catalogue, streamed: never all logits at once, forward or backward."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from raserec_jax.losses.reduction import weighted_mean
from raserec_jax.losses.repeats import PastItems, add_repeat_bias
from raserec_jax.products import einsum
from raserec_jax.table_rows import add_rows, table_gradient_for


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
) -> Float[Array, ""]:
    """Cross-entropy of the next item over the whole catalogue (RaSeRec eq. L_rec), never all logits at once.

    The catalogue is walked in chunks with a streamed log-sum-exp; the gradient recomputes each chunk, so peak
    memory is batch * chunk_items, whatever the catalogue.

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

    Returns:
      Weighted mean over rows, in nats; 0 if all weights are 0.

    Raises:
      ValueError: chunk_items < 0, or unknown table_gradient or matmul_dtype.
    """
    if chunk_items < 0:
        raise ValueError(f"chunk_items={chunk_items} must be at least 1, or 0 for the default")
    chunk_items = chunk_items or default_chunk_items(query.shape[0])
    gradient = table_gradient_for(table_gradient)
    static = include_padding_class, chunk_items, gradient, matmul_dtype
    per_row = _cross_entropy(query, item_table, target_ids, *static)
    return weighted_mean(per_row if past is None else add_repeat_bias(per_row, past), weights)


def default_chunk_items(batch: int) -> int:
    """Catalogue rows per chunk: on a CPU a block of logits that stays in the second-level cache (about 1 MiB, half
    the time of one that does not: BUILD_NOTES, stage 1), on an accelerator one that fills it."""
    if jax.default_backend() == "cpu":
        return max(128, min(1024, 2**18 // max(batch, 1) // 64 * 64))
    return 8192


SAFE_LOGIT = 60.0
"""Logits within +-60 are exponentiated as they are: neither exp nor a sum over any catalogue leaves float32."""


def _chunks(
    item_table: Array, chunk_items: int, include_padding_class: bool
) -> tuple[Array, Array]:
    """The rows that are classes: as many full chunks as there are, [chunks, chunk, dim], and the rest, [rest, dim]."""
    classes = item_table if include_padding_class else item_table[1:]
    rows, dim = classes.shape
    chunk = min(chunk_items, rows)
    full = rows // chunk
    return classes[: full * chunk].reshape(full, chunk, dim), classes[full * chunk :]


def _log_norm(
    query: Array, chunks: Array, rest: Array, item_table: Array, matmul_dtype: str
) -> Array:
    """log sum exp of each row's logits.

    By Cauchy and Schwarz no logit is above |query| |item|. While that is small, as it is in a healthy run, the streamed
    maximum is not needed, which takes as long as the exponentials on a CPU; otherwise it is.
    """
    norms = (jnp.max(jnp.sum(x * x, axis=1)) for x in (query, item_table))
    bound = jnp.sqrt(math.prod(norms))

    def plain():
        def summed(chunk):  # a product with ones: the quickest sum on a CPU
            return jnp.exp(_logits(query, chunk, matmul_dtype)) @ jnp.ones(
                chunk.shape[0], query.dtype
            )

        def step(total, chunk):
            return total + summed(chunk), None

        return jnp.log(jax.lax.scan(step, summed(rest), chunks)[0])

    def shifted():
        def step(carry, chunk):
            top, total = carry
            logits = _logits(query, chunk, matmul_dtype)
            new_top = jnp.maximum(top, jnp.max(logits, axis=1, initial=-1e30))
            kept = total * jnp.exp(top - new_top)
            return (new_top, kept + jnp.sum(jnp.exp(logits - new_top[:, None]), axis=1)), None

        # A finite start: a rest without any row must not give inf - inf.
        start = (jnp.full(query.shape[0], -1e30, query.dtype), jnp.zeros_like(query[:, 0]))
        top, total = jax.lax.scan(step, step(start, rest)[0], chunks)[0]
        return top + jnp.log(total)

    return jax.lax.cond(bound <= SAFE_LOGIT, plain, shifted)


def _logits(query: Array, chunk: Array, matmul_dtype: str) -> Array:
    """[batch, chunk]; the target's own logit, a single product per row, is never rounded."""
    return einsum("bd,id->bi", query, chunk, matmul_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _cross_entropy(
    query, item_table, target_ids, include_padding_class, chunk_items, table_gradient, matmul_dtype
):
    static = include_padding_class, chunk_items, table_gradient, matmul_dtype
    return _cross_entropy_fwd(query, item_table, target_ids, *static)[0]


def _cross_entropy_fwd(
    query, item_table, target_ids, include_padding_class, chunk_items, table_gradient, matmul_dtype
):
    chunks, rest = _chunks(item_table, chunk_items, include_padding_class)
    log_norm = _log_norm(query, chunks, rest, item_table, matmul_dtype)
    target_logits = jnp.sum(query * item_table[target_ids], axis=1)
    return log_norm - target_logits, (query, item_table, target_ids, log_norm)


def _cross_entropy_bwd(
    include_padding_class, chunk_items, table_gradient, matmul_dtype, residuals, cotangent
):
    query, item_table, target_ids, log_norm = residuals
    scaled = query * cotangent[:, None]

    def gradients(chunk):
        probabilities = jnp.exp(_logits(query, chunk, matmul_dtype) - log_norm[:, None])
        # [dim, chunk]: this way round the small side is transposed, not the block of probabilities.
        grad_chunk = einsum("bd,bi->di", scaled, probabilities, matmul_dtype)
        return einsum("bi,id->bd", probabilities, chunk, matmul_dtype), grad_chunk

    def step(grad_query, chunk):
        own, grad_chunk = gradients(chunk)
        return grad_query + own, grad_chunk

    chunks, rest = _chunks(item_table, chunk_items, include_padding_class)
    grad_query, grad_rest = gradients(rest)
    grad_query, grad_chunks = jax.lax.scan(step, grad_query, chunks)
    grad_query = (grad_query - item_table[target_ids]) * cotangent[:, None]
    dim = item_table.shape[1]
    parts = [grad_chunks.transpose(0, 2, 1).reshape(-1, dim), grad_rest.T]
    if not include_padding_class:
        parts = [jnp.zeros((1, dim), item_table.dtype), *parts]
    grad_table = add_rows(jnp.concatenate(parts), target_ids, -scaled, table_gradient)
    return grad_query, grad_table, None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)
