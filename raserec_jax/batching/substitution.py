"""Views of histories by substitution: some items replaced by others that mean about the same; inside jit."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def substitute_items(
    item_ids: Int[Array, "rows seq"],
    neighbor_item_ids: Int[Array, "items k"],
    rate: float,
    key: Array,
) -> Int[Array, "rows seq"]:
    """Replaces each item with probability `rate` by one of its neighbours, drawn uniformly (SRA-CL, semantic views).

    Args:
      item_ids: 0 = padding, which stays.
      neighbor_item_ids: [V + 1, k] int32; row v holds the neighbours of item v from the left, then -1.
      rate: in [0, 1]; each place is drawn by itself, so a view may also be unchanged, as in the authors' code.
      key: fixes the draws.

    Returns:
      the view; an item without neighbours stays.
    """
    place_key, draw_key = jax.random.split(key)
    known = jnp.sum(neighbor_item_ids >= 0, axis=1)[item_ids]
    replaced = replaced_places(item_ids, known, rate, place_key)
    column = jax.random.randint(draw_key, item_ids.shape, 0, jnp.maximum(known, 1))
    drawn = neighbor_item_ids[item_ids, column]
    return jnp.where(replaced, drawn, item_ids)


def replaced_places(
    item_ids: Int[Array, "rows seq"], known: Int[Array, "rows seq"], rate: float, key: Array
) -> Bool[Array, "rows seq"]:
    """Which places a view replaces: each with probability `rate`, where there is an item with `known` neighbours."""
    drawn = jax.random.bernoulli(key, rate, item_ids.shape)
    return drawn & (item_ids > 0) & (known > 0)
