"""What is known of a query before its target: signs by which it may be told whether its memories will help."""

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.remembering import Part

SIGNALS = (
    "best similarity",
    "mean similarity",
    "agreement",
    "log history length",
    "log popularity of what memories tell",
    "entropy of the encoder's scores",
    "encoder's probability of what memories tell",
)
_BLOCK = 256


def memory_signals(
    part: Part, bank: MemoryBank, item_table, popularity: np.ndarray, top_k: int
) -> np.ndarray:
    """[queries, SIGNALS] float64.

    Similarity: cosine of the best memory, and mean over all. Agreement: the largest share of the memories that one item
    followed. Popularity: mean log(1 + training interactions) of what followed them. Entropy: of the softmax over the
    catalogue, a share of its largest. Of a query without memories what is told of them is 0.

    Args:
      part: the queries, and what was retrieved for them.
      bank: that they were retrieved from.
      item_table: [V + 1, dim] of the encoder.
      popularity: [V + 1] training interactions of each item.
      top_k: memories that the reader reads.
    """
    ids, scores, mask = (np.asarray(one)[:, :top_k] for one in part.retrieved)
    count = np.maximum(mask.sum(axis=1), 1)
    told = np.where(mask, bank.target_ids[np.maximum(ids, 0)], 0)
    same = (told[:, :, None] == told[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    first = mask & (np.argmax(same, axis=2) == np.arange(told.shape[1]))
    entropy, chances = _of_scores(part.query, item_table, np.where(first, told, 0))
    some = mask.any(axis=1)
    return np.column_stack(
        [
            np.where(some, np.where(mask, scores, -1.0).max(axis=1), 0.0),
            scores.sum(axis=1) / count,
            same.sum(axis=2).max(axis=1) / count,
            np.log1p(part.evaluation.end_positions),
            (np.log1p(popularity[told]) * mask).sum(axis=1) / count,
            entropy,
            chances,
        ]
    ).astype(np.float64)


def _of_scores(query, item_table, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy of each query's softmax over items 1..V, as a share of log V, and the probability of distinct items."""
    count = query.shape[0]
    missing = -count % _BLOCK

    def one(block):
        vectors, items = block
        chances = jax.nn.softmax(vectors @ item_table[1:].T, axis=1)
        entropy = -jnp.sum(chances * jnp.log(jnp.maximum(chances, 1e-30)), axis=1)
        picked = jnp.take_along_axis(chances, jnp.maximum(items - 1, 0), axis=1)
        return entropy, jnp.sum(jnp.where(items > 0, picked, 0.0), axis=1)

    blocks = (
        jnp.pad(query, ((0, missing), (0, 0))).reshape(-1, _BLOCK, query.shape[1]),
        jnp.pad(told, ((0, missing), (0, 0))).reshape(-1, _BLOCK, told.shape[1]),
    )
    found = jax.jit(lambda blocks: jax.lax.map(one, blocks))(blocks)
    entropy, chances = (np.asarray(field).reshape(-1)[:count] for field in found)
    return entropy / np.log(max(item_table.shape[0] - 1, 2)), chances
