"""Encoding of whole data sets: every vector is that of its history alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax import encoding
from raserec_jax.batching.windows import query_windows, training_examples
from raserec_jax.encoding import evaluation_set, example_rows, history_rows
from raserec_jax.models.encoder import SequenceEncoder
from tests.quick_jit import quick_jit
from tests.small_logs import random_split

MAX_LEN = 6
encode_rows = functools.partial(
    quick_jit(encoding.encode_blocks.__wrapped__, static_argnames=("encoder", "rows_per_block")),
    rows_per_block=16,
)


@pytest.fixture(scope="module")
def split():
    return random_split([3, 4, 9, 6, 2, 8, 5, 14, 1, 7], num_items=15)


@pytest.fixture(scope="module")
def encoder(split):
    return SequenceEncoder(split.log.num_items, MAX_LEN, dim=4, num_layers=1, inner_dim=8)


@pytest.fixture(scope="module")
def params(encoder):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def encode_alone(encoder, params):
    """history -> the encoder's output at the end of its last max_len items, alone in its row."""
    forward = quick_jit(lambda ids: encoder.apply({"params": params}, ids))

    def encode(history):
        kept = history[-MAX_LEN:]
        row = np.pad(kept, (0, MAX_LEN - len(kept)))[None].astype(np.int32)
        return np.asarray(forward(row))[0, len(kept) - 1]

    return encode


def tokens_up_to(rows, read):
    """Places in the log of the history that a read sees: its segment, up to the read."""
    row, end = rows.read_rows[read], rows.read_columns[read]
    seen = (rows.segment_ids[row] == rows.segment_ids[row, end]) & (
        np.arange(rows.segment_ids.shape[1]) <= end
    )
    return rows.token_places[row, seen].tolist()


@pytest.mark.parametrize(("part", "back"), [("valid", 2), ("test", 1)])
def test_evaluation_queries_see_the_last_items_before_the_target(part, back, split):
    log = split.log
    queries = evaluation_set(split, part, max_len=MAX_LEN, row_len=8)
    users = np.flatnonzero(log.lengths >= 3)
    np.testing.assert_array_equal(queries.user_ids, users)
    targets = log.offsets[users + 1] - back  # places in the log
    np.testing.assert_array_equal(queries.target_ids, log.item_ids[targets])
    np.testing.assert_array_equal(queries.end_positions, targets - log.offsets[users])
    np.testing.assert_array_equal(queries.times, targets)  # times rise along the log
    for query, (first, target) in enumerate(zip(log.offsets[users], targets, strict=True)):
        expected = range(max(first, target - MAX_LEN), target)
        assert tokens_up_to(queries.rows, query) == list(expected)


def test_vectors_are_those_of_each_history_alone(split, encoder, params, encode_alone):
    queries = evaluation_set(split, "test", max_len=MAX_LEN, row_len=8)
    # Rows in blocks of four: the last block is padded.
    assert len(queries.rows.token_places) % 4
    item_ids = jnp.asarray(split.log.item_ids)
    found = encode_rows(encoder, params, item_ids, queries.rows, rows_per_block=4)
    assert found.shape == (len(queries.user_ids), encoder.dim)
    for vector, user, end in zip(found, queries.user_ids, queries.end_positions, strict=True):
        expected = encode_alone(split.log.items_of(int(user))[:end])
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_training_vectors_are_those_of_each_prefix_alone(split, encoder, params, encode_alone):
    examples = training_examples(split)
    rows = example_rows(split, examples, max_len=MAX_LEN, long_history="exact", row_len=8)
    found = encode_rows(encoder, params, jnp.asarray(split.log.item_ids), rows)
    for vector, place, length in zip(found, examples.target_places, examples.lengths, strict=True):
        expected = encode_alone(split.log.item_ids[place - length : place])
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("long_history", ["exact", "chunked"])
def test_examples_are_read_in_their_order(long_history, split):
    examples = training_examples(split)
    rows = example_rows(split, examples, max_len=MAX_LEN, long_history=long_history, row_len=8)
    read = rows.token_places[rows.read_rows, rows.read_columns]
    np.testing.assert_array_equal(read, examples.target_places - 1)
    contexts = np.array([len(tokens_up_to(rows, i)) for i in range(len(read))])
    short = contexts < np.minimum(examples.lengths, MAX_LEN)
    assert (examples.lengths[short] > MAX_LEN).all()
    assert short.any() == (long_history == "chunked")


def test_rows_default_to_a_multiple_of_32(split):
    examples = training_examples(split)
    rows = example_rows(split, examples, max_len=MAX_LEN, long_history="exact")
    assert rows.token_places.shape[1] == 32
    assert evaluation_set(split, "test", max_len=33).rows.token_places.shape[1] == 64


def test_a_log_without_times_has_none(split):
    timeless = split._replace(log=type(split.log)(**_columns(split.log) | {"timestamps": None}))
    assert evaluation_set(timeless, "test", max_len=MAX_LEN).times is None


def _columns(log):
    names = ("user_ids", "item_ids", "timestamps", "user_labels", "item_labels")
    return {name: getattr(log, name) for name in names}


def test_history_rows_are_read_at_their_ends():
    windows = query_windows(np.array([0, 5, 9]), np.array([5, 4, 1]), 3)
    rows = history_rows(windows, 8)
    read = np.asarray(rows.token_places)[rows.read_rows, rows.read_columns]
    assert read.tolist() == [4, 8, 9]
