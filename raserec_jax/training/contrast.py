"""Contrastive terms of stage 1: views that are encoded beside the batch, and the losses that compare them.

A `Term` brings its own constants, views and losses; `objectives.pretrain_task` encodes the views of all terms together
with the batch, in one call. Here is RaSeRec's own term (2.2, from DuoRec); SRA-CL's is `semantic_contrast`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from raserec_jax.batching.feeds import Batch, TrainingFeed, example_batch
from raserec_jax.batching.sampling import SameTargetIndex, draw_positives
from raserec_jax.errors import ConfigError
from raserec_jax.losses import info_nce
from raserec_jax.mesh import everywhere, spread
from raserec_jax.models.backbones import Encoder

CONTRAST_MODES = ("none", "un", "su", "us", "us_x")


class Pass(NamedTuple):
    """One pass through the encoder: the rows of a batch, and the places that are read of them.

    item_vectors: [rows, seq, dim] in place of the rows of the item table; None = those of the items.
    """

    batch: Batch
    read_rows: Array
    read_columns: Array
    item_vectors: Array | None = None


class Term(NamedTuple):
    """One contrastive part of stage 1.

    constants: arrays on the device that every step reads.
    views: (params, constants, feed, batch, key) -> (passes to encode beside the batch, drawn: what `losses` must know
      of them).
    losses: (params, constants, drawn, hidden of the batch [reads, dim], hidden of each pass, key) -> (weighted sum,
      metrics of scalars).
    init: key -> parameters of its own, trained beside the encoder's and dropped after training; {} = none.
    refresh: (params, constants) -> constants, as in `objectives.Task`; None = never.
    """

    constants: Any
    views: Callable
    losses: Callable
    init: Callable = lambda key: {}
    refresh: Callable | None = None


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


def same_target_term(
    contrast: ContrastSettings,
    index: SameTargetIndex,
    example_users: np.ndarray | Array,
    positive_rows: int,
) -> Term:
    """Views by dropout and by another history with the same target (RaSeRec 2.2, DuoRec).

    Args:
      index: the training examples by target.
      example_users: [examples] int32 user of each training example.
      positive_rows: packed rows that hold the positives of a batch (`packing.rows_needed`).

    Raises:
      ConfigError: unknown mode, or "none".
    """
    if contrast.mode not in CONTRAST_MODES[1:]:
        raise ConfigError(f"contrast.mode={contrast.mode!r} is unknown; use {CONTRAST_MODES}")

    def views(params, constants, feed: TrainingFeed, batch: Batch, key):
        del params
        _, anchor_key, draw_key, _ = jax.random.split(key, 4)
        anchors = draw_anchors(batch.weights, contrast.anchors, anchor_key)
        valid, passes = batch.weights[anchors] > 0, []
        first_ids = drawn = batch.example_ids[anchors]
        if contrast.mode in ("un", "us", "us_x"):
            passes.append(Pass(batch, batch.read_rows[anchors], batch.read_columns[anchors]))
        if contrast.mode in ("su", "us", "us_x"):
            drawn = draw_positives(constants[0], first_ids, draw_key)
            positives = example_batch(feed, jnp.where(valid, drawn, -1), positive_rows)
            passes.append(Pass(positives, positives.read_rows, positives.read_columns))
            valid = positives.weights > 0
        return passes, (anchors, valid, first_ids, drawn)

    def losses(params, constants, drawn, main, hidden, key):
        users = constants[1]
        anchors, valid, first_ids, drawn_ids = drawn
        metrics = {"contrast_share": jnp.mean(valid.astype(jnp.float32))}
        total = 0.0
        for name, weight, first, second in _pairs(contrast, [main, *hidden], anchors):
            second_ids = first_ids if name == "info_nce_dropout" else drawn_ids
            metrics[name] = info_nce(
                first,
                second,
                temperature=contrast.temperature,
                similarity=contrast.similarity,
                valid=valid,
                owners=(users[first_ids], users[second_ids]) if contrast.across_users else None,
            )
            total = total + weight * metrics[name]
        return total, metrics

    return Term((index, example_users), views, losses)


def encode_passes(
    encoder: Encoder, params: dict, passes: list[Pass], dropout_key: Array
) -> list[Array]:
    """Several passes as one call on all their rows; every row draws its own dropout.

    Args:
      params: their item table may have fewer rows than the encoder's items (`touched_rows`), or more (`mesh`).

    Returns:
      hidden [reads, dim] of each pass.
    """
    first_rows = [0]
    for one in passes:
        first_rows.append(first_rows[-1] + one.batch.item_ids.shape[0])
    rows = [
        spread(jnp.concatenate([getattr(one.batch, field) for one in passes]))
        for field in ("item_ids", "segment_ids", "positions")
    ]
    read = (
        spread(
            jnp.concatenate([p.read_rows + f for p, f in zip(passes, first_rows, strict=False)])
        ),
        spread(jnp.concatenate([one.read_columns for one in passes])),
    )
    # Flax holds a table against the number of items that its module was made for.
    encoder = encoder.clone(num_items=params["item_table"].shape[0] - 1)
    vectors = {}
    if any(one.item_vectors is not None for one in passes):
        table = params["item_table"]
        own = [
            table[p.batch.item_ids] if p.item_vectors is None else p.item_vectors for p in passes
        ]
        vectors = {"item_vectors": spread(jnp.concatenate(everywhere(own)))}
    hidden = encoder.apply(
        {"params": params},
        rows[0],
        segment_ids=rows[1],
        positions=rows[2],
        read=read,
        deterministic=False,
        rngs={"dropout": dropout_key},
        **vectors,
    )
    ends = [sum(one.read_rows.shape[0] for one in passes[: i + 1]) for i in range(len(passes))]
    return everywhere(jnp.split(everywhere(hidden)[: ends[-1]], ends[:-1]))


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


def draw_anchors(weights: Array, count: int, key: Array) -> Array:
    """`count` of the batch's targets, uniformly without replacement; all of them for count 0."""
    reads = weights.shape[0]
    if count == 0 or count >= reads:
        return jnp.arange(reads)
    noise = jnp.where(weights > 0, jax.random.uniform(key, weights.shape), -1.0)
    return jax.lax.top_k(noise, count)[1]
