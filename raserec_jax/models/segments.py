"""Rows that several histories share: which places belong together, and which of them a place may see."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def visible_keys(segment_ids: Int[Array, "batch seq"]) -> Bool[Array, "batch 1 seq seq"]:
    """Causal mask within segments: key j is visible to query i iff j <= i and both are in one segment."""
    place = jnp.arange(segment_ids.shape[1])
    causal = place[None, :] <= place[:, None]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return (same & causal[None])[:, None]


def segment_starts(segment_ids: Int[Array, "batch seq"]) -> Bool[Array, "batch seq"]:
    """Where a segment, a contiguous run, begins."""
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return segment_ids != before


def first_places(segment_ids: Int[Array, "batch seq"]) -> Int[Array, "batch seq"]:
    """Where the segment of each place begins in its row; segments are contiguous runs."""
    starts = jnp.where(segment_starts(segment_ids), _places(segment_ids), 0)
    return jax.lax.cummax(starts, axis=1)


def places_within_segments(segment_ids: Int[Array, "batch seq"]) -> Int[Array, "batch seq"]:
    """Place of each item within its segment, from 0; segments are contiguous runs."""
    return _places(segment_ids) - first_places(segment_ids)


def segment_lengths(segment_ids: Int[Array, "batch seq"]) -> Int[Array, "batch seq"]:
    """How many places the segment of each place has; segments are contiguous runs."""
    seq = segment_ids.shape[1]
    starts = jnp.where(segment_starts(segment_ids), _places(segment_ids), seq)
    next_starts = jnp.pad(starts[:, 1:], ((0, 0), (0, 1)), constant_values=seq)
    return jax.lax.cummin(next_starts, axis=1, reverse=True) - first_places(segment_ids)


def _places(segment_ids: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32), segment_ids.shape)
