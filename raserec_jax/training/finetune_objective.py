"""Stage 2's objective: cross-entropy of the user vector after it has read its memories (RaSeRec 2.4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from raserec_jax.losses import next_item_loss
from raserec_jax.mesh import BATCH_ROWS, over, spread
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.training.objectives import Task
from raserec_jax.training.past_items import window_past


class MemoryConstants(NamedTuple):
    """What stage 2 reads and never changes: the encoder is frozen, so all of it is computed once.

    encoder_params: the frozen encoder's, of which the item table and the repeat bias are read.
    windows: (flat item ids, starts, lengths) of the examples' windows; None if there is no repeat bias.
    queries: [examples, dim] user vector of each training example.
    target_ids: [examples] int32.
    memory_keys: [bank, dim], float32 or bfloat16; memory_target_ids: [bank] int32.
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
        over(BATCH_ROWS, memory_keys[rows]),
        over(BATCH_ROWS, item_table[memory_target_ids[rows]]),
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
    matmul_dtype: str = "float32",
) -> Task:
    """Stage 2: cross-entropy of the augmented user vector; only the reader is trained (RaSeRec 2.4).

    Args:
      batch_size: examples per step.
      include_padding_class, chunk_items, matmul_dtype: as in `next_item_loss`.
      max_len: of the windows, where there is a repeat bias.
    """
    num_items = constants.encoder_params["item_table"].shape[0] - 1
    count = constants.queries.shape[0]
    batch_size = min(batch_size, count)
    steps = -(-count // batch_size)

    def order(constants, key):
        permutation = jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
        return jnp.pad(permutation, (0, steps * batch_size - count), constant_values=-1)

    def loss(params, constants, order, step_in_epoch, key):
        rows = jax.lax.dynamic_slice(order, (step_in_epoch * batch_size,), (batch_size,))
        rows = spread(rows, fill=-1)
        weights, rows = (rows >= 0).astype(jnp.float32), jnp.maximum(rows, 0)
        item_table, target_ids = constants.encoder_params["item_table"], constants.target_ids[rows]
        augmented = read_memories(
            reader,
            params,
            over(BATCH_ROWS, constants.queries[rows]),
            over(BATCH_ROWS, constants.retrieved_ids[rows]),
            constants.memory_keys,
            constants.memory_target_ids,
            item_table,
            deterministic=False,
            rngs={"dropout": key},
        )
        past = None
        if constants.windows is not None:
            items = window_items(*constants.windows, rows, max_len)
            past = window_past(augmented, constants.encoder_params, items, target_ids)
        term = next_item_loss(
            augmented,
            item_table,
            target_ids,
            weights,
            include_padding_class=include_padding_class,
            chunk_items=chunk_items,
            past=past,
            matmul_dtype=matmul_dtype,
            num_items=num_items,
            frozen_table=True,
        )
        return term, {"next_item_loss": term}

    return Task(constants, steps, order, loss)


def window_items(item_ids, starts, lengths, rows, max_len: int) -> Array:
    """[batch, max_len] items of each example's window, 0 after its end."""
    column = jnp.arange(max_len)[None, :]
    inside = column < lengths[rows][:, None]
    return jnp.where(inside, item_ids[jnp.where(inside, starts[rows][:, None] + column, 0)], 0)
