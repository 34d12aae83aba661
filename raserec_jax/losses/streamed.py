"""The classes of a softmax in chunks: its normaliser and its gradients, never all logits at once.

What is a class and how targets enter is left to `full_softmax` (one device) and `sharded_softmax` (a mesh).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from raserec_jax.products import einsum

SAFE_LOGIT = 60.0
"""Logits within +-60 are exponentiated as they are: neither exp nor a sum over any catalogue leaves float32."""


class Chunks(NamedTuple):
    """The classes of a table as `full` chunks of `rows` from row `first` on, and a rest from row `rest` on.

    Each is sliced where it is used: chunks stacked beforehand would be a copy of the table. The rest may be all.

    counted: (from, to), traced: the rows of the table that are classes; None = all from `first` on.
    """

    table: Array
    first: int
    rows: int
    full: int
    counted: tuple[Array, Array] | None = None

    @property
    def rest(self) -> int:
        return self.first + self.full * self.rows

    def start(self, at: Array) -> Array:
        return self.first + at * self.rows

    def of(self, at: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(self.table, self.start(at), self.rows)

    def walk(self, step, start):
        """step(at, carry) over all full chunks."""
        return jax.lax.fori_loop(0, self.full, step, start) if self.full else start

    def classes_of(self, at: Array) -> Array | None:
        """[rows] bool, which rows of a chunk are classes; None = all."""
        return None if self.counted is None else self._counted(self.start(at), self.rows)

    def classes_of_rest(self) -> Array | None:
        """The same of the rest."""
        rows = self.table.shape[0] - self.rest
        return None if self.counted is None else self._counted(self.rest, rows)

    def _counted(self, start: int | Array, rows: int) -> Array:
        row = start + jnp.arange(rows, dtype=jnp.int32)
        return (row >= self.counted[0]) & (row < self.counted[1])


def make_chunks(
    table: Array, first: int, chunk_items: int, counted: tuple[Array, Array] | None = None
) -> Chunks:
    """Chunks of `chunk_items` rows and a rest of fewer; the fields as in `Chunks`."""
    return Chunks(table, first, chunk_items, (table.shape[0] - first) // chunk_items, counted)


def log_norm(
    query: Float[Array, "batch dim"], chunks: Chunks, matmul_dtype: str
) -> tuple[Float[Array, " batch"], Float[Array, "batch rest"]]:
    """log sum exp of each row's logits, -1e30 or less where there is no class; and the logits of the rest, to be kept.

    By Cauchy and Schwarz no logit is above |query| |item|. While that is small, as it is in a healthy run, the streamed
    maximum is not needed, which takes as long as the exponentials on a CPU; otherwise it is.
    """

    def plain():
        def add(total, logits, rows, classes):  # a product with ones: the quickest sum on a CPU
            ones = jnp.ones(rows.shape[0], query.dtype)
            return total + jnp.exp(logits) @ (
                ones if classes is None else classes.astype(query.dtype)
            )

        total, rest = _walk(query, chunks, matmul_dtype, add, jnp.zeros_like(query[:, 0]))
        return jnp.log(total), rest

    def shifted():
        def add(carry, logits, rows, classes):
            top, total = carry
            logits = _masked(logits, classes)
            new_top = jnp.maximum(top, jnp.max(logits, axis=1, initial=-1e30))
            scaled = total * jnp.exp(top - new_top)
            return new_top, scaled + jnp.sum(jnp.exp(logits - new_top[:, None]), axis=1)

        (top, total), rest = _walk(query, chunks, matmul_dtype, add, _nothing(query))
        return top + jnp.log(total), rest

    return jax.lax.cond(_bound(query, chunks) <= SAFE_LOGIT, plain, shifted)


def log_norm_and_mean(
    query: Float[Array, "batch dim"], chunks: Chunks, matmul_dtype: str
) -> tuple[Float[Array, " batch"], Float[Array, "batch dim"]]:
    """As `log_norm`, and its gradient to the query, which is the mean of the rows under the softmax, in one pass.

    Two products instead of three: for a table that is not trained, whose gradient would need the logits again.
    """

    def weighted(weights, rows):
        return einsum("bi,id->bd", weights, rows, matmul_dtype)

    def plain():
        def add(carry, logits, rows, classes):
            total, mean = carry
            exps = jnp.exp(_masked(logits, classes))
            return total + exps @ jnp.ones(rows.shape[0], query.dtype), mean + weighted(exps, rows)

        start = jnp.zeros_like(query[:, 0]), jnp.zeros_like(query)
        (total, mean), _ = _walk(query, chunks, matmul_dtype, add, start)
        return jnp.log(total), mean / _divisor(total)

    def shifted():
        def add(carry, logits, rows, classes):
            top, total, mean = carry
            logits = _masked(logits, classes)
            new_top = jnp.maximum(top, jnp.max(logits, axis=1, initial=-1e30))
            exps, before = jnp.exp(logits - new_top[:, None]), jnp.exp(top - new_top)
            total = total * before + jnp.sum(exps, axis=1)
            return new_top, total, mean * before[:, None] + weighted(exps, rows)

        start = (*_nothing(query), jnp.zeros_like(query))
        (top, total, mean), _ = _walk(query, chunks, matmul_dtype, add, start)
        return top + jnp.log(total), mean / _divisor(total)

    return jax.lax.cond(_bound(query, chunks) <= SAFE_LOGIT, plain, shifted)


def _walk(query: Array, chunks: Chunks, matmul_dtype: str, add, start):
    """add(carry, logits, rows, classes) over the rest and all full chunks: the last carry, and the rest's logits."""
    rows = chunks.table[chunks.rest :]
    of_rest = _logits(query, rows, matmul_dtype)

    def step(at, carry):
        rows = chunks.of(at)
        return add(carry, _logits(query, rows, matmul_dtype), rows, chunks.classes_of(at))

    start = add(start, of_rest, rows, chunks.classes_of_rest())
    return chunks.walk(step, start), of_rest


def _bound(query: Array, chunks: Chunks) -> Array:
    """No logit is above it, or below minus it."""

    def largest(rows):
        return jnp.max(jnp.sum(rows * rows, axis=1), initial=0.0)

    def widest(at, norm):
        return jnp.maximum(norm, largest(chunks.of(at)))

    return jnp.sqrt(largest(query) * chunks.walk(widest, largest(chunks.table[chunks.rest :])))


def _divisor(total: Array) -> Array:
    """[batch, 1], 1 where there is no class: then the mean of nothing is 0."""
    return jnp.where(total > 0, total, 1.0)[:, None]


def _nothing(query: Array) -> tuple[Array, Array]:
    """Maximum and sum of no logits; finite: a rest without any row must not give inf - inf."""
    return jnp.full(query.shape[0], -1e30, query.dtype), jnp.zeros_like(query[:, 0])


def norm_gradients(
    query: Float[Array, "batch dim"],
    scaled: Float[Array, "batch dim"],
    chunks: Chunks,
    log_norms: Float[Array, " batch"],
    matmul_dtype: str,
    of_rest: Float[Array, "batch rest"] | None = None,
) -> tuple[Float[Array, "batch dim"], Float[Array, "rows dim"]]:
    """Gradients of the normaliser: of each row's own to its query, and of their weighted sum to the table.

    Args:
      scaled: the queries, each times its row's weight.
      log_norms: of all classes, of which those in `chunks` may be a part.
      of_rest: the rest's logits, as `log_norm` returned them; None: they are computed again, as those of chunks are.
    """

    def gradients(rows, logits, classes):
        probabilities = jnp.exp(_masked(logits, classes) - log_norms[:, None])
        # [dim, chunk]: this way round the small side is transposed, not the block of probabilities.
        grad_rows = einsum("bd,bi->di", scaled, probabilities, matmul_dtype)
        own = einsum("bi,id->bd", probabilities, rows, matmul_dtype)
        # The barrier keeps XLA from turning that product round to save the transpose.
        return own, jax.lax.optimization_barrier(grad_rows).T

    def step(at, carry):
        grad_query, grad_table = carry
        rows = chunks.of(at)
        logits = _logits(query, rows, matmul_dtype)
        own, grad_rows = gradients(rows, logits, chunks.classes_of(at))
        # In place: a stack of the chunks' gradients would be a second table.
        grad_table = jax.lax.dynamic_update_slice_in_dim(
            grad_table, grad_rows, chunks.start(at), axis=0
        )
        return grad_query + own, grad_table

    rest = chunks.table[chunks.rest :]
    logits = _logits(query, rest, matmul_dtype) if of_rest is None else of_rest
    grad_query, grad_rest = gradients(rest, logits, chunks.classes_of_rest())
    grad_table = jnp.zeros_like(chunks.table).at[chunks.rest :].set(grad_rest)
    return chunks.walk(step, (grad_query, grad_table))


def _logits(query: Array, chunk: Array, matmul_dtype: str) -> Array:
    """[batch, chunk]; the target's own logit, a single product per row, is never rounded."""
    return einsum("bd,id->bi", query, chunk, matmul_dtype)


def _masked(logits: Array, classes: Array | None) -> Array:
    return logits if classes is None else jnp.where(classes[None, :], logits, -1e30)
