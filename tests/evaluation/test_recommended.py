"""Lists agree with ranks: the item at the target's rank is the target, by either protocol."""

import numpy as np
import pytest

from raserec_jax.evaluation.evaluator import rank_histories
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.recommended import recommended_items

ITEMS, DIM = 150, 4


def case(seed):
    """Histories on both sides of 64 items, where the groups change; some targets are repeats."""
    draw = np.random.default_rng(seed)
    ends = np.array([3, 70, 1, 64, 65, 12])
    offsets = np.concatenate([[0], np.cumsum(ends + 1)])
    item_ids = draw.integers(1, ITEMS + 1, offsets[-1]).astype(np.int32)
    target_ids = item_ids[offsets[:-1] + ends]
    item_ids[offsets[1]] = target_ids[1]
    table = draw.normal(size=(ITEMS + 1, DIM)).astype(np.float32)
    query = draw.normal(size=(len(ends), DIM)).astype(np.float32)
    return query, table, target_ids, offsets, item_ids, ends.astype(np.int32), np.arange(len(ends))


@pytest.mark.parametrize("extra", [{}, {"repeat_bias": 1.5}, {"mix": 0.5}])
def test_lists_agree_with_ranks(extra):
    query, table, *where = case(0)
    scores = Scores(query, **extra)
    if "mix" in extra:
        sparse_ids = np.tile(np.arange(1, 4, dtype=np.int32), (len(query), 1))
        mass = np.full(sparse_ids.shape, 0.3, np.float32)
        scores = scores._replace(sparse_ids=sparse_ids, sparse_mass=mass)
    lists = recommended_items(scores, table, ITEMS, *where)
    ranks = rank_histories(scores, table, *where)
    target_ids, offsets, item_ids, ends, _ = where
    for found, rank in zip(lists, ranks, strict=True):
        np.testing.assert_array_equal(found[np.arange(len(ends)), rank], target_ids)
    for row, end in enumerate(ends):
        seen = set(item_ids[offsets[row] : offsets[row] + end].tolist()) - {int(target_ids[row])}
        assert set(lists[0][row]) == set(range(1, ITEMS + 1))
        assert set(lists[1][row]) == set(range(1, ITEMS + 1)) - seen | {0}
        fresh = [item for item in lists[0][row] if item not in seen]
        assert lists[1][row, : len(fresh)].tolist() == fresh
