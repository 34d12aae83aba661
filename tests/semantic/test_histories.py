"""Histories as vectors and as texts."""

import numpy as np
import pytest

from raserec_jax.batching.windows import training_examples
from raserec_jax.semantic.histories import composed_vectors, history_items, history_texts
from raserec_jax.semantic.tables import pool_examples
from tests.semantic.small_text import ITEMS, small_split

SPLIT = small_split()
EXAMPLES = training_examples(SPLIT)


@pytest.mark.parametrize(("max_items", "decay"), [(20, 1.0), (3, 0.5), (1, 1.0)])
def test_composition_is_the_weighted_mean(max_items, decay):
    vectors = np.random.default_rng(0).normal(size=(ITEMS + 1, 5)).astype(np.float32)
    vectors[0] = vectors[7] = 0
    found = composed_vectors(SPLIT.log, EXAMPLES, vectors, max_items=max_items, decay=decay)
    for row in range(len(EXAMPLES.lengths)):
        items = SPLIT.log.items_of(int(EXAMPLES.user_ids[row]))[: EXAMPLES.lengths[row]][
            -max_items:
        ]
        weights = decay ** np.arange(len(items))[::-1]
        mean = (weights[:, None] * vectors[items]).sum(axis=0)
        expected = mean / (np.linalg.norm(mean) or 1)
        assert np.allclose(found[row], expected, atol=1e-3)
    assert found.dtype == np.float16


def test_held_out_items_stay_out_of_training_histories():
    pool = pool_examples(SPLIT, "published")
    vectors = np.eye(ITEMS + 1, dtype=np.float32)
    found = composed_vectors(SPLIT.log, pool, vectors)
    count = len(EXAMPLES.lengths)
    assert np.array_equal(found[:count], composed_vectors(SPLIT.log, EXAMPLES, vectors))
    for user in range(SPLIT.log.num_users):
        items = SPLIT.log.items_of(user)
        test_input = np.flatnonzero((pool.user_ids == user) & (pool.lengths == len(items) - 1))
        assert len(test_input) == 1
        assert test_input[0] >= count
        seen = np.flatnonzero(found[test_input[0]])
        assert set(seen) == set(items[:-1])


def test_texts_name_the_latest_first_and_keep_them_when_cut():
    names = ["", *(f"item {i}" for i in range(1, ITEMS + 1))]
    names[3] = ""
    texts = history_texts(SPLIT.log, EXAMPLES, names, max_items=4)
    in_time = history_texts(SPLIT.log, EXAMPLES, names, max_items=4, newest_first=False)
    cut = history_texts(SPLIT.log, EXAMPLES, names, max_items=4, max_chars=18)
    for row in range(len(texts)):
        items = history_items(SPLIT.log, EXAMPLES, row, 4)
        said = [names[item] for item in reversed(items) if names[item]]
        assert texts[row] == "; ".join(said)
        assert in_time[row] == "; ".join(reversed(said))
        assert cut[row] == "; ".join(said[:2])


def test_a_name_longer_than_the_limit_is_cut():
    names = ["", *("x" * 100 for _ in range(ITEMS))]
    assert {len(text) for text in history_texts(SPLIT.log, EXAMPLES, names, max_chars=30)} == {30}
