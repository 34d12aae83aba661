"""Keys in bfloat16: the same bank on rounded keys, in memory, on disk and in every search; what rounding costs."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raserec_jax.batching.windows import training_examples
from raserec_jax.data.known_sets import locate
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.splits import leave_one_out
from raserec_jax.encoding import encode_rows, example_rows
from raserec_jax.errors import CheckpointError
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.retrieval import layout
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.searcher import recall_against_exact


def random_bank(rows, dim=8, seed=0, scale=1.0):
    draw = np.random.default_rng(seed)
    keys = draw.normal(size=(rows, dim)) * scale
    users, lengths = draw.integers(0, 5, rows), draw.integers(1, 9, rows)
    return MemoryBank(keys.astype(np.float32), np.arange(rows) + 1, users, lengths, lengths)


def queries_of(bank, count, seed=1):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count, bank.dim)).astype(np.float32)
    return Queries(vectors, draw.integers(0, 5, count), draw.integers(1, 9, count))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_ROWS", 4)
    monkeypatch.setattr(layout, "GROUP_BLOCKS", 2)


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.sampled_from([1.0, 1e-30, 1e30]), zeros=st.booleans(), seed=st.integers(0, 2**31))
def test_search_is_that_of_the_rounded_keys(scale, zeros, seed):
    bank = random_bank(100, 6, seed, scale)
    if zeros:
        keys = bank.keys * np.random.default_rng(seed).integers(0, 2, (100, 1), np.int8)
        bank = MemoryBank(keys, bank.target_ids, bank.user_ids, bank.lengths)
    rounded = bank.with_keys_as("bfloat16")
    queries = queries_of(bank, 8, seed)
    found = ExactIndex(rounded).search(queries, 7)
    expected = ExactIndex(rounded.with_keys_as("float32")).search(queries, 7)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(found.mask, expected.mask)
    # Rows of equal score to the last bits may change places.
    differing = np.asarray(found.ids != expected.ids)
    neighbours = np.abs(np.diff(np.asarray(expected.scores), axis=1, prepend=2, append=-2)) < 1e-6
    assert not (differing & ~(neighbours[:, 1:] | neighbours[:, :-1])).any()


def test_half_the_bytes_and_the_same_rows():
    bank = random_bank(50)
    rounded = bank.with_keys_as("bfloat16")
    assert rounded.keys.dtype == jnp.bfloat16 and 2 * rounded.keys.nbytes == bank.keys.nbytes
    np.testing.assert_array_equal(rounded.keys, bank.keys.astype(jnp.bfloat16))
    assert bank.with_keys_as("float32") is bank and rounded.with_keys_as("bfloat16") is rounded
    assert rounded.fingerprint != bank.fingerprint
    shelves = ExactIndex(rounded)._shelves
    assert shelves.tile_keys.dtype == shelves.block_keys.dtype == jnp.bfloat16
    grown = rounded.append(bank.keys[:3], *4 * [np.arange(1, 4)])
    assert grown.keys.dtype == jnp.bfloat16 and grown.segment_ends == (50, 53)
    np.testing.assert_array_equal(grown.keys[50:], rounded.keys[:3])


def test_files_are_plain_arrays_and_come_back(tmp_path):
    rounded = random_bank(50).with_keys_as("bfloat16")
    grown = rounded.append(rounded.keys[:3], *4 * [np.arange(1, 4)])
    grown.save(tmp_path / "bank", "encoder")
    stored = np.load(tmp_path / "bank/segments/000000/keys.npy", allow_pickle=False)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, rounded.keys.view(np.uint16))
    back = MemoryBank.load(tmp_path / "bank", "encoder")
    assert back.keys.dtype == jnp.bfloat16 and back.fingerprint == grown.fingerprint
    np.testing.assert_array_equal(back.keys, grown.keys)
    path = tmp_path / "bank/segments/000001/keys.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match="damaged"):
        MemoryBank.load(tmp_path / "bank")


def recall(bank, queries, k=20):
    index = ExactIndex(bank.with_keys_as("bfloat16"), eligibility="all")
    return recall_against_exact(index, bank, queries, k, "all", sample=200)["recall"]


def test_recall_on_random_vectors():
    """No structure at all, so near ties abound: the worst that rounding does."""
    bank = random_bank(5000, 32)
    found = recall(bank, queries_of(bank, 200))
    assert 0.97 < found < 1.0  # and the report tells that something is lost


def test_recall_on_vectors_of_real_histories():
    folder = os.environ.get("RASEREC_DATA_DIR", "")
    if not os.path.isdir(os.path.join(folder, "amazon_beauty")):
        pytest.skip("RASEREC_DATA_DIR is not set to a folder with amazon_beauty")
    log = read_interactions(locate("amazon_beauty").interactions)
    split = leave_one_out(log.select(log.user_ids < 600))
    encoder = SequenceEncoder(split.log.num_items, 50, num_layers=1)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), jnp.float32), shapes)
    examples = training_examples(split)
    rows = example_rows(split, examples, max_len=50, long_history="chunked")
    keys = np.asarray(encode_rows(encoder, params, jnp.asarray(split.log.item_ids), rows))
    bank = MemoryBank(keys, examples.target_ids, examples.user_ids, examples.lengths)
    assert bank.rows > 2000
    assert recall(bank, Queries(keys, examples.user_ids, examples.lengths)) > 0.97
