"""Stage 1's objective, and `Task`, what every objective is to the one loop that runs it.

A task's `loss` gets everything through arguments: parameters that are trained, constants that stay on the device,
the order of the epoch, the step in it and a key. So the same function is jitted, scanned, resumed and sharded.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from raserec_jax.batching.feeds import TrainingFeed, epoch_order, training_batch
from raserec_jax.batching.sampling import draw_negatives
from raserec_jax.errors import ConfigError
from raserec_jax.losses import next_item_loss, sampled_softmax_loss
from raserec_jax.models.backbones import Encoder
from raserec_jax.training.contrast import Pass, Term, encode_passes
from raserec_jax.training.past_items import batch_past


class Task(NamedTuple):
    """One objective for `loop.fit`.

    constants: arrays on the device that every step reads and none changes.
    steps_per_epoch: steps that see every example once.
    order: (constants, key) -> the epoch's order.
    loss: (params, constants, order, step_in_epoch, key) -> (loss, metrics of scalars).
    refresh: (params, constants) -> constants of the same shapes, for what follows the parameters slowly, such as
      vectors of other histories; None = nothing does. Called before an epoch, outside the step.
    refresh_epochs: epochs from one refresh to the next; 0 = only before the first.
    init: key -> parameters that this objective trains beside the model's; {} = none.
    """

    constants: Any
    steps_per_epoch: int
    order: Callable
    loss: Callable
    refresh: Callable | None = None
    refresh_epochs: int = 1
    init: Callable = lambda key: {}


def pretrain_task(
    encoder: Encoder,
    feed: TrainingFeed,
    terms: Sequence[Term] = (),
    *,
    next_item: str,
    num_negatives: int,
    include_padding_class: bool,
    chunk_items: int,
    refresh_epochs: int = 1,
) -> Task:
    """Stage 1: next-item cross-entropy plus contrastive terms (RaSeRec 2.2, SRA-CL eq. 12).

    The main pass and the passes of all terms are one call of the encoder on more rows.

    Args:
      terms: none, one or several of `contrast.same_target_term` and `semantic_contrast.semantic_term`.
      next_item: "full" or "sampled" softmax; the latter with `num_negatives` shared uniform negatives.
      include_padding_class, chunk_items: as in `next_item_loss`.
      refresh_epochs: how often terms that ask for it are refreshed, as in `Task`.

    Raises:
      ConfigError: unknown loss.
    """
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
        arrays, of_terms = constants
        device_feed = feed._replace(arrays=arrays)
        batch = training_batch(device_feed, order, step_in_epoch)
        dropout_key, _, _, negative_key = jax.random.split(key, 4)
        passes, drawn, counts = [Pass(batch, batch.read_rows, batch.read_columns)], [], []
        for term, own in zip(terms, of_terms, strict=True):
            more, known = term.views(params, own, device_feed, batch, key)
            passes, drawn, counts = passes + more, [*drawn, known], [*counts, len(more)]
        main, *views = encode_passes(encoder, params, passes, dropout_key)
        total = next_item_term(main, params, batch, negative_key)
        metrics = {"next_item_loss": total}
        for term, own, known, count in zip(terms, of_terms, drawn, counts, strict=True):
            value, told = term.losses(params, own, known, main, views[:count], key)
            views, total, metrics = views[count:], total + value, metrics | told
        return total, metrics

    def refresh(params, constants):
        arrays, of_terms = constants
        fresh = (
            own if term.refresh is None else term.refresh(params, own)
            for term, own in zip(terms, of_terms, strict=True)
        )
        return arrays, tuple(fresh)

    def init(key):
        found: dict = {}
        for i, term in enumerate(terms):
            found |= term.init(jax.random.fold_in(key, i))
        return found

    constants = feed.arrays, tuple(term.constants for term in terms)
    return Task(
        jax.tree.map(jnp.asarray, constants),
        feed.steps_per_epoch,
        lambda constants, key: epoch_order(feed._replace(arrays=constants[0]), key),
        loss,
        refresh if any(term.refresh is not None for term in terms) else None,
        refresh_epochs,
        init,
    )
