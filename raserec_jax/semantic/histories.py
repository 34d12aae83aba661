"""Histories as vectors: a cheap composition of item vectors, or texts to be encoded.

A history is what precedes an `Examples.target_places`; its last `max_items` items count, as they do in training.
"""

from collections.abc import Sequence

import numpy as np

from raserec_jax.batching.windows import Examples
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.semantic.cleaning import clean_text
from raserec_jax.semantic.ready_vectors import unit

_ROWS = 16_384  # histories whose float32 sums are in memory at a time
SEPARATOR = "; "


def composed_vectors(
    log: InteractionLog,
    examples: Examples,
    item_vectors: np.ndarray,
    *,
    max_items: int = 20,
    decay: float = 1.0,
) -> np.ndarray:
    """Weighted mean of the item vectors of each history, scaled to length 1.

    Args:
      log: that the examples point into.
      examples: histories.
      item_vectors: [items + 1, width], unit length or zeros.
      max_items: latest items that count, 1 or more.
      decay: the n-th item from the end weighs decay ** n, in (0, 1]; 1 = all alike.

    Returns:
      [examples, width] float16; zeros where no item has a vector.
    """
    table = np.asarray(item_vectors, np.float32)
    result = np.zeros((len(examples.lengths), table.shape[1]), np.float16)
    for start in range(0, len(result), _ROWS):
        places = examples.target_places[start : start + _ROWS]
        lengths = np.minimum(examples.lengths[start : start + _ROWS], max_items)
        summed = np.zeros((len(places), table.shape[1]), np.float32)
        for back in range(int(lengths.max(initial=0))):
            rows = np.flatnonzero(lengths > back)
            summed[rows] += np.float32(decay**back) * table[log.item_ids[places[rows] - 1 - back]]
        result[start : start + _ROWS] = unit(summed)
    return result


def history_items(log: InteractionLog, examples: Examples, row: int, max_items: int) -> list[int]:
    """The items of one history, oldest first; the latest `max_items`."""
    end = int(examples.target_places[row])
    return log.item_ids[end - min(int(examples.lengths[row]), max_items) : end].tolist()


def history_texts(
    log: InteractionLog,
    examples: Examples,
    names: Sequence[str],
    *,
    max_items: int = 20,
    max_chars: int = 2000,
    newest_first: bool = True,
) -> list[str]:
    """The names of each history's items, separated by "; ".

    Args:
      log: that the examples point into.
      examples: histories.
      names: items + 1 strings; items with "" are left out.
      max_items: latest items that are named.
      max_chars: of a text; what does not fit is the oldest, whatever the order.
      newest_first: for encoders, which cut long text at the end: so the latest items survive. In order of time for a
        language model.

    Returns:
      One text per example; "" where no item has a name.
    """
    items = log.item_ids.tolist()
    lengths = np.minimum(examples.lengths, max_items).tolist()
    texts = []
    for end, length in zip(examples.target_places.tolist(), lengths, strict=True):
        said: list[str] = []
        left = max_chars
        for item in reversed(items[end - length : end]):
            name = names[item]
            if not name:
                continue
            left -= len(name) + len(SEPARATOR)
            if left < 0 and said:
                break
            said.append(name if left >= 0 else clean_text(name, max_chars))
        texts.append(SEPARATOR.join(said if newest_first else reversed(said)))
    return texts
