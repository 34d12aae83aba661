"""What a repeat bias does to a cross-entropy: the scores of items of the history, and those alone, are moved."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class PastItems(NamedTuple):
    """The items that precede each row's target in its user's history, for a score with a repeat bias.

    margins: [batch, entries] float32, score of an entry minus the score of the target, both without the bias.
    counts: [batch, entries] bool, which entries are past items of the row, each item once.
    target_repeats: [batch] bool, whether the target itself is one of them.
    bias: scalar that the score of every past item gets (`models.encoder.repeat_bias`).
    drawn: [batch, negatives] bool, which drawn negatives are past items of the row; for sampled losses.
    """

    margins: Array
    counts: Array
    target_repeats: Array
    bias: Array
    drawn: Array | None = None


def add_repeat_bias(per_row: Array, past: PastItems) -> Array:
    """The cross-entropy of each row once the scores of its past items get the bias.

    With Z the normaliser and P its share of past items, Z becomes Z (1 + (e^bias - 1) P).
    """
    share = jnp.exp(jnp.minimum(log_past(past) - per_row, 0.0))
    change = jnp.maximum(jnp.expm1(past.bias) * share, -1.0 + 1e-6)
    return per_row + jnp.log1p(change) - jnp.where(past.target_repeats, past.bias, 0.0)


def log_past(past: PastItems) -> Array:
    """[batch] log of the sum over past items of e^(their score minus the target's), without the bias.

    A finite floor stands for a row without any, which must not give inf - inf.
    """
    return jax.nn.logsumexp(jnp.where(past.counts, past.margins, -1e30), axis=1)
