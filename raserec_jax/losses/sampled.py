"""Losses over the target and a few hundred or thousand drawn items, whatever the size of the catalogue."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from raserec_jax.losses.reduction import weighted_mean
from raserec_jax.losses.repeats import PastItems, log_past
from raserec_jax.mesh import BATCH_BY_ITEMS, ITEM_ROWS, over
from raserec_jax.products import einsum
from raserec_jax.table_rows import take_rows

SAMPLED_LOSSES = ("softmax", "bce", "gbce")


class Negatives(NamedTuple):
    """Drawn items, shared by all rows of a batch.

    ids: [negatives] int32 rows of the item table, drawn with replacement.
    log_q: [negatives] float32, log of the probability with which a draw gives the item.
    valid: [negatives] bool, which are items at all; None = all.
    """

    ids: Int[Array, " negatives"]
    log_q: Float[Array, " negatives"]
    valid: Bool[Array, " negatives"] | None = None


def sampled_loss(
    query: Float[Array, "batch dim"],
    item_table: Float[Array, "rows dim"],
    target_ids: Int[Array, " batch"],
    negatives: Negatives,
    weights: Float[Array, " batch"] | None = None,
    *,
    kind: str = "softmax",
    target_log_q: Float[Array, " batch"] | None = None,
    num_items: int = 0,
    calibration: float = 0.75,
    past: PastItems | None = None,
    table_gradient: str = "auto",
    matmul_dtype: str = "float32",
) -> Float[Array, ""]:
    """One of three losses over the target and shared negatives. Negatives equal to a row's target do not count there.

    "softmax": sampled softmax with the log-Q correction (Bengio & Senecal 2008): each usable negative stands for
      (1 - q of the target) / (q of it * usable negatives) items, so that the normaliser is an unbiased estimate of the
      whole catalogue's. The target's own logit is exact and is not corrected; so are those of past items, where
      their scores have a bias: they are few and weigh much, so an estimate without them would be far off.
    "bce": binary cross-entropy, target 1 and negatives 0, the latter averaged (SASRec's with several negatives).
    "gbce": the same with sigmoid(target)^beta in place of sigmoid(target) (gSASRec, arXiv 2308.07192, eq. 9 to 11):
      beta = a (t (1 - 1/a) + 1/a) with a = negatives / (num_items - 1) and t = `calibration`, which takes back the
      overconfidence that negative sampling brings; the mean over target and negatives, as in its authors' code.

    Args:
      query, item_table, target_ids, weights: as in `next_item_loss`. The table may hold only the rows that the batch
        touches; ids are then places in it.
      target_log_q: [batch], log probability with which a draw gives the row's target; default log(1 / num_items).
      num_items: size of the catalogue; default: rows of the table but the padding.
      calibration: t of "gbce", in [0, 1]: 0 = no calibration, 1 = calibrated as without sampling.
      past, table_gradient, matmul_dtype: as in `next_item_loss`; past for "softmax" only.

    Returns:
      Weighted mean over rows, in nats.

    Raises:
      ValueError: unknown kind or table_gradient, or past items with another loss than "softmax" or without `drawn`.
    """
    if kind not in SAMPLED_LOSSES:
        raise ValueError(f"kind={kind!r} is unknown; use one of {', '.join(SAMPLED_LOSSES)}")
    if past is not None and kind != "softmax":
        raise ValueError(f"a repeat bias needs kind='softmax', not {kind!r}")
    if past is not None and past.drawn is None:
        raise ValueError(
            "a sampled loss needs to know which negatives are past items: PastItems.drawn"
        )
    num_items = num_items or item_table.shape[0] - 1
    positive = jnp.sum(query * take_rows(item_table, target_ids, table_gradient), axis=1)
    drawn = over(ITEM_ROWS, take_rows(item_table, negatives.ids, table_gradient))
    negative = over(BATCH_BY_ITEMS, einsum("bd,nd->bn", query, drawn, matmul_dtype))
    usable = negatives.ids[None, :] != target_ids[:, None]
    if negatives.valid is not None:
        usable &= negatives.valid[None, :]
    if kind == "softmax":
        if target_log_q is None:
            target_log_q = jnp.full(query.shape[0], -math.log(num_items))
        per_row = _softmax(positive, negative, usable, negatives.log_q, target_log_q, past)
    else:
        exponent = 1.0
        if kind == "gbce":
            rate = negatives.ids.shape[0] / max(num_items - 1, 1)
            exponent = rate * (calibration * (1 - 1 / rate) + 1 / rate)
        for_target = exponent * jax.nn.softplus(-positive)
        against = jnp.sum(jnp.where(usable, jax.nn.softplus(negative), 0.0), axis=1)
        count = jnp.sum(usable, axis=1)
        if kind == "bce":
            per_row = for_target + against / jnp.maximum(count, 1)
        else:
            per_row = (for_target + against) / (count + 1)
    return weighted_mean(per_row, weights)


def _softmax(positive, negative, usable, log_q, target_log_q, past):
    """log of the estimated normaliser, minus the target's logit."""
    count = jnp.maximum(jnp.sum(usable, axis=1), 1)
    # A draw that is not the target has probability q / (1 - q of the target).
    others = jnp.log1p(-jnp.minimum(jnp.exp(target_log_q), 1.0 - 1e-6)) - jnp.log(count)
    margins = negative - positive[:, None] - log_q[None, :] + others[:, None]
    if past is None:
        margins = jnp.where(usable, margins, -jnp.inf)
        own = jnp.zeros_like(positive)
        return jax.nn.logsumexp(jnp.concatenate([own[:, None], margins], axis=1), axis=1)
    # Past items stand for themselves; a target that is one of them is among these.
    margins = jnp.where(usable & ~past.drawn, margins, -jnp.inf)
    own = jnp.where(past.target_repeats, -jnp.inf, 0.0)
    exact = jnp.stack([own, log_past(past) + past.bias], axis=1)
    total = jax.nn.logsumexp(jnp.concatenate([exact, margins], axis=1), axis=1)
    return total - jnp.where(past.target_repeats, past.bias, 0.0)
