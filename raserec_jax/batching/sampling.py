"""Draws inside jit: positives that share the anchor's next item, and uniform negatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from raserec_jax.batching.windows import Examples


class SameTargetIndex(NamedTuple):
    """Training examples grouped by their target; int32 [examples] each.

    members: example ids, sorted by target.
    group_starts: first entry of the example's group in `members`.
    group_sizes: examples with the same target, itself included.
    places_in_group: where the example itself stands in its group.
    """

    members: np.ndarray | Array
    group_starts: np.ndarray | Array
    group_sizes: np.ndarray | Array
    places_in_group: np.ndarray | Array


def same_target_index(examples: Examples) -> SameTargetIndex:
    """Groups the examples by target, once (host)."""
    members = np.argsort(examples.target_ids, kind="stable").astype(np.int32)
    sorted_targets = examples.target_ids[members]
    first = np.searchsorted(sorted_targets, examples.target_ids, side="left").astype(np.int32)
    last = np.searchsorted(sorted_targets, examples.target_ids, side="right").astype(np.int32)
    places = np.empty(len(members), np.int32)
    places[members] = np.arange(len(members), dtype=np.int32)
    return SameTargetIndex(members, first, last - first, places - first)


def draw_positives(
    index: SameTargetIndex, example_ids: Int[Array, " batch"], key: Array
) -> Int[Array, " batch"]:
    """Another training example with the same target, uniformly; the example itself where it has no partner.

    RaSeRec 2.2, same-target sampling.
    """
    size = index.group_sizes[example_ids]
    draw = jax.random.randint(key, example_ids.shape, 0, jnp.maximum(size - 1, 1))
    # Skip over the example's own place, so that it is never drawn while others exist.
    place = draw + (draw >= index.places_in_group[example_ids])
    place = jnp.where(size > 1, place, 0)
    return index.members[index.group_starts[example_ids] + place]


def draw_negatives(key: Array, count: int, num_items: int) -> Int[Array, " count"]:
    """Items drawn uniformly from 1..num_items, with replacement; shared by a whole batch."""
    return jax.random.randint(key, (count,), 1, num_items + 1, dtype=jnp.int32)
