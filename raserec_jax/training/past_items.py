"""What precedes each target of a batch, as the loss of an encoder with repeat bias needs it."""

import jax.numpy as jnp
from jaxtyping import Array

from raserec_jax.batching.feeds import Batch
from raserec_jax.losses import PastItems
from raserec_jax.models.encoder import repeat_bias


def batch_past(query: Array, params: dict, batch: Batch) -> PastItems | None:
    """What precedes each target of a batch in its own window; None for an encoder without repeat bias."""
    bias = repeat_bias(params)
    if bias is None:
        return None
    rows, seq = batch.item_ids.shape
    column = jnp.arange(seq)
    same = batch.item_ids[:, :, None] == batch.item_ids[:, None, :]
    same &= batch.segment_ids[:, :, None] == batch.segment_ids[:, None, :]
    met_before = jnp.any(same & (column[None, :] < column[:, None])[None], axis=2)
    read_rows, read_columns = batch.read_rows[:, None], batch.read_columns[:, None]
    place = jnp.arange(rows * seq)[None, :]
    own = batch.segment_ids.reshape(-1)[None, :] == batch.segment_ids[read_rows, read_columns]
    own &= (place // seq == read_rows) & (place % seq <= read_columns)
    items = batch.item_ids.reshape(-1)
    return PastItems(
        query @ params["item_table"][items].T - _target_scores(query, params, batch.target_ids),
        own & ~met_before.reshape(-1)[None, :],
        jnp.any(own & (items[None, :] == batch.target_ids[:, None]), axis=1),
        bias,
    )


def window_past(query: Array, params: dict, item_ids: Array, target_ids: Array) -> PastItems | None:
    """The same for one window per row: item_ids [batch, max_len], 0 = none."""
    bias = repeat_bias(params)
    if bias is None:
        return None
    item_ids = jnp.sort(item_ids, axis=1)
    first = item_ids != jnp.pad(item_ids, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    scores = jnp.einsum("bd,bld->bl", query, params["item_table"][item_ids])
    return PastItems(
        scores - _target_scores(query, params, target_ids),
        first & (item_ids > 0),
        jnp.any(item_ids == target_ids[:, None], axis=1),
        bias,
    )


def _target_scores(query: Array, params: dict, target_ids: Array) -> Array:
    return jnp.sum(query * params["item_table"][target_ids], axis=1, keepdims=True)
