"""The encoder: golden parity, and what a row may and may not depend on.

Most tests share the golden weights and one shape, so that they share one compilation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.encoder import SequenceEncoder
from tests.golden_files import read_golden
from tests.models.torch_weights import encoder_of, encoder_params
from tests.quick_jit import quick_jit


def apply_encoder(encoder, params, item_ids, segments=None, places=None, read=None, key=None):
    return encoder.apply(
        {"params": params},
        item_ids,
        segment_ids=segments,
        positions=places,
        read=read,
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
    )


encode = quick_jit(apply_encoder, static_argnames="encoder")


@pytest.fixture(scope="module")
def golden():
    return read_golden("encoder")


@pytest.fixture(scope="module")
def params(golden):
    return encoder_params(golden)


@pytest.fixture(scope="module")
def encoder(golden):
    return encoder_of(golden)


@pytest.fixture(scope="module")
def hidden_alone(golden, params, encoder):
    """Every place of the golden histories, one history per row."""
    optimised = jax.jit(apply_encoder, static_argnames="encoder")
    return np.asarray(optimised(encoder, params, golden["item_ids"]))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


class Rows(NamedTuple):
    """Rows of 24 places for 10 histories, and where each history ends."""

    item_ids: np.ndarray
    segments: np.ndarray
    places: np.ndarray
    read: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, golden, row_of, start_of):
        rows = [np.zeros((10, 24), np.int32) for _ in range(3)]
        ends = []
        for i, length in enumerate(golden["lengths"]):
            where = (row_of(i), slice(start_of(i), start_of(i) + length))
            for field, values in zip(
                rows, (golden["item_ids"][i, :length], i + 1, np.arange(length)), strict=True
            ):
                field[where] = values
            ends.append((row_of(i), start_of(i) + length - 1))
        return cls(*rows, tuple(np.array(ends, np.int32).T))

    @classmethod
    def single(cls, golden):
        """One history per row, a row of padding, and much padding on the right."""
        return cls.of(golden, lambda i: i, lambda i: 0)

    @classmethod
    def packed(cls, golden):
        """Two to a row, the second right after the first."""
        return cls.of(golden, lambda i: i // 2, lambda i: golden["lengths"][i - 1] if i % 2 else 0)


def test_golden_last_hidden_and_scores(golden, params, hidden_alone):
    last = hidden_alone[np.arange(len(golden["lengths"])), golden["lengths"] - 1]
    assert_close(last, golden["last_hidden"])
    assert_close(last @ params["item_table"].T, golden["scores"])


def test_golden_explicit_segments_and_positions(golden, params, encoder, hidden_alone):
    rows = Rows.single(golden)
    hidden = np.asarray(encode(encoder, params, *rows[:3]))
    assert_close(hidden[rows.read], golden["last_hidden"])
    # More padding on the right, and a row of nothing else, change nothing and are finite.
    real = golden["item_ids"] > 0
    assert_close(hidden[:9, :12][real], hidden_alone[real])
    assert np.isfinite(hidden).all()


def test_golden_packed_rows_equal_one_row_per_history(golden, params, encoder, hidden_alone):
    rows = Rows.packed(golden)
    hidden = np.asarray(encode(encoder, params, *rows[:3]))
    assert_close(hidden[rows.read], golden["last_hidden"])
    for i, length in enumerate(golden["lengths"]):
        row, end = rows.read[0][i], rows.read[1][i] + 1
        assert_close(hidden[row, end - length : end], hidden_alone[i, :length])


def test_golden_read_with_positions_from_the_segments(golden, params, encoder):
    rows = Rows.packed(golden)
    found = encode(encoder, params, rows.item_ids, rows.segments, None, rows.read)
    assert_close(found, golden["last_hidden"])


def test_read_is_a_gather_of_the_whole_output(golden, params, encoder):
    rows = Rows.packed(golden)
    hidden = np.asarray(encode(encoder, params, *rows[:3]))
    read = (np.repeat(rows.read[0][::2], 2)[:9], np.arange(9, dtype=np.int32)[::-1])
    read[1][0] = 23  # a place of padding can be read too
    found = encode(encoder, params, rows.item_ids, rows.segments, None, read)
    real = rows.item_ids[read] > 0
    assert real.any() and not real[0]
    assert_close(np.asarray(found)[real], hidden[read][real])
    assert np.isfinite(found).all()


def test_gradients_with_rows_of_padding_are_finite(golden, params, encoder):
    rows = jax.tree.map(jnp.asarray, Rows.single(golden))

    def total(params):
        hidden = apply_encoder(encoder, params, *rows[:3])  # padding is read as well
        return jnp.sum(hidden * jnp.arange(16.0)[None, None])

    leaves = jax.tree.leaves(quick_jit(jax.grad(total))(jax.tree.map(jnp.asarray, params)))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in leaves if leaf.ndim > 1)


@pytest.mark.parametrize("place", [1, 5, 11])
def test_a_later_item_changes_nothing_before_it(golden, params, encoder, place):
    rows = Rows.single(golden)
    full = np.maximum(golden["item_ids"], 1)
    rows.item_ids[:9, :12], rows.segments[:9, :12], rows.places[:9, :12] = full, 1, np.arange(12)
    before = np.asarray(encode(encoder, params, *rows[:3]))
    rows.item_ids[:9, place] = full[:, place] % encoder.num_items + 1
    after = np.asarray(encode(encoder, params, *rows[:3]))
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (np.abs(before - after)[:9, place:12].max(axis=-1) > 1e-4).all()


def test_a_neighbour_in_the_row_changes_nothing(golden, params, encoder):
    rows = Rows.packed(golden)
    odd = rows.segments % 2 == 1  # the first of each row
    changed = np.where(odd, rows.item_ids % encoder.num_items + 1, rows.item_ids).astype(np.int32)
    before = np.asarray(encode(encoder, params, *rows[:3]))
    after = np.asarray(encode(encoder, params, changed, *rows[1:3]))
    np.testing.assert_array_equal(before[~odd], after[~odd])
    assert (before[odd] != after[odd]).any(axis=-1).all()


def test_dropout_differs_between_rows_and_keys_but_not_for_one_key(golden, params, encoder):
    same_rows = np.broadcast_to(golden["item_ids"][-1:], (6, 12))

    def draw(seed):
        return np.asarray(encode(encoder, params, same_rows, key=jax.random.key(seed)))

    first, again, other = draw(0), draw(0), draw(1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
    for row in range(1, len(first)):
        assert (first[0] != first[row]).mean() > 0.9


def layer_norm(x, scale_and_bias):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * scale_and_bias["scale"] + scale_and_bias["bias"]


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def pre_norm_reference(params, items):
    """One history through the pre-norm encoder, written out in NumPy for one head."""
    x = params["item_table"][items] + params["position_table"][: len(items)]
    block = params["block_0"]
    normed = layer_norm(x, block["norm_attn"])
    query, key, value = (dense(normed, block["attention"][n]) for n in ("query", "key", "value"))
    scores = query @ key.T / np.sqrt(x.shape[1])
    weights = np.exp(np.where(np.tri(len(items)) > 0, scores, -np.inf))
    x = x + dense(weights / weights.sum(1, keepdims=True) @ value, block["attention_out"])
    inner = dense(layer_norm(x, block["norm_ffn"]), block["ffn"]["inner"])
    inner = np.asarray(jax.scipy.stats.norm.cdf(inner.astype(np.float32))) * inner
    x = x + dense(inner, block["ffn"]["outer"])
    return layer_norm(x, params["norm_out"])


def test_pre_norm_equals_its_formula():
    encoder = SequenceEncoder(
        num_items=9, max_len=5, dim=4, num_layers=1, num_heads=1, inner_dim=6, norm="pre"
    )
    item_ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]], np.int32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), item_ids)["params"]
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)
    hidden = np.asarray(encode(encoder, params, item_ids))
    for row, length in ((0, 5), (1, 3)):
        expected = pre_norm_reference(params, item_ids[row, :length])
        np.testing.assert_allclose(hidden[row, :length], expected, rtol=1e-4, atol=1e-4)


def test_the_published_backbone_has_the_published_number_of_parameters():
    encoder = SequenceEncoder(num_items=12_101, max_len=50)  # 12,102 rows of the table
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 877_824


def test_initial_parameters():
    encoder = SequenceEncoder(num_items=400, max_len=90, num_layers=1, init_scale=0.05)
    params = quick_jit(encoder.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if name in ("kernel", "item_table", "position_table"):
            assert abs(np.std(leaf) - 0.05) < 0.002, path
        else:
            assert (np.asarray(leaf) == (1.0 if name == "scale" else 0.0)).all(), path


def test_the_golden_weights_are_all_our_parameters(params, encoder):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_heads": 3}, "dim=16 is not a multiple of num_heads=3"),
        ({"norm": "none"}, "norm='none' is unknown; use 'post' or 'pre'"),
    ],
)
def test_impossible_settings_are_refused(golden, setting, message):
    encoder = encoder_of(golden, **setting)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))
