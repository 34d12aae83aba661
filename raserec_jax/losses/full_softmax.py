"""Cross-entropy over the whole catalogue, streamed: never all logits at once, forward or backward."""

import functools
from typing import NamedTuple

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


class _Chunks(NamedTuple):
    """The classes of a table as `full` chunks of `rows` from row `first` on, and a rest from row `rest` on.

    Each is sliced where it is used: chunks stacked beforehand would be a copy of the table.
    """

    table: Array
    first: int
    rows: int
    full: int

    @property
    def rest(self) -> int:
        return self.first + self.full * self.rows

    def start(self, at: Array) -> Array:
        return self.first + at * self.rows

    def of(self, at: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(self.table, self.start(at), self.rows)

    def walk(self, step, start):
        """step(at, carry) over all full chunks."""
        return jax.lax.fori_loop(0, self.full, step, start)


def _chunks(item_table: Array, chunk_items: int, include_padding_class: bool) -> _Chunks:
    first = 0 if include_padding_class else 1
    classes = item_table.shape[0] - first
    chunk = min(chunk_items, classes)
    return _Chunks(item_table, first, chunk, classes // chunk)


def _log_norm(query: Array, chunks: _Chunks, matmul_dtype: str) -> Array:
    """log sum exp of each row's logits.

    By Cauchy and Schwarz no logit is above |query| |item|. While that is small, as it is in a healthy run, the streamed
    maximum is not needed, which takes as long as the exponentials on a CPU; otherwise it is.
    """
    rest = chunks.table[chunks.rest :]

    def largest(rows):
        return jnp.max(jnp.sum(rows * rows, axis=1), initial=0.0)

    def widest(at, norm):
        return jnp.maximum(norm, largest(chunks.of(at)))

    bound = jnp.sqrt(largest(query) * chunks.walk(widest, largest(rest)))

    def plain():
        def summed(rows):  # a product with ones: the quickest sum on a CPU
            exps = jnp.exp(_logits(query, rows, matmul_dtype))
            return exps @ jnp.ones(rows.shape[0], query.dtype)

        return jnp.log(chunks.walk(lambda at, total: total + summed(chunks.of(at)), summed(rest)))

    def shifted():
        def add(carry, rows):
            top, total = carry
            logits = _logits(query, rows, matmul_dtype)
            new_top = jnp.maximum(top, jnp.max(logits, axis=1, initial=-1e30))
            kept = total * jnp.exp(top - new_top)
            return new_top, kept + jnp.sum(jnp.exp(logits - new_top[:, None]), axis=1)

        # A finite start: a rest without any row must not give inf - inf.
        start = (jnp.full(query.shape[0], -1e30, query.dtype), jnp.zeros_like(query[:, 0]))
        start = add(start, rest)
        top, total = chunks.walk(lambda at, carry: add(carry, chunks.of(at)), start)
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
    chunks = _chunks(item_table, chunk_items, include_padding_class)
    log_norm = _log_norm(query, chunks, matmul_dtype)
    target_logits = jnp.sum(query * item_table[target_ids], axis=1)
    return log_norm - target_logits, (query, item_table, target_ids, log_norm)


def _cross_entropy_bwd(
    include_padding_class, chunk_items, table_gradient, matmul_dtype, residuals, cotangent
):
    query, item_table, target_ids, log_norm = residuals
    scaled = query * cotangent[:, None]

    def gradients(rows):
        probabilities = jnp.exp(_logits(query, rows, matmul_dtype) - log_norm[:, None])
        # [dim, chunk]: this way round the small side is transposed, not the block of probabilities.
        grad_rows = einsum("bd,bi->di", scaled, probabilities, matmul_dtype)
        own = einsum("bi,id->bd", probabilities, rows, matmul_dtype)
        # The barrier keeps XLA from turning that product round to save the transpose.
        return own, jax.lax.optimization_barrier(grad_rows).T

    def step(at, carry):
        grad_query, grad_table = carry
        own, grad_rows = gradients(chunks.of(at))
        # In place: a stack of the chunks' gradients would be a second table.
        grad_table = jax.lax.dynamic_update_slice_in_dim(
            grad_table, grad_rows, chunks.start(at), axis=0
        )
        return grad_query + own, grad_table

    chunks = _chunks(item_table, chunk_items, include_padding_class)
    grad_query, grad_rest = gradients(item_table[chunks.rest :])
    grad_table = jnp.zeros_like(item_table).at[chunks.rest :].set(grad_rest)
    grad_query, grad_table = chunks.walk(step, (grad_query, grad_table))
    grad_query = (grad_query - item_table[target_ids]) * cotangent[:, None]
    return grad_query, add_rows(grad_table, target_ids, -scaled, table_gradient), None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)
