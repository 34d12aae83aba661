"""Draws of negatives inside jit, shared by a batch, with the probability of each draw."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from raserec_jax.batching.feeds import Batch
from raserec_jax.batching.sampling import draw_negatives
from raserec_jax.errors import ConfigError
from raserec_jax.losses import Negatives

NEGATIVES = ("uniform", "popularity", "in_batch")


class NegativeSource(NamedTuple):
    """What negatives are drawn from; arrays on the device.

    target_ids: [examples] int32, the training targets: one drawn uniformly is an item drawn by popularity. Or the
      first of them alone, where nothing is drawn from them.
    log_popularity: [items + 1] float32, log of each item's share of the training targets; of an item that is never
      one, that of half a target.
    """

    target_ids: Array
    log_popularity: Array


def negative_source(target_ids: np.ndarray, num_items: int, *, kept: bool = True) -> NegativeSource:
    """From the targets of all training examples (host); kept: all of them go to the device."""
    counts = np.bincount(target_ids, minlength=num_items + 1).astype(np.float64)
    shares = np.maximum(counts, 0.5) / max(len(target_ids), 1)
    drawn_from = target_ids if kept else target_ids[:1]
    return NegativeSource(jnp.asarray(drawn_from), jnp.asarray(np.log(shares), jnp.float32))


def draw(
    source: NegativeSource, how: str, count: int, num_items: int, batch: Batch, key: Array
) -> tuple[Negatives, Array]:
    """Negatives of a step, and log_q of the batch's targets, [reads].

    Args:
      how: "uniform" over the catalogue; "popularity", by share of the training targets; "in_batch", the targets of the
        batch itself (`count` is then not used), which come with the probability of their popularity.
      count: draws, with replacement.

    Raises:
      ConfigError: unknown `how`.
    """
    if how not in NEGATIVES:
        raise ConfigError(f"loss.negatives={how!r} is unknown; use one of {', '.join(NEGATIVES)}")
    if how == "uniform":
        ids, log_q = draw_negatives(key, count, num_items), -math.log(num_items)
        return Negatives(ids, jnp.full(count, log_q)), jnp.full(batch.target_ids.shape, log_q)
    if how == "popularity":
        at = jax.random.randint(key, (count,), 0, source.target_ids.shape[0])
        ids, valid = source.target_ids[at], None
    else:
        ids, valid = batch.target_ids, batch.weights > 0
    return (
        Negatives(ids, source.log_popularity[ids], valid),
        source.log_popularity[batch.target_ids],
    )
