"""Pairs of items that follow each other in training histories, and batches of them for contrast within a batch.

In a batch every other pair's second text is a negative of each first one, so no text may stand in a batch twice.
"""

import collections
from collections.abc import Sequence

import numpy as np

from raserec_jax.batching.windows import training_examples
from raserec_jax.data.splits import Split
from raserec_jax.errors import ConfigError, DataError

_LOOKED_AT = 8
"""Times the pairs that are needed, at most, are looked at in a round: a log may have many millions."""


def following_pairs(split: Split, texts: Sequence[str], window: int) -> np.ndarray:
    """(item, one that follows it), for each time it happens in a training history.

    Args:
      split: only its training part is looked at.
      texts: of items 0..num_items; pairs with an item that has none are left out, and pairs of equal texts.
      window: the second item is at most so many places later, 1 or more.

    Returns:
      [pairs, 2] int32 items, in the order of the log.

    Raises:
      DataError: there is no such pair.
    """
    items = split.log.item_ids
    examples = training_examples(split)
    text_ids = distinct_texts(texts)
    places, lengths = examples.target_places, examples.lengths
    found = []
    for back in range(1, window + 1):
        later = places[lengths >= back]
        found.append(np.stack([items[later - back], items[later]], axis=1))
    pairs = np.concatenate(found).astype(np.int32)
    of_text = text_ids[pairs]
    pairs = pairs[(of_text > 0).all(axis=1) & (of_text[:, 0] != of_text[:, 1])]
    if not len(pairs):
        raise DataError(
            f"{split.log.name}: no two items with different texts follow each other in a training history, so the text "
            "encoder cannot be trained on them; use semantic.tune.steps=0"
        )
    return pairs


def distinct_texts(texts: Sequence[str]) -> np.ndarray:
    """[items + 1] int32: equal numbers for equal texts, 0 for none."""
    numbers = {"": 0}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32)


def pair_batches(texts: np.ndarray, steps: int, batch: int, seed: int) -> np.ndarray:
    """Batches in which no text stands twice, all pairs before any comes again but for those that find no place.

    Args:
      texts: [pairs, 2] int32, the number of each text.
      steps: batches to make.
      batch: pairs in each.
      seed: of the order.

    Returns:
      [steps, batch] int32 rows of `texts`.

    Raises:
      ConfigError: not even one batch can be filled.
    """
    draw = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < steps:
        left = steps - len(found)
        order = draw.permutation(len(texts))[: _LOOKED_AT * left * batch]
        made = _one_round(texts[order].tolist(), left, batch)
        if not made:
            raise ConfigError(
                f"--config.semantic.tune.batch={batch} is too large: of the {len(texts)} pairs of items that follow "
                "each other not that many have texts that all differ; lower it"
            )
        found += [order[rows] for rows in made]
    return np.array(found, np.int32)


def _one_round(sides: list[list[int]], steps: int, batch: int) -> list[list[int]]:
    """Batches of pairs taken as they come; one that has a text of the batch waits for the next."""
    made: list[list[int]] = []
    left = collections.deque(range(len(sides)))
    while len(made) < steps:
        rows: list[int] = []
        waiting: list[int] = []
        used: set[int] = set()
        while left and len(rows) < batch:
            row = left.popleft()
            if used.isdisjoint(sides[row]):
                rows.append(row)
                used.update(sides[row])
            else:
                waiting.append(row)
        if len(rows) < batch:
            break
        made.append(rows)
        left.extendleft(reversed(waiting))
    return made
