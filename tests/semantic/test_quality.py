"""The quality report on tables whose quality is known."""

import numpy as np

from raserec_jax.batching.windows import training_examples
from raserec_jax.data.item_text import ItemText
from raserec_jax.semantic.quality import quality
from raserec_jax.semantic.quality_page import quality_page, quality_text
from raserec_jax.semantic.tables import SemanticTables
from tests.semantic.small_text import ITEMS, small_split

SPLIT = small_split()
EXAMPLES = training_examples(SPLIT)
COUNT = len(EXAMPLES.lengths)
EVIL = "<script>alert(1)</script>"


def kinds():
    """Item 1..24 by turns of two kinds."""
    labels = SPLIT.log.item_labels[1:]
    return ItemText(
        labels,
        {"categories": [f"All|{'ab'[i % 2]}" for i in range(ITEMS)], "title": [EVIL] * ITEMS},
    )


def tables(step):
    """The only neighbour of item i is i + step."""
    ids = np.arange(ITEMS + 1, dtype=np.int32)
    neighbors = np.where(ids + step <= ITEMS, ids + step, ids + step - ITEMS)[:, None].astype(
        np.int32
    )
    neighbors[0] = -1
    vectors = np.zeros((ITEMS + 1, 2), np.float16)
    vectors[1:, 0] = 1
    histories = np.zeros((COUNT, 2), np.float16)
    histories[:, 1] = 1
    rows = np.roll(np.arange(COUNT, dtype=np.int32), 1)[:, None]
    return SemanticTables(vectors, histories, neighbors, rows, "training")


def test_shares_are_counted():
    names = ["", *(f"item {i}" for i in range(1, ITEMS + 1))]
    same = quality(tables(2), SPLIT, kinds(), names)
    other = quality(tables(1), SPLIT, kinds(), names)
    assert same["items"]["same"]["category"]["neighbors"] == 1.0
    assert other["items"]["same"]["category"]["neighbors"] == 0.0
    assert 0.2 < same["items"]["same"]["category"]["random"] < 0.8
    assert (same["items"]["with_neighbors"], same["items"]["same_cosine"]) == (ITEMS, 1.0)
    rows = np.roll(np.arange(COUNT), 1)
    last = SPLIT.log.item_ids[EXAMPLES.target_places - 1]
    expected = np.mean(last % 2 == last[rows] % 2)
    assert np.isclose(same["histories"]["same"]["category"]["neighbors"], expected)
    (example, *_) = same["items"]["examples"]
    number = int(example["of"].split()[1])
    assert (
        example["neighbors"][0]["is"]
        == f"item {number + 2 if number + 2 <= ITEMS else number + 2 - ITEMS}"
    )


def test_pages_escape_titles_and_tables_may_be_empty():
    names = [""] + [EVIL] * ITEMS
    found = quality(tables(2), SPLIT, kinds(), names)
    page = quality_page(found, "body { color: red }")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    bare = tables(1)._replace(
        neighbor_item_ids=np.full((ITEMS + 1, 2), -1, np.int32),
        neighbor_history_ids=np.full((COUNT, 2), -1, np.int32),
    )
    found = quality(bare, SPLIT, None, names)
    assert "cosine of the first unknown" in quality_text(found)
    assert "unknown" in quality_page(found, "")
