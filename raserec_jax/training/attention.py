"""What the memory reader attends to, over all test queries: for results.json."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.evaluation.attention import AttentionSums, attention_summary, attention_sums
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.remembering import Part

_BLOCK = 1024


def memory_attention(
    reader: MemoryReader, params: dict, part: Part, bank: MemoryBank, item_table, top_k: int
) -> dict:
    """Attention of the last read (mean over heads) by rank, its entropy, and its mass on the next item.

    Args:
      reader, params: as trained.
      part: the queries, and what was retrieved for them.
      bank: that they were retrieved from.
      item_table: [V + 1, dim] of the encoder.
      top_k: memories that the reader reads.

    Returns:
      As `attention_summary`, a channel per channel of the reader; {} where it attends to nothing.
    """
    keys, followed = jnp.asarray(bank.keys), jnp.asarray(bank.target_ids)
    ids, targets = np.asarray(part.retrieved.ids[:, :top_k]), part.evaluation.target_ids
    totals: dict[str, AttentionSums] = {}
    for start in range(0, len(ids), _BLOCK):
        rows = slice(start, start + _BLOCK)
        missing = _BLOCK - len(ids[rows])  # at the end: a second size would be a second compilation
        found = _sums(
            reader,
            params,
            jnp.pad(part.query[rows], ((0, missing), (0, 0))),
            np.pad(ids[rows], ((0, missing), (0, 0)), constant_values=-1),
            np.pad(targets[rows], (0, missing)),
            keys,
            followed,
            item_table,
        )
        for name, one in found.items():
            sums = AttentionSums(*(np.asarray(field, np.float64) for field in one))
            before = totals.get(name)
            totals[name] = sums if before is None else jax.tree.map(np.add, before, sums)
    return attention_summary(totals)


@functools.partial(jax.jit, static_argnames="reader")
def _sums(reader, params, query, ids, target_ids, keys, followed, item_table):
    """{channel: sums of a block}."""
    rows, mask = jnp.maximum(ids, 0), ids >= 0
    _, attention = reader.apply(
        {"params": params},
        query,
        keys[rows],
        item_table[followed[rows]],
        mask,
        return_attention=True,
    )
    is_next = followed[rows] == target_ids[:, None]
    return {name: attention_sums(one, mask, is_next) for name, one in attention.items()}
