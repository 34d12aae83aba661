"""Stage 1's objective, and `Task`, what every objective is to the one loop that runs it.

A task's `loss` gets everything through arguments: parameters that are trained, constants that stay on the device,
the order of the epoch, the step in it and a key. So the same function is jitted, scanned, resumed and sharded.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.batching.feeds import (
    TrainingFeed,
    epoch_order,
    stacked_batches,
    training_batch,
)
from raserec_jax.batching.host_feed import host_batches
from raserec_jax.errors import ConfigError
from raserec_jax.losses import next_item_loss, sampled_loss
from raserec_jax.mesh import spread
from raserec_jax.models.backbones import Encoder
from raserec_jax.training.contrast import Pass, Term, encode_passes
from raserec_jax.training.negatives import NEGATIVES, draw, negative_source
from raserec_jax.training.past_items import batch_past
from raserec_jax.training.touched_rows import places_of, touched_rows

NEXT_ITEM_LOSSES = ("full", "sampled", "bce", "gbce")
ITEM_UPDATES = ("all", "touched")


class Task(NamedTuple):
    """One objective for `loop.fit`.

    constants: arrays that every step reads and none changes; the loop puts those of the host where they belong.
    steps_per_epoch: steps that see every example once.
    order: (constants, key) -> the epoch's order.
    loss: (params, constants, order, step_in_epoch, key) -> (loss, metrics of scalars).
    refresh: (params, constants) -> constants of the same shapes, for what follows the parameters slowly, such as
      vectors of other histories; None = nothing does. Called before an epoch, outside the step.
    refresh_epochs: epochs from one refresh to the next; 0 = only before the first.
    init: key -> parameters that this objective trains beside the model's; {} = none.
    touched: (constants, order, step_in_epoch, key) -> the rows of the item table that the step reads
      (`touched_rows.touched_rows`); `loss` then takes a table of these rows, and `rows=`. None = all are read.
    batches: (constants, order, first step, steps, most steps) -> the batches of a call, stacked, which `loss` and
      `touched` then get in place of the order, with steps that count from 0. None = they take the order.
    host_batches: (order on the host, first step, steps, most steps, share=None) -> the same, or a `shares.Share` of it,
      NumPy arrays, made outside the step; None = not made there.
    stream: (calls still to be made, epoch -> its order on the host, share=None) -> context with an iterator over the
      same for all calls of the run, made by other processes (`record_feed.RecordBatches.open`); None = not made there.
    batch_rows: of a batch from the host.
    facts: what is told of the task in the results; JSON values.
    """

    constants: Any
    steps_per_epoch: int
    order: Callable
    loss: Callable
    refresh: Callable | None = None
    refresh_epochs: int = 1
    init: Callable = lambda key: {}
    touched: Callable | None = None
    batches: Callable | None = None
    host_batches: Callable | None = None
    stream: Callable | None = None
    batch_rows: int = 0
    facts: dict | None = None


def pretrain_task(
    encoder: Encoder,
    feed: TrainingFeed,
    terms: Sequence[Term] = (),
    *,
    next_item: str,
    num_negatives: int,
    include_padding_class: bool,
    chunk_items: int,
    negatives: str = "uniform",
    calibration: float = 0.75,
    item_updates: str = "all",
    refresh_epochs: int = 1,
) -> Task:
    """Stage 1: next-item cross-entropy plus contrastive terms (RaSeRec 2.2, SRA-CL eq. 12).

    The main pass and the passes of all terms are one call of the encoder on more rows.

    Args:
      terms: none, one or several of `contrast.same_target_term` and `semantic_contrast.semantic_term`.
      next_item: "full" softmax; or "sampled" softmax, "bce" or "gbce" (`losses.sampled_loss`) with shared negatives.
      num_negatives, negatives: how many are drawn and how (`negatives.draw`).
      calibration: of "gbce".
      include_padding_class, chunk_items: as in `next_item_loss`.
      item_updates: "all" rows of the item table at every step, or the "touched" ones only (`touched_rows`).
      refresh_epochs: how often terms that ask for it are refreshed, as in `Task`.

    Raises:
      ConfigError: an unknown choice, or choices that exclude each other.
    """
    _check_choices(encoder, terms, next_item, negatives, item_updates)
    if feed.on_host and terms:
        raise ConfigError(
            "pretrain.batching.feed=host and grain do not go with contrastive terms, whose views are drawn from arrays "
            "on the device; use pretrain.batching.feed=device, or contrast.mode=none and no weight in sra_cl"
        )

    def draws(constants, order, step_in_epoch, key):
        """The step's batch and its negatives with their log_q, as far as the loss has any."""
        arrays, source = constants[0], constants[2]
        batch = training_batch(feed._replace(arrays=arrays), order, step_in_epoch)
        if next_item == "full":
            return batch, None, None
        negative_key = jax.random.split(key, 4)[3]
        return (
            batch,
            *draw(source, negatives, num_negatives, encoder.num_items, batch, negative_key),
        )

    def next_item_term(query, params, batch, drawn, target_log_q):
        query, batch = spread(query), batch.spread_reads()
        target_log_q = None if target_log_q is None else spread(target_log_q)
        ids = None if drawn is None else drawn.ids
        past = batch_past(query, params, batch, encoder.table_gradient, ids)
        if next_item == "full":
            return next_item_loss(
                query,
                params["item_table"],
                batch.target_ids,
                batch.weights,
                include_padding_class=include_padding_class,
                chunk_items=chunk_items,
                past=past,
                table_gradient=encoder.table_gradient,
                matmul_dtype=encoder.matmul_dtype,
                num_items=encoder.num_items,
            )
        return sampled_loss(
            query,
            params["item_table"],
            batch.target_ids,
            drawn,
            batch.weights,
            kind="softmax" if next_item == "sampled" else next_item,
            target_log_q=target_log_q,
            num_items=encoder.num_items,
            calibration=calibration,
            past=past,
            table_gradient=encoder.table_gradient,
            matmul_dtype=encoder.matmul_dtype,
        )

    def batches(constants, order, first, count, most):
        return stacked_batches(feed._replace(arrays=constants[0]), order, first, count, most)

    def touched(constants, order, step_in_epoch, key):
        batch, negative, _ = draws(constants, order, step_in_epoch, key)
        return touched_rows(
            batch.item_ids, batch.target_ids, negative.ids, num_items=encoder.num_items
        )

    def loss(params, constants, order, step_in_epoch, key, rows=None):
        arrays, of_terms, _ = constants
        device_feed = feed._replace(arrays=arrays)
        batch, negative, target_log_q = draws(constants, order, step_in_epoch, key)
        if rows is not None:
            batch = batch._replace(
                item_ids=places_of(rows, batch.item_ids),
                target_ids=places_of(rows, batch.target_ids),
            )
            negative = negative._replace(ids=places_of(rows, negative.ids))
        dropout_key = jax.random.split(key, 4)[0]
        passes, drawn, counts = [Pass(batch, batch.read_rows, batch.read_columns)], [], []
        for term, own in zip(terms, of_terms, strict=True):
            more, known = term.views(params, own, device_feed, batch, key)
            passes, drawn, counts = passes + more, [*drawn, known], [*counts, len(more)]
        main, *views = encode_passes(encoder, params, passes, dropout_key)
        total = next_item_term(main, params, batch, negative, target_log_q)
        metrics = {"next_item_loss": total}
        for term, own, known, count in zip(terms, of_terms, drawn, counts, strict=True):
            value, told = term.losses(params, own, known, main, views[:count], key)
            views, total, metrics = views[count:], total + value, metrics | told
        return total, metrics

    def refresh(params, constants):
        arrays, of_terms, source = constants
        fresh = (
            own if term.refresh is None else term.refresh(params, own)
            for term, own in zip(terms, of_terms, strict=True)
        )
        return arrays, tuple(fresh), source

    def init(key):
        found: dict = {}
        for i, term in enumerate(terms):
            found |= term.init(jax.random.fold_in(key, i))
        return found

    source = None
    if next_item != "full":
        target_ids = np.asarray(feed.arrays.target_ids)
        source = negative_source(target_ids, encoder.num_items, kept=negatives == "popularity")
    # With the feed on the host nothing that grows with the log is on the device, but for popularity's targets.
    arrays = None if feed.on_host else feed.arrays
    constants = arrays, tuple(term.constants for term in terms), source
    return Task(
        jax.tree.map(jnp.asarray, constants),
        feed.steps_per_epoch,
        lambda constants, key: epoch_order(feed, key),
        loss,
        refresh if any(term.refresh is not None for term in terms) else None,
        refresh_epochs,
        init,
        touched if item_updates == "touched" else None,
        None if feed.on_host else batches,
        functools.partial(host_batches, feed) if feed.on_host and not feed.stream else None,
        feed.stream,
        feed.batch_rows if feed.on_host else 0,
        {"row_len": feed.row_len, "fill": round(feed.fill, 4)},
    )


def _check_choices(encoder: Encoder, terms, next_item, negatives, item_updates) -> None:
    for name, value, allowed in (
        ("next_item", next_item, NEXT_ITEM_LOSSES),
        ("negatives", negatives, NEGATIVES),
        ("item_updates", item_updates, ITEM_UPDATES),
    ):
        if value not in allowed:
            raise ConfigError(f"loss.{name}={value!r} is unknown; use one of {', '.join(allowed)}")
    if encoder.repeat_bias and next_item not in ("full", "sampled"):
        raise ConfigError(
            f"encoder.repeat_bias is learned by a softmax; use loss.next_item=full or sampled, not {next_item}, or "
            "switch it off"
        )
    if item_updates == "touched" and next_item == "full":
        raise ConfigError(
            "loss.item_updates=touched needs a sampled loss: the full softmax touches every row"
        )
    if item_updates == "touched" and terms:
        raise ConfigError(
            "loss.item_updates=touched does not go with contrastive terms, whose views read further rows; use "
            "loss.item_updates=all"
        )
