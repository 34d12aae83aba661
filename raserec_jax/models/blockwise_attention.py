"""Causal attention within segments in memory that grows with the length of a row, not with its square.

Keys are taken block by block with a running maximum and sum; the backward pass computes each block of weights once
more from the row's log-sum-exp (Rabe & Staats 2021, FlashAttention). Exact: dropout falls on the normalised weights,
as in the plain form, with a draw of its own for each block. Blocks of keys that lie in the future, or before the first
history that any row of the batch still sees, are skipped.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from raserec_jax.models.layers import dropout_mask, keep_probability
from raserec_jax.models.segments import first_places
from raserec_jax.products import einsum

LONG_ROW = 512
"""Rows of more places are attended in blocks, if nothing else is said."""


def block_for(seq: int, asked: int) -> int:
    """Places per block for rows of `seq` places; 0 = the plain form, all weights at once.

    Args:
      asked: places per block, for rows longer than that; 0 = by length and device.
    """
    if asked:
        return asked if seq > asked else 0
    if seq <= LONG_ROW:
        return 0
    return 128 if jax.default_backend() == "cpu" else 512


def blockwise_attention(
    query: Float[Array, "batch seq heads head_dim"],
    key: Float[Array, "batch seq heads head_dim"],
    value: Float[Array, "batch seq heads head_dim"],
    segment_ids: Int[Array, "batch seq"],
    *,
    block: int,
    dropout: float = 0.0,
    dropout_key: Array | None = None,
    matmul_dtype: str = "float32",
) -> Float[Array, "batch seq heads head_dim"]:
    """softmax(query . key / sqrt(head_dim)) . value over the visible keys of each place (`segments.visible_keys`).

    Args:
      segment_ids: contiguous; 0 = padding, whose result is finite and means nothing.
      block: places per block of queries and of keys; the last block may be short.
      dropout: rate on the weights; 0 = none.
      dropout_key: needed for dropout.
      matmul_dtype: of the products' operands (`products.einsum`).

    Raises:
      ValueError: dropout without a key, or block < 1.
    """
    if block < 1:
        raise ValueError(f"block={block} must be at least 1")
    if dropout and dropout_key is None:
        raise ValueError(f"dropout={dropout} needs a dropout_key")
    seq, head_dim = query.shape[1], query.shape[3]
    missing = -seq % block
    rows = (jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) for x in (query, key, value))
    query, key, value = (_in_blocks(x, block) for x in rows)
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, missing)))
    place = jnp.arange(seq + missing, dtype=jnp.int32)
    first = jnp.where(segment_ids > 0, first_places(segment_ids), place[None, :])
    lowest = jnp.min(first[:, ::block], axis=0) // block
    ids = segment_ids.reshape(segment_ids.shape[0], -1, block).swapaxes(0, 1)
    settings = _Settings(head_dim**-0.5, dropout, matmul_dtype)
    dropout_key = jax.random.key(0) if dropout_key is None else dropout_key
    out = _attend(query, key, value, _Blocks(ids, lowest), dropout_key, settings)
    # [blocks, batch, heads, block, head_dim] -> [batch, seq, heads, head_dim]
    out = out.transpose(1, 0, 3, 2, 4).reshape(out.shape[1], -1, out.shape[2], head_dim)
    return out[:, :seq]


class _Blocks(NamedTuple):
    """ids: [blocks, batch, block] segment ids.  lowest: [blocks] int32, first block of keys that a block of queries
    sees."""

    ids: Array
    lowest: Array


class _Settings(NamedTuple):
    scale: float
    dropout: float
    matmul_dtype: str


def _in_blocks(x: Array, block: int) -> Array:
    """[batch, seq, heads, head_dim] -> [blocks, batch, heads, block, head_dim]."""
    batch, seq, heads, head_dim = x.shape
    return x.reshape(batch, seq // block, block, heads, head_dim).transpose(1, 0, 3, 2, 4)


def _scores(query: Array, key: Array, ids: Array, i: Array, j: Array, settings: _Settings):
    """Scores of query block i and key block j, [batch, heads, block, block], and which are visible."""
    place = jnp.arange(ids.shape[2])
    causal = (j * ids.shape[2] + place)[None, :] <= (i * ids.shape[2] + place)[:, None]
    visible = (ids[i][:, :, None] == ids[j][:, None, :]) & causal[None]
    scores = einsum("bhqd,bhkd->bhqk", query, key, settings.matmul_dtype)
    return scores * settings.scale, visible[:, None]


def _kept(dropout_key: Array, settings: _Settings, shape: tuple[int, ...], number: Array):
    """What the weights of a block are multiplied by: 0 or 1 / keep; None without dropout."""
    if not settings.dropout:
        return None
    mask = dropout_mask(jax.random.fold_in(dropout_key, number), settings.dropout, shape)
    return mask / np.float32(keep_probability(settings.dropout))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, blocks, dropout_key, settings):
    return _attend_fwd(query, key, value, blocks, dropout_key, settings)[0]


def _attend_fwd(query, key, value, blocks, dropout_key, settings):
    count = query.shape[0]

    def one_query_block(i):
        own = query[i]

        def one_key_block(j, carry):
            top, total, out = carry
            scores, visible = _scores(own, key[j], blocks.ids, i, j, settings)
            scores = jnp.where(visible, scores, -1e30)
            new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
            weights = jnp.where(visible, jnp.exp(scores - new_top[..., None]), 0.0)
            shrink = jnp.exp(top - new_top)
            total = total * shrink + jnp.sum(weights, axis=-1)
            kept = _kept(dropout_key, settings, weights.shape, i * count + j)
            weights = weights if kept is None else weights * kept
            seen = einsum("bhqk,bhkd->bhqd", weights, value[j], settings.matmul_dtype)
            return new_top, total, out * shrink[..., None] + seen

        zero = jnp.zeros_like(own[..., 0])
        start = (zero - 1e30, zero, jnp.zeros_like(own))
        top, total, out = jax.lax.fori_loop(blocks.lowest[i], i + 1, one_key_block, start)
        return out / total[..., None], top + jnp.log(total)

    out, log_norm = jax.lax.map(one_query_block, jnp.arange(count, dtype=jnp.int32))
    return out, (query, key, value, blocks, dropout_key, out, log_norm)


def _attend_bwd(settings, residuals, grad_out):
    query, key, value, blocks, dropout_key, out, log_norm = residuals
    count = query.shape[0]
    # Sum over keys of weight times its gradient, with or without dropout.
    inner = jnp.sum(out * grad_out, axis=-1)

    def one_key_block(grad_query, j):
        def one_query_block(i, carry):
            grad_query, grad_key, grad_value = carry
            scores, visible = _scores(query[i], key[j], blocks.ids, i, j, settings)
            weights = jnp.where(visible, jnp.exp(scores - log_norm[i][..., None]), 0.0)
            grad_weights = einsum("bhqd,bhkd->bhqk", grad_out[i], value[j], settings.matmul_dtype)
            kept = _kept(dropout_key, settings, weights.shape, i * count + j)
            dropped = weights
            if kept is not None:
                dropped, grad_weights = weights * kept, grad_weights * kept
            grad_value += einsum("bhqk,bhqd->bhkd", dropped, grad_out[i], settings.matmul_dtype)
            grad_scores = weights * (grad_weights - inner[i][..., None]) * settings.scale
            grad_key += einsum("bhqk,bhqd->bhkd", grad_scores, query[i], settings.matmul_dtype)
            own = einsum("bhqk,bhkd->bhqd", grad_scores, key[j], settings.matmul_dtype)
            return grad_query.at[i].add(own), grad_key, grad_value

        # `lowest` never falls, so the query blocks that see block j are neighbours.
        end = jnp.sum(blocks.lowest <= j, dtype=jnp.int32)
        start = (grad_query, jnp.zeros_like(key[j]), jnp.zeros_like(value[j]))
        grad_query, *grads = jax.lax.fori_loop(j, end, one_query_block, start)
        return grad_query, tuple(grads)

    grad_query, (grad_key, grad_value) = jax.lax.scan(
        one_key_block, jnp.zeros_like(query), jnp.arange(count, dtype=jnp.int32)
    )
    return grad_query, grad_key, grad_value, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)
