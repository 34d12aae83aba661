"""SemanticTables: what is saved comes back, and only for its own log and split."""

import subprocess
import sys

import numpy as np
import pytest

from raserec_jax.batching.windows import training_examples
from raserec_jax.errors import DataError
from raserec_jax.semantic.tables import SemanticTables, load_with_manifest, pool_examples
from tests.semantic.small_text import ITEMS, small_split

SPLIT = small_split()
EXAMPLES = len(training_examples(SPLIT).lengths)


def tables(pool="training", **changes):
    draw = np.random.default_rng(0)
    rows = len(pool_examples(SPLIT, pool).lengths)
    made = SemanticTables(
        draw.normal(size=(ITEMS + 1, 4)).astype(np.float16),
        draw.normal(size=(rows, 4)).astype(np.float16),
        np.roll(np.arange(ITEMS + 1, dtype=np.int32), 1)[:, None],
        np.roll(np.arange(EXAMPLES, dtype=np.int32), 1)[:, None],
        pool,
    )
    made.neighbor_item_ids[:2] = -1
    return made._replace(**changes)


@pytest.mark.parametrize("pool", ["training", "published"])
def test_what_was_saved_comes_back(tmp_path, pool):
    saved = tables(pool)
    saved.save(tmp_path / "t", SPLIT, {"encoder": {"name": "hashing"}})
    found, manifest = load_with_manifest(tmp_path / "t", SPLIT)
    for name in SemanticTables._fields:
        assert np.array_equal(getattr(found, name), getattr(saved, name))
    assert found.item_vectors.dtype == np.float16
    assert manifest["provenance"] == {"encoder": {"name": "hashing"}}
    assert np.array_equal(
        SemanticTables.load(tmp_path / "t").history_vectors, saved.history_vectors
    )


def test_published_pool_holds_two_more_histories_per_user():
    pool = pool_examples(SPLIT, "published")
    users = SPLIT.log.num_users
    assert len(pool.lengths) == EXAMPLES + 2 * users
    for part, position in ((0, SPLIT.valid_position), (1, SPLIT.test_position)):
        rows = slice(EXAMPLES + part * users, EXAMPLES + (part + 1) * users)
        assert np.array_equal(pool.lengths[rows], position)
        assert np.array_equal(pool.user_ids[rows], np.arange(users))
        assert np.array_equal(pool.target_places[rows], SPLIT.log.offsets[:-1] + position)
    with pytest.raises(DataError, match="pool='all' is unknown"):
        pool_examples(SPLIT, "all")


def test_tables_of_another_log_or_split_are_refused(tmp_path):
    tables().save(tmp_path / "t", SPLIT)
    with pytest.raises(DataError, match="belong to another log .* of small"):
        SemanticTables.load(tmp_path / "t", small_split(seed=1))
    earlier = SPLIT._replace(train_end=SPLIT.train_end - (SPLIT.train_end > 1))
    with pytest.raises(DataError, match="belong to another split"):
        SemanticTables.load(tmp_path / "t", earlier)


def test_damage_is_noticed(tmp_path):
    tables().save(tmp_path / "t", SPLIT)
    path = tmp_path / "t" / "history_vectors.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="damaged, its SHA-256 is not the manifest's"):
        SemanticTables.load(tmp_path / "t", SPLIT)
    with pytest.raises(DataError, match="no SemanticTables here"):
        SemanticTables.load(tmp_path, SPLIT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item_vectors": np.zeros((3, 4), np.float16)}, "do not fit 24 items"),
        ({"item_vectors": np.full((ITEMS + 1, 4), np.nan, np.float16)}, "must be finite float16"),
        ({"item_vectors": np.ones((ITEMS + 1, 4), np.float32)}, "must be finite float16"),
        ({"neighbor_item_ids": np.full((ITEMS + 1, 1), 99, np.int32)}, r"outside 0..24"),
        ({"neighbor_item_ids": np.arange(ITEMS + 1, dtype=np.int32)[:, None]}, "or its own"),
        ({"neighbor_item_ids": np.r_[-1, np.zeros(ITEMS)].astype(np.int32)[:, None]}, "padding"),
    ],
)
def test_tables_that_contradict_themselves_are_not_saved(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        tables(**changes).save(tmp_path / "t", SPLIT)
    assert not (tmp_path / "t").exists()


def test_reading_tables_needs_numpy_only():
    code = "import sys, raserec_jax.semantic.tables; print({'jax', 'flax', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
