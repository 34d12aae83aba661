"""What the memory reader attends to, and how much it listens at all, over all test queries: for results.json."""

import functools

import jax
import numpy as np

from raserec_jax.evaluation.attention import AttentionSums, attention_summary, attention_sums
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.reading import looked_up
from raserec_jax.training.remembering import Part

_BLOCK = 1024


def memory_attention(
    reader: MemoryReader, params: dict, part: Part, bank: MemoryBank, item_table, top_k: int
) -> dict:
    """Attention of the last read (mean over heads) by rank, its entropy, and its mass on the next item.

    On one device, of several processes on one of each; memories are looked up on the host, a block at a time.

    Args:
      reader, params: as trained.
      part: the queries, and what was retrieved for them.
      bank: that they were retrieved from.
      item_table: [V + 1, dim] of the encoder.
      top_k: memories that the reader reads.

    Returns:
      As `attention_summary`, a channel per channel of the reader; {} where it attends to nothing. With a gate or a null
      memory also "own_weight": {"mean", "low", "high"} of the weight of the user vector beside what was read, mean and
      5% and 95% quantiles over the queries with a memory.
    """
    ids, targets = np.asarray(part.retrieved.ids[:, :top_k]), part.evaluation.target_ids
    query, item_table = np.asarray(part.query), np.asarray(item_table)
    totals: dict[str, AttentionSums] = {}
    own_weights = []
    for start in range(0, len(ids), _BLOCK):
        rows = slice(start, start + _BLOCK)
        missing = _BLOCK - len(ids[rows])  # at the end: a second size would be a second compilation
        asked = np.pad(ids[rows], ((0, missing), (0, 0)), constant_values=-1)
        is_next = (
            bank.target_ids[np.maximum(asked, 0)] == np.pad(targets[rows], (0, missing))[:, None]
        )
        found, own = _sums(
            reader,
            params,
            np.pad(query[rows], ((0, missing), (0, 0))),
            *looked_up(bank, item_table, asked),
            is_next,
        )
        own_weights.append(np.asarray(own)[: len(ids[rows])])
        for name, one in found.items():
            sums = AttentionSums(*(np.asarray(field, np.float64) for field in one))
            before = totals.get(name)
            totals[name] = sums if before is None else jax.tree.map(np.add, before, sums)
    summary = attention_summary(totals)
    if summary and (reader.gate != "none" or reader.null_memory):
        own = np.concatenate(own_weights)[(ids >= 0).any(axis=1)].astype(np.float64)
        low, high = np.quantile(own, (0.05, 0.95))
        summary["own_weight"] = {"mean": float(own.mean()), "low": float(low), "high": float(high)}
    return summary


@functools.partial(jax.jit, static_argnames="reader")
def _sums(reader, params, query, keys, values, mask, is_next):
    """({channel: sums of a block}, weight of each user vector itself)."""
    _, attention, own = reader.apply(
        {"params": params}, query, keys, values, mask, return_attention=True
    )
    sums = {name: attention_sums(one, mask, is_next) for name, one in attention.items()}
    return sums, own
