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

    Each is sliced where it is used: chunks stacked beforehand would be a copy of the table.

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
        return jax.lax.fori_loop(0, self.full, step, start)

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
    """Chunks of at most `chunk_items` rows; the fields as in `Chunks`."""
    classes = table.shape[0] - first
    chunk = min(chunk_items, classes)
    return Chunks(table, first, chunk, classes // chunk, counted)


def log_norm(
    query: Float[Array, "batch dim"], chunks: Chunks, matmul_dtype: str
) -> Float[Array, " batch"]:
    """log sum exp of each row's logits; -1e30 or less where there is no class.

    By Cauchy and Schwarz no logit is above |query| |item|. While that is small, as it is in a healthy run, the streamed
    maximum is not needed, which takes as long as the exponentials on a CPU; otherwise it is.
    """
    rest = chunks.table[chunks.rest :]
    rest_classes = chunks.classes_of_rest()

    def chunk(at):
        return chunks.of(at), chunks.classes_of(at)

    def largest(rows):
        return jnp.max(jnp.sum(rows * rows, axis=1), initial=0.0)

    def widest(at, norm):
        return jnp.maximum(norm, largest(chunks.of(at)))

    bound = jnp.sqrt(largest(query) * chunks.walk(widest, largest(rest)))

    def plain():
        def summed(rows, classes):  # a product with ones: the quickest sum on a CPU
            exps = jnp.exp(_logits(query, rows, matmul_dtype))
            ones = jnp.ones(rows.shape[0], query.dtype)
            return exps @ (ones if classes is None else classes.astype(query.dtype))

        return jnp.log(
            chunks.walk(lambda at, total: total + summed(*chunk(at)), summed(rest, rest_classes))
        )

    def shifted():
        def add(carry, rows, classes):
            top, total = carry
            logits = _masked(_logits(query, rows, matmul_dtype), classes)
            new_top = jnp.maximum(top, jnp.max(logits, axis=1, initial=-1e30))
            kept = total * jnp.exp(top - new_top)
            return new_top, kept + jnp.sum(jnp.exp(logits - new_top[:, None]), axis=1)

        # A finite start: a rest without any row must not give inf - inf.
        start = (jnp.full(query.shape[0], -1e30, query.dtype), jnp.zeros_like(query[:, 0]))
        start = add(start, rest, rest_classes)
        top, total = chunks.walk(lambda at, carry: add(carry, *chunk(at)), start)
        return top + jnp.log(total)

    return jax.lax.cond(bound <= SAFE_LOGIT, plain, shifted)


def norm_gradients(
    query: Float[Array, "batch dim"],
    scaled: Float[Array, "batch dim"],
    chunks: Chunks,
    log_norms: Float[Array, " batch"],
    matmul_dtype: str,
) -> tuple[Float[Array, "batch dim"], Float[Array, "rows dim"]]:
    """Gradients of the normaliser: of each row's own to its query, and of their weighted sum to the table.

    Args:
      scaled: the queries, each times its row's weight.
      log_norms: of all classes, of which those in `chunks` may be a part.
    """

    def gradients(rows, classes):
        logits = _masked(_logits(query, rows, matmul_dtype), classes)
        probabilities = jnp.exp(logits - log_norms[:, None])
        # [dim, chunk]: this way round the small side is transposed, not the block of probabilities.
        grad_rows = einsum("bd,bi->di", scaled, probabilities, matmul_dtype)
        own = einsum("bi,id->bd", probabilities, rows, matmul_dtype)
        # The barrier keeps XLA from turning that product round to save the transpose.
        return own, jax.lax.optimization_barrier(grad_rows).T

    def step(at, carry):
        grad_query, grad_table = carry
        own, grad_rows = gradients(chunks.of(at), chunks.classes_of(at))
        # In place: a stack of the chunks' gradients would be a second table.
        grad_table = jax.lax.dynamic_update_slice_in_dim(
            grad_table, grad_rows, chunks.start(at), axis=0
        )
        return grad_query + own, grad_table

    rest = chunks.table[chunks.rest :]
    grad_query, grad_rest = gradients(rest, chunks.classes_of_rest())
    grad_table = jnp.zeros_like(chunks.table).at[chunks.rest :].set(grad_rest)
    return chunks.walk(step, (grad_query, grad_table))


def _logits(query: Array, chunk: Array, matmul_dtype: str) -> Array:
    """[batch, chunk]; the target's own logit, a single product per row, is never rounded."""
    return einsum("bd,id->bi", query, chunk, matmul_dtype)


def _masked(logits: Array, classes: Array | None) -> Array:
    return logits if classes is None else jnp.where(classes[None, :], logits, -1e30)
