"""Stage 2 with the encoder trained along: the user vectors of a batch are computed in the step, the bank is not.

Stored vectors are constants, as in the paper, so they grow stale until the bank is encoded anew (`Task.refresh`). What
followed them is looked up in the table of the moment, without a gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array

from raserec_jax.batching.feeds import TrainingFeed, epoch_order, training_batch
from raserec_jax.losses import next_item_loss
from raserec_jax.mesh import spread
from raserec_jax.models.backbones import Encoder
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.training.contrast import Pass, encode_passes
from raserec_jax.training.finetune_objective import read_memories, window_items
from raserec_jax.training.objectives import Task
from raserec_jax.training.past_items import window_past


class Neighbours(NamedTuple):
    """The bank and what it gives each training example.

    memory_keys: [bank, dim]; memory_target_ids: [bank] int32.
    retrieved_ids: [examples, top_k] int32 rows of the bank, -1 = none.
    """

    memory_keys: Array
    memory_target_ids: Array
    retrieved_ids: Array


def unfrozen_task(
    encoder: Encoder,
    reader: MemoryReader,
    feed: TrainingFeed,
    neighbours: Neighbours,
    *,
    include_padding_class: bool,
    chunk_items: int,
    refresh: Callable[[dict], Neighbours] | None = None,
    refresh_epochs: int = 0,
) -> Task:
    """Cross-entropy of the augmented user vector; parameters are {"reader", "encoder"}.

    Without dropout in the encoder, and with an encoder that does not move, a step is that of `finetune_task`: the
    order of an epoch and the reader's dropout are the same.

    Args:
      feed: of windows, a window per example (`prefix_feed`).
      refresh: encoder parameters -> neighbours of the same shapes.
    """

    def loss(params, constants, order, step_in_epoch, key):
        arrays, memory = constants
        batch = training_batch(feed._replace(arrays=arrays), order, step_in_epoch)
        table = params["encoder"]["item_table"]
        own = Pass(batch, batch.read_rows, batch.read_columns)
        (query,) = encode_passes(encoder, params["encoder"], [own], jax.random.fold_in(key, 1))
        query, batch = spread(query), batch.spread_reads()
        augmented = read_memories(
            reader,
            params["reader"],
            query,
            memory.retrieved_ids[batch.example_ids],
            memory.memory_keys,
            memory.memory_target_ids,
            jax.lax.stop_gradient(table),
            deterministic=False,
            rngs={"dropout": key},
        )
        windows = (arrays.item_ids, arrays.starts, arrays.lengths)
        items = window_items(*windows, batch.example_ids, encoder.max_len)
        term = next_item_loss(
            augmented,
            table,
            batch.target_ids,
            batch.weights,
            include_padding_class=include_padding_class,
            chunk_items=chunk_items,
            past=window_past(augmented, params["encoder"], items, batch.target_ids),
            matmul_dtype=encoder.matmul_dtype,
            num_items=encoder.num_items,
        )
        return term, {"next_item_loss": term}

    def refreshed(params, constants):
        return constants[0], refresh(params["encoder"])

    return Task(
        (feed.arrays, neighbours),
        feed.steps_per_epoch,
        lambda constants, key: epoch_order(feed._replace(arrays=constants[0]), key),
        loss,
        refreshed if refresh is not None and refresh_epochs > 0 else None,
        refresh_epochs,
    )


def slower_encoder(
    optimizer: optax.GradientTransformation, rate: float
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, with the updates of params["encoder"] multiplied by `rate`; its state is the same."""
    optimizer = optax.with_extra_args_support(optimizer)

    def update(grads, state, params=None, **extra):
        updates, state = optimizer.update(grads, state, params, **extra)
        slower = jax.tree.map(lambda leaf: rate * leaf, updates["encoder"])
        return updates | {"encoder": slower}, state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
