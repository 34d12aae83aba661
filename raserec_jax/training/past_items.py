"""What precedes each target of a batch, as the loss of an encoder with repeat bias needs it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from raserec_jax.batching.feeds import Batch
from raserec_jax.losses import PastItems
from raserec_jax.mesh import BATCH_ROWS, everywhere, over
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.table_rows import take_rows

MOST_ENTRIES = 2**21
"""Scores of past items that are held at once: 8 MiB. A batch of long rows has more, and takes its reads in chunks."""


def batch_past(
    query: Array,
    params: dict,
    batch: Batch,
    table_gradient: str = "auto",
    negative_ids: Int[Array, " negatives"] | None = None,
) -> PastItems | None:
    """What precedes each target of a batch in its own window; None for an encoder without repeat bias.

    Beyond `MOST_ENTRIES` the past items of a read are summed up to one entry, with the same loss. With the ids of drawn
    negatives it also tells which of them are past items of a read.
    """
    bias = repeat_bias(params)
    if bias is None:
        return None
    rows, seq = batch.item_ids.shape
    first = first_meetings(batch.item_ids, batch.segment_ids).reshape(-1)
    items, place = batch.item_ids.reshape(-1), jnp.arange(rows * seq)[None, :]
    # Read in full by every device, for its own reads; so are targets, or gradients of their rows would be exchanged as
    # whole tables.
    items, target_ids = everywhere((items, batch.target_ids))
    vectors = everywhere(take_rows(params["item_table"], items, table_gradient))
    targets = everywhere(take_rows(params["item_table"], target_ids, table_gradient))
    find_drawn = None if negative_ids is None else _finder(items, negative_ids)

    def margins(query, targets, read_rows, read_columns, target_ids):
        """Of some of the reads: what `PastItems` says, but for the bias."""
        query, targets = over(BATCH_ROWS, query), over(BATCH_ROWS, targets)
        read_rows, read_columns = read_rows[:, None], read_columns[:, None]
        own = batch.segment_ids.reshape(-1)[None, :] == batch.segment_ids[read_rows, read_columns]
        own &= (place // seq == read_rows) & (place % seq <= read_columns)
        return (
            query @ vectors.T - jnp.sum(query * targets, axis=1, keepdims=True),
            own & first[None, :],
            jnp.any(own & (items[None, :] == target_ids[:, None]), axis=1),
            None if find_drawn is None else find_drawn(own),
        )

    reads = (query, targets, batch.read_rows, batch.read_columns, batch.target_ids)
    count = query.shape[0]
    chunk = max(MOST_ENTRIES // (rows * seq), 1)
    if count <= chunk:
        *found, drawn = margins(*reads)
        return PastItems(*found, bias, drawn)

    @jax.checkpoint
    def reduced(reads):
        """The same with one entry per read: the log of the sum over all of them."""
        of_entries, counts, repeats, drawn = margins(*reads)
        total = jax.nn.logsumexp(jnp.where(counts, of_entries, -1e30), axis=1)
        return total, jnp.any(counts, axis=1), repeats, drawn

    def in_chunks(x):
        x = jnp.pad(x, ((0, -count % chunk), *((0, 0) for _ in x.shape[1:])))
        return x.reshape(-1, chunk, *x.shape[1:])

    found = jax.lax.map(reduced, tuple(in_chunks(x) for x in reads))
    total, counts, repeats, drawn = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:])[:count], found
    )
    return PastItems(total[:, None], counts[:, None], repeats, bias, drawn)


def _finder(items: Array, negative_ids: Array) -> Callable[[Array], Array]:
    """Takes [reads, places] bool, which places are of a read; tells which negatives stand there, [reads, negatives].

    Each item is looked up once among the sorted negatives, whatever the reads; equal negatives share a flag.
    """
    ordered, order = jax.lax.sort_key_val(
        negative_ids, jnp.arange(negative_ids.shape[0], dtype=jnp.int32)
    )
    slot = jnp.searchsorted(ordered, items).astype(jnp.int32)
    slot = jnp.where(ordered[jnp.minimum(slot, ordered.shape[0] - 1)] == items, slot, -1)
    first_of = (
        jnp.zeros_like(order).at[order].set(jnp.searchsorted(ordered, ordered).astype(jnp.int32))
    )

    def find(own: Array) -> Array:
        flags = jnp.zeros((ordered.shape[0], own.shape[0]), bool)
        flags = flags.at[jnp.where(slot < 0, ordered.shape[0], slot)].max(own.T, mode="drop")
        return flags[first_of].T

    return find


def first_meetings(
    item_ids: Int[Array, "rows seq"], segment_ids: Int[Array, "rows seq"]
) -> Bool[Array, "rows seq"]:
    """Where an item stands for the first time in its segment; by sorting, so memory grows with the length."""
    column = jax.lax.broadcasted_iota(jnp.int32, item_ids.shape, 1)
    keys = jax.lax.sort((segment_ids, item_ids, column), dimension=1, num_keys=2, is_stable=True)
    differ = [key != jnp.pad(key[:, :-1], ((0, 0), (1, 0)), constant_values=-1) for key in keys[:2]]
    row = jax.lax.broadcasted_iota(jnp.int32, item_ids.shape, 0)
    return jnp.zeros(item_ids.shape, bool).at[row, keys[2]].set(differ[0] | differ[1])


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
