"""Losses: arrays in, a mean loss out. They know neither models nor batches."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class PastItems(NamedTuple):
    """The items that precede each row's target in its user's history, for a score with a repeat bias.

    margins: [batch, entries] float32, score of an entry minus the score of the target, both without the bias.
    counts: [batch, entries] bool, which entries are past items of the row, each item once.
    target_repeats: [batch] bool, whether the target itself is one of them.
    bias: scalar that the score of every past item gets (`models.encoder.repeat_bias`).
    """

    margins: Array
    counts: Array
    target_repeats: Array
    bias: Array


def next_item_loss(
    query: Float[Array, "batch dim"],
    item_table: Float[Array, "rows dim"],
    target_ids: Int[Array, " batch"],
    weights: Float[Array, " batch"] | None = None,
    *,
    include_padding_class: bool = False,
    chunk_items: int = 0,
    past: PastItems | None = None,
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

    Returns:
      Weighted mean over rows, in nats; 0 if all weights are 0.

    Raises:
      ValueError: chunk_items < 0.
    """
    if chunk_items < 0:
        raise ValueError(f"chunk_items={chunk_items} must be at least 1, or 0 for the default")
    chunk_items = chunk_items or default_chunk_items(query.shape[0])
    per_row = _cross_entropy(query, item_table, target_ids, include_padding_class, chunk_items)
    return _mean(per_row if past is None else _add_repeat_bias(per_row, past), weights)


def _mean(per_row: Array, weights: Array | None) -> Array:
    if weights is None:
        weights = jnp.ones(per_row.shape[0], per_row.dtype)
    return jnp.sum(per_row * weights) / jnp.maximum(jnp.sum(weights), 1e-9)


def _add_repeat_bias(per_row: Array, past: PastItems) -> Array:
    """The cross-entropy of each row once the scores of its past items get the bias.

    With Z the normaliser and P its share of past items, Z becomes Z (1 + (e^bias - 1) P).
    """
    # A finite floor: a row without past items must not give inf - inf.
    in_past = jax.nn.logsumexp(jnp.where(past.counts, past.margins, -1e30), axis=1)
    share = jnp.exp(jnp.minimum(in_past - per_row, 0.0))
    change = jnp.maximum(jnp.expm1(past.bias) * share, -1.0 + 1e-6)
    return per_row + jnp.log1p(change) - jnp.where(past.target_repeats, past.bias, 0.0)


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


def _log_norm(query: Array, chunks: Array, rest: Array, item_table: Array) -> Array:
    """log sum exp of each row's logits.

    By Cauchy and Schwarz no logit is above |query| |item|. While that is small, as it is in a healthy run, the streamed
    maximum is not needed, which takes as long as the exponentials on a CPU; otherwise it is.
    """
    norms = (jnp.max(jnp.sum(x * x, axis=1)) for x in (query, item_table))
    bound = jnp.sqrt(math.prod(norms))

    def plain():
        def summed(chunk):  # a product with ones: the quickest sum on a CPU
            return jnp.exp(query @ chunk.T) @ jnp.ones(chunk.shape[0], query.dtype)

        def step(total, chunk):
            return total + summed(chunk), None

        return jnp.log(jax.lax.scan(step, summed(rest), chunks)[0])

    def shifted():
        def step(carry, chunk):
            top, total = carry
            logits = query @ chunk.T
            new_top = jnp.maximum(top, jnp.max(logits, axis=1, initial=-1e30))
            kept = total * jnp.exp(top - new_top)
            return (new_top, kept + jnp.sum(jnp.exp(logits - new_top[:, None]), axis=1)), None

        # A finite start: a rest without any row must not give inf - inf.
        start = (jnp.full(query.shape[0], -1e30, query.dtype), jnp.zeros_like(query[:, 0]))
        top, total = jax.lax.scan(step, step(start, rest)[0], chunks)[0]
        return top + jnp.log(total)

    return jax.lax.cond(bound <= SAFE_LOGIT, plain, shifted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _cross_entropy(query, item_table, target_ids, include_padding_class, chunk_items):
    return _cross_entropy_fwd(query, item_table, target_ids, include_padding_class, chunk_items)[0]


def _cross_entropy_fwd(query, item_table, target_ids, include_padding_class, chunk_items):
    chunks, rest = _chunks(item_table, chunk_items, include_padding_class)
    log_norm = _log_norm(query, chunks, rest, item_table)
    target_logits = jnp.sum(query * item_table[target_ids], axis=1)
    return log_norm - target_logits, (query, item_table, target_ids, log_norm)


def _cross_entropy_bwd(include_padding_class, chunk_items, residuals, cotangent):
    query, item_table, target_ids, log_norm = residuals
    scaled = query * cotangent[:, None]

    def gradients(chunk):
        probabilities = jnp.exp(query @ chunk.T - log_norm[:, None])
        # [dim, chunk]: this way round the small side is transposed, not the block of probabilities.
        grad_chunk = jax.lax.dot_general(scaled, probabilities, (((0,), (0,)), ((), ())))
        return probabilities @ chunk, grad_chunk

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
    return grad_query, jnp.concatenate(parts).at[target_ids].add(-scaled), None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def sampled_softmax_loss(
    query: Float[Array, "batch dim"],
    item_table: Float[Array, "rows dim"],
    target_ids: Int[Array, " batch"],
    negative_ids: Int[Array, " negatives"],
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, ""]:
    """Softmax over the target and uniform negatives shared by the batch, corrected for their number.

    Each negative stands for (items - 1) / (negatives that are not the row's target) items, so the normaliser is an
    unbiased estimate of the full one. Negatives equal to a row's target do not count in that row.

    Args:
      query, item_table, target_ids, weights: as in `next_item_loss`.
      negative_ids: drawn uniformly from 1..rows-1, with replacement.

    Returns:
      Weighted mean over rows, in nats.
    """
    positive = jnp.sum(query * item_table[target_ids], axis=1)
    negative = query @ item_table[negative_ids].T
    usable = negative_ids[None, :] != target_ids[:, None]
    count = jnp.maximum(jnp.sum(usable, axis=1), 1)
    stands_for = jnp.log((item_table.shape[0] - 2) / count)
    negative = jnp.where(usable, negative + stands_for[:, None], -jnp.inf)
    log_norm = jax.nn.logsumexp(jnp.concatenate([positive[:, None], negative], axis=1), axis=1)
    return _mean(log_norm - positive, weights)


def info_nce(
    anchors: Float[Array, "batch dim"],
    positives: Float[Array, "batch dim"],
    *,
    temperature: float = 1.0,
    similarity: str = "dot",
    valid: Bool[Array, " batch"] | None = None,
    owners: tuple[Int[Array, " batch"], Int[Array, " batch"]] | None = None,
    two_sided: bool = True,
) -> Float[Array, ""]:
    """In-batch InfoNCE over both views: 1 positive and 2 * batch - 2 negatives per row (RaSeRec eq. L_ret).

    Args:
      anchors: first view; row i pairs with row i of `positives`; float32.
      positives: second view.
      temperature: divides the similarities; > 0, no unit.
      similarity: "dot" (raw products, published) or "cos".
      valid: rows that take part, as anchors and as negatives; default all.
      owners: user of each anchor and of each positive; views of one user are then no negatives of each other.
        Batches of whole histories need it: prefixes of one user are near copies. Default: all are (published).
      two_sided: False = only the first view is an anchor, and only the other rows of the second view are its
        negatives, batch - 1 of them (SRA-CL eq. 9 as printed; its code is two-sided).

    Returns:
      Mean loss over the valid rows (of both views), in nats; 0 if none is valid.

    Raises:
      ValueError: batch < 2, temperature <= 0, or an unknown similarity.
    """
    batch = anchors.shape[0]
    if batch < 2:
        raise ValueError(f"info_nce got a batch of {batch}; it needs at least 2 rows for negatives")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be above 0")
    if similarity not in ("dot", "cos"):
        raise ValueError(f"similarity={similarity!r} is unknown; use 'dot' or 'cos'")
    both = jnp.concatenate([anchors, positives])
    if similarity == "cos":
        both = both * jax.lax.rsqrt(jnp.maximum(jnp.sum(both**2, axis=1, keepdims=True), 1e-16))
    scores = both @ both.T / temperature
    taking_part = jnp.ones(batch, bool) if valid is None else valid
    taking_part = jnp.concatenate([taking_part, taking_part])
    rows = jnp.arange(2 * batch)
    pair = jnp.concatenate([rows[batch:], rows[:batch]])
    positive = jnp.sum(both * both[pair], axis=1) / temperature
    itself = rows[:, None] == rows[None, :]
    left_out = itself | ~taking_part[None, :]
    if not two_sided:
        left_out = left_out | (rows < batch)[None, :]
        taking_part = taking_part & (rows < batch)
    if owners is not None:
        owner = jnp.concatenate(owners)
        same = (owner[:, None] == owner[None, :]) & (pair[:, None] != rows[None, :])
        left_out = left_out | same
    scores = jnp.where(left_out, -1e30, scores)
    losses = jnp.where(taking_part, jax.nn.logsumexp(scores, axis=1) - positive, 0.0)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(taking_part), 1)
