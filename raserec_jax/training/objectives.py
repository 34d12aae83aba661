"""Objectives: what a step minimises. Each becomes a `Task`, which the one loop runs.

A task's `loss` gets everything through arguments: parameters that are trained, constants that stay on the device,
the order of the epoch, the step in it and a key. So the same function is jitted, scanned, resumed and sharded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from raserec_jax.batching.feeds import (
    Batch,
    TrainingFeed,
    epoch_order,
    example_batch,
    training_batch,
)
from raserec_jax.batching.sampling import SameTargetIndex, draw_negatives, draw_positives
from raserec_jax.errors import ConfigError
from raserec_jax.losses import PastItems, info_nce, next_item_loss, sampled_softmax_loss
from raserec_jax.models.encoder import SequenceEncoder, repeat_bias
from raserec_jax.models.memory_reader import MemoryReader

CONTRAST_MODES = ("none", "un", "su", "us", "us_x")


class Task(NamedTuple):
    """One objective for `loop.fit`.

    constants: arrays on the device that every step reads and none changes.
    steps_per_epoch: steps that see every example once.
    order: (constants, key) -> the epoch's order.
    loss: (params, constants, order, step_in_epoch, key) -> (loss, metrics of scalars).
    """

    constants: Any
    steps_per_epoch: int
    order: Callable
    loss: Callable


class ContrastSettings(NamedTuple):
    """Which views are contrasted, and how (RaSeRec 2.2; the modes of the authors' code).

    mode: "none", "un" (two dropout passes), "su" (same target), "us" (both), "us_x" (second pass against same
      target, published).
    similarity: "dot" or "cos".  temperature: > 0.
    unsupervised_weight, supervised_weight: lmd and lmd_sem of the code.
    anchors: targets per step that are contrasted, drawn uniformly; 0 = all of the batch.
    across_users: views of one user are no negatives of each other; for batches of whole histories, whose prefixes
      are near copies. False = every other view is a negative (published).
    """

    mode: str
    similarity: str
    temperature: float
    unsupervised_weight: float
    supervised_weight: float
    anchors: int
    across_users: bool


def pretrain_task(
    encoder: SequenceEncoder,
    feed: TrainingFeed,
    same_target: SameTargetIndex,
    *,
    contrast: ContrastSettings,
    example_users: np.ndarray | Array,
    positive_rows: int,
    next_item: str,
    num_negatives: int,
    include_padding_class: bool,
    chunk_items: int,
) -> Task:
    """Stage 1: next-item cross-entropy plus InfoNCE (RaSeRec 2.2, DuoRec).

    The main pass, the second dropout pass and the pass over the positives are one call of the encoder on more rows.

    Args:
      example_users: [examples] int32 user of each training example.
      positive_rows: packed rows that hold the positives of a batch (`packing.rows_needed`).
      next_item: "full" or "sampled" softmax; the latter with `num_negatives` shared uniform negatives.
      include_padding_class, chunk_items: as in `next_item_loss`.

    Raises:
      ConfigError: unknown mode or loss.
    """
    if contrast.mode not in CONTRAST_MODES:
        raise ConfigError(f"contrast.mode={contrast.mode!r} is unknown; use {CONTRAST_MODES}")
    if next_item not in ("full", "sampled"):
        raise ConfigError(f"loss.next_item={next_item!r} is unknown; use 'full' or 'sampled'")
    if encoder.repeat_bias and next_item != "full":
        raise ConfigError(
            "encoder.repeat_bias is learned with loss.next_item='full' only; use that or switch it off"
        )

    def next_item_term(query, params, batch, key):
        if next_item == "full":
            return next_item_loss(
                query,
                params["item_table"],
                batch.target_ids,
                batch.weights,
                include_padding_class=include_padding_class,
                chunk_items=chunk_items,
                past=batch_past(query, params, batch),
            )
        negatives = draw_negatives(key, num_negatives, encoder.num_items)
        return sampled_softmax_loss(
            query, params["item_table"], batch.target_ids, negatives, batch.weights
        )

    def loss(params, constants, order, step_in_epoch, key):
        arrays, index, users = constants
        device_feed = feed._replace(arrays=arrays)
        batch = training_batch(device_feed, order, step_in_epoch)
        dropout_key, anchor_key, draw_key, negative_key = jax.random.split(key, 4)
        passes, valid = [Pass(batch, batch.read_rows, batch.read_columns)], None
        if contrast.mode != "none":
            anchors = _draw_anchors(batch.weights, contrast.anchors, anchor_key)
            valid = batch.weights[anchors] > 0
            first_ids = drawn = batch.example_ids[anchors]
        if contrast.mode in ("un", "us", "us_x"):
            passes.append(Pass(batch, batch.read_rows[anchors], batch.read_columns[anchors]))
        if contrast.mode in ("su", "us", "us_x"):
            drawn = draw_positives(index, first_ids, draw_key)
            positives = example_batch(device_feed, jnp.where(valid, drawn, -1), positive_rows)
            passes.append(Pass(positives, positives.read_rows, positives.read_columns))
            valid = positives.weights > 0
        hidden = encode_passes(encoder, params, passes, dropout_key)
        term = next_item_term(hidden[0], params, batch, negative_key)
        metrics, total = {"next_item_loss": term}, term
        if contrast.mode != "none":
            metrics["contrast_share"] = jnp.mean(valid.astype(jnp.float32))
            for name, weight, first, second in _pairs(contrast, hidden, anchors):
                second_ids = first_ids if name == "info_nce_dropout" else drawn
                nce = info_nce(
                    first,
                    second,
                    temperature=contrast.temperature,
                    similarity=contrast.similarity,
                    valid=valid,
                    owners=(users[first_ids], users[second_ids]) if contrast.across_users else None,
                )
                metrics[name] = nce
                total = total + weight * nce
        return total, metrics

    return Task(
        jax.tree.map(jnp.asarray, (feed.arrays, same_target, example_users)),
        feed.steps_per_epoch,
        lambda constants, key: epoch_order(feed._replace(arrays=constants[0]), key),
        loss,
    )


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


class Pass(NamedTuple):
    """One pass through the encoder: the rows of a batch, and the places that are read of them."""

    batch: Batch
    read_rows: Array
    read_columns: Array


def encode_passes(
    encoder: SequenceEncoder, params: dict, passes: list[Pass], dropout_key: Array
) -> list[Array]:
    """Several passes as one call on all their rows; every row draws its own dropout.

    Returns:
      hidden [reads, dim] of each pass.
    """
    first_rows = [0]
    for one in passes:
        first_rows.append(first_rows[-1] + one.batch.item_ids.shape[0])
    rows = [
        jnp.concatenate([getattr(one.batch, field) for one in passes])
        for field in ("item_ids", "segment_ids", "positions")
    ]
    read = (
        jnp.concatenate([p.read_rows + f for p, f in zip(passes, first_rows, strict=False)]),
        jnp.concatenate([one.read_columns for one in passes]),
    )
    hidden = encoder.apply(
        {"params": params},
        rows[0],
        segment_ids=rows[1],
        positions=rows[2],
        read=read,
        deterministic=False,
        rngs={"dropout": dropout_key},
    )
    ends = [sum(one.read_rows.shape[0] for one in passes[: i + 1]) for i in range(len(passes))]
    return jnp.split(hidden, ends[:-1])


def _pairs(contrast: ContrastSettings, hidden: list[Array], anchors: Array) -> list[tuple]:
    """(name, weight, first view, second view) of each InfoNCE term of the mode."""
    unsupervised, supervised = contrast.unsupervised_weight, contrast.supervised_weight
    main = hidden[0][anchors]
    return {
        "un": lambda: [("info_nce_dropout", unsupervised, main, hidden[1])],
        "su": lambda: [("info_nce", supervised, main, hidden[1])],
        "us": lambda: [
            ("info_nce_dropout", unsupervised, main, hidden[1]),
            ("info_nce", supervised, main, hidden[2]),
        ],
        "us_x": lambda: [("info_nce", supervised, hidden[1], hidden[2])],
    }[contrast.mode]()


def _draw_anchors(weights: Array, count: int, key: Array) -> Array:
    """`count` of the batch's targets, uniformly without replacement; all of them for count 0."""
    reads = weights.shape[0]
    if count == 0 or count >= reads:
        return jnp.arange(reads)
    noise = jnp.where(weights > 0, jax.random.uniform(key, weights.shape), -1.0)
    return jax.lax.top_k(noise, count)[1]


class MemoryConstants(NamedTuple):
    """What stage 2 reads and never changes: the encoder is frozen, so all of it is computed once.

    encoder_params: the frozen encoder's, of which the item table and the repeat bias are read.
    windows: (flat item ids, starts, lengths) of the examples' windows; None if there is no repeat bias.
    queries: [examples, dim] user vector of each training example.
    target_ids: [examples] int32.
    memory_keys: [bank, dim]; memory_target_ids: [bank] int32.
    retrieved_ids: [examples, top_k] int32 rows of the bank, -1 = none.
    """

    encoder_params: dict
    windows: tuple[Array, Array, Array] | None
    queries: Array
    target_ids: Array
    memory_keys: Array
    memory_target_ids: Array
    retrieved_ids: Array


def read_memories(
    reader: MemoryReader,
    params: dict,
    query: Array,
    retrieved_ids: Array,
    memory_keys: Array,
    memory_target_ids: Array,
    item_table: Array,
    **kwargs,
):
    """Gathers the retrieved memories of each row and applies the reader; kwargs go to it.

    Target embeddings are looked up here, at reading time, so they are never stale.
    """
    rows = jnp.maximum(retrieved_ids, 0)
    return reader.apply(
        {"params": params},
        query,
        memory_keys[rows],
        item_table[memory_target_ids[rows]],
        retrieved_ids >= 0,
        **kwargs,
    )


def finetune_task(
    reader: MemoryReader,
    constants: MemoryConstants,
    *,
    batch_size: int,
    include_padding_class: bool,
    chunk_items: int,
    max_len: int = 0,
) -> Task:
    """Stage 2: cross-entropy of the augmented user vector; only the reader is trained (RaSeRec 2.4)."""
    count = constants.queries.shape[0]
    batch_size = min(batch_size, count)
    steps = -(-count // batch_size)

    def order(constants, key):
        permutation = jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
        return jnp.pad(permutation, (0, steps * batch_size - count), constant_values=-1)

    def loss(params, constants, order, step_in_epoch, key):
        rows = jax.lax.dynamic_slice(order, (step_in_epoch * batch_size,), (batch_size,))
        weights, rows = (rows >= 0).astype(jnp.float32), jnp.maximum(rows, 0)
        item_table, target_ids = constants.encoder_params["item_table"], constants.target_ids[rows]
        augmented = read_memories(
            reader,
            params,
            constants.queries[rows],
            constants.retrieved_ids[rows],
            constants.memory_keys,
            constants.memory_target_ids,
            item_table,
            deterministic=False,
            rngs={"dropout": key},
        )
        past = None
        if constants.windows is not None:
            items = _window_items(*constants.windows, rows, max_len)
            past = window_past(augmented, constants.encoder_params, items, target_ids)
        term = next_item_loss(
            augmented,
            item_table,
            target_ids,
            weights,
            include_padding_class=include_padding_class,
            chunk_items=chunk_items,
            past=past,
        )
        return term, {"next_item_loss": term}

    return Task(jax.tree.map(jnp.asarray, constants), steps, order, loss)


def _window_items(item_ids, starts, lengths, rows, max_len: int) -> Array:
    """[batch, max_len] items of each example's window, 0 after its end."""
    column = jnp.arange(max_len)[None, :]
    inside = column < lengths[rows][:, None]
    return jnp.where(inside, item_ids[jnp.where(inside, starts[rows][:, None] + column, 0)], 0)
