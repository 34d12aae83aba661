"""How attention is spread over what was retrieved: sums over a block of queries, and what they say of all queries.

Sums of blocks add up, so a million queries need no more memory than one block.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

SHARE_BINS = 40
"""Of the histogram of shares in [0, 1]."""

SPREAD = (0.1, 0.9)
"""Quantiles that are told beside a mean."""

_WEIGHT_BINS = 512  # of the square root of a weight: finest where weights are small
_DIGITS = 5
_NORMAL = 1.959964  # half of a 95% interval, in standard errors


class AttentionSums(NamedTuple):
    """Sums over queries, or of such sums.

    weights, present: [top_k] sum of the weights at each rank, and how many queries have a memory there.
    weight_counts: [top_k, bins] histogram of the square roots of the weights.
    queries, spread_queries: [] with a memory, with at least two.
    entropy: [] sum of entropy / log(memories) over the latter.
    effective_counts: [SHARE_BINS] histogram of exp(entropy) / memories over the latter.
    next_queries: [] where the next item followed some of the memories, but not all.
    next_mass, next_share: [] over them, the sum of the weights of those memories, and of their share.
    next_squares: [] over them, the sum of (mass - share)^2.
    """

    weights: Any
    present: Any
    weight_counts: Any
    queries: Any
    spread_queries: Any
    entropy: Any
    effective_counts: Any
    next_queries: Any
    next_mass: Any
    next_share: Any
    next_squares: Any


def attention_sums(
    weights: Float[Array, "queries top_k"],
    mask: Bool[Array, "queries top_k"],
    is_next: Bool[Array, "queries top_k"],
) -> AttentionSums:
    """Sums of a block, for use inside jit.

    Args:
      weights: attention; a row sums to 1 over its memories, best first.
      mask: which memories are real; a row without any does not count.
      is_next: memories that the true next item followed.
    """
    weights = jnp.where(mask, weights, 0.0)
    count = jnp.sum(mask, axis=1)
    several = count > 1
    entropy = -jnp.sum(weights * jnp.log(jnp.maximum(weights, 1e-30)), axis=1)
    relative = jnp.where(several, entropy / jnp.log(jnp.maximum(count, 2)), 0.0)
    effective = jnp.exp(entropy) / jnp.maximum(count, 1)
    followed = jnp.sum(mask & is_next, axis=1)
    told = (followed > 0) & (followed < count)
    mass = jnp.where(told, jnp.sum(weights * is_next, axis=1), 0.0)
    share = jnp.where(told, followed / jnp.maximum(count, 1), 0.0)
    ranks = jnp.broadcast_to(jnp.arange(weights.shape[1]), weights.shape)
    counts = jnp.zeros((weights.shape[1], _WEIGHT_BINS), jnp.int32)
    return AttentionSums(
        jnp.sum(weights, axis=0),
        jnp.sum(mask, axis=0),
        counts.at[ranks, _bin_of(jnp.sqrt(weights), _WEIGHT_BINS)].add(mask),
        jnp.sum(count > 0),
        jnp.sum(several),
        jnp.sum(relative),
        jnp.zeros(SHARE_BINS, jnp.int32).at[_bin_of(effective, SHARE_BINS)].add(several),
        jnp.sum(told),
        jnp.sum(mass),
        jnp.sum(share),
        jnp.sum((mass - share) ** 2),
    )


def attention_summary(channels: Mapping[str, AttentionSums]) -> dict[str, Any]:
    """What results.json says of the attention.

    Args:
      channels: name -> sums over all queries; of the same queries and memories.

    Returns:
      {"queries": with a memory, "next_item": {"queries", "share"}, "channels": {name: {"mean", "low", "high",
      "entropy", "effective", "next_item": {"mass", "low", "high"}}}}: by rank the mean weight and the SPREAD
      quantiles, None for a rank that no query has; the mean of entropy / log(memories), 1 if all are uniform; the
      histogram of exp(entropy) / memories, shares of queries; and, over the queries where the next item followed some
      of the memories, the mean weight of those, and the 95% interval of it (normal approximation), against their mean
      share. {} if no query has a memory.
    """
    totals = {
        name: AttentionSums(*(np.asarray(field, np.float64)[()] for field in one))
        for name, one in channels.items()
    }
    first = next(iter(totals.values()), None)
    if first is None or first.queries == 0:
        return {}
    return {
        "queries": int(first.queries),
        "next_item": {
            "queries": int(first.next_queries),
            "share": _mean(first.next_share, first.next_queries),
        },
        "channels": {name: _channel(one) for name, one in totals.items()},
    }


def _channel(one: AttentionSums) -> dict[str, Any]:
    low, high = ([_quantile(counts, level) for counts in one.weight_counts] for level in SPREAD)
    pairs = zip(one.weights, one.present, strict=True)
    found: dict[str, Any] = {
        "mean": [_mean(total, count) for total, count in pairs],
        "low": low,
        "high": high,
        "entropy": _mean(one.entropy, one.spread_queries),
        "effective": [_mean(count, one.spread_queries) for count in one.effective_counts],
    }
    queries = one.next_queries
    if queries > 0:
        mass, gain = one.next_mass / queries, (one.next_mass - one.next_share) / queries
        variance = max(one.next_squares / queries - gain**2, 0.0)
        half = _NORMAL * math.sqrt(variance / queries)
        found["next_item"] = {
            "mass": _rounded(mass),
            "low": _rounded(mass - half),
            "high": _rounded(mass + half),
        }
    return found


def _bin_of(values: Array, bins: int) -> Array:
    return jnp.clip((values * bins).astype(jnp.int32), 0, bins - 1)


def _quantile(counts: np.ndarray, level: float) -> float | None:
    """Of weights whose square roots are counted, linear within a bin."""
    total = counts.sum()
    if total == 0:
        return None
    reached = np.cumsum(counts)
    place = int(np.searchsorted(reached, level * total))
    inside = (level * total - (reached[place] - counts[place])) / counts[place]
    return _rounded(((place + inside) / len(counts)) ** 2)


def _mean(total: float, count: float) -> float | None:
    return _rounded(total / count) if count > 0 else None


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
