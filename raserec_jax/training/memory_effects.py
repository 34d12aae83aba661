"""What each retrieved memory did for the target of a training query: leave one out, for all queries in one pass.

effect(query, k) = log p(target | all memories) - log p(target | all but memory k)

so a memory that helps has a positive effect. What the reader makes of the memories without k is always computed; the
softmax over the catalogue either is too (`exact`), or is taken as linear around the user vector with all memories,
which costs one softmax per query instead of one per memory.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from raserec_jax.losses.repeats import add_repeat_bias
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.training.finetune_objective import MemoryConstants, read_memories, window_items
from raserec_jax.training.past_items import window_past

_BLOCK = 64


@functools.partial(jax.jit, static_argnames=("reader", "max_len", "exact", "block"))
def memory_effects(
    reader: MemoryReader,
    params: dict,
    constants: MemoryConstants,
    *,
    max_len: int,
    exact: bool = False,
    block: int = _BLOCK,
) -> Float[Array, "examples top_k"]:
    """The effect of each memory on the log probability of its query's target; 0 where there is none.

    Args:
      reader, params: as trained; without dropout.
      constants: what stage 2 read.
      max_len: of the windows, where there is a repeat bias.
      exact: a softmax for every memory that is left out.
    """
    count, top_k = constants.retrieved_ids.shape
    table = constants.encoder_params["item_table"]

    def read(query, ids):
        bank = (constants.memory_keys, constants.memory_target_ids)
        return read_memories(reader, params, query, ids, *bank, table)

    def log_chances(vectors, rows):
        """[queries] log p(target) of the examples at `rows`, by these user vectors."""
        targets = constants.target_ids[rows]
        scores = vectors @ table[1:].T
        target = jnp.take_along_axis(scores, targets[:, None] - 1, axis=1)[:, 0]
        per_row = jax.nn.logsumexp(scores, axis=1) - target
        if constants.windows is not None:
            items = window_items(*constants.windows, rows, max_len)
            past = window_past(vectors, constants.encoder_params, items, targets)
            per_row = per_row if past is None else add_repeat_bias(per_row, past)
        return -per_row

    def one(rows):
        query, ids = constants.queries[rows], constants.retrieved_ids[rows]
        left_out = jnp.where(jnp.eye(top_k, dtype=bool)[:, None], -1, ids[None])  # [k, block, k]
        full = read(query, ids)
        less = jax.lax.map(lambda some: read(query, some), left_out)
        if exact:
            before = log_chances(full, rows)
            after = jax.lax.map(lambda vectors: log_chances(vectors, rows), less)
            effect = (before[None] - after).T
        else:
            slope = jax.grad(lambda vectors: jnp.sum(log_chances(vectors, rows)))(full)
            effect = jnp.einsum("bd,kbd->bk", slope, full[None] - less)
        return jnp.where(ids >= 0, effect, 0.0)

    rows = jnp.arange(-(-count // block) * block, dtype=jnp.int32)
    found = jax.lax.map(one, jnp.minimum(rows, count - 1).reshape(-1, block))
    return found.reshape(-1, top_k)[:count]


def usefulness(
    effects: Float[np.ndarray, "examples top_k"],
    retrieved_ids: Int[np.ndarray, "examples top_k"],
    bank_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Per entry of the bank: the sum of its effects on all queries that read it, and how many those are.

    Returns:
      ([bank] float64, [bank] int64); 0 for an entry that nobody read.
    """
    real = retrieved_ids >= 0
    entries = retrieved_ids[real]
    total = np.bincount(entries, effects[real], bank_rows)
    return total, np.bincount(entries, minlength=bank_rows)
