"""GRUEncoder: its recurrence written out, segments that do not see each other, reads, and the choice by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.errors import ConfigError
from raserec_jax.models.backbones import make_backbone
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.gru_encoder import GRUEncoder
from tests.quick_jit import quick_jit


def small(**changes):
    fields = {"num_items": 9, "max_len": 6, "dim": 4, "num_layers": 2, "inner_dim": 5}
    encoder = GRUEncoder(**fields | changes)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))
    draw = np.random.default_rng(0)
    return encoder, jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), s.dtype), shapes)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_definition(params, items):
    """One history, one place after the other, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    xs = params["item_table"][items]
    for layer in ("layer_0", "layer_1"):
        p, h, states = params[layer], np.zeros(5), []
        for x in xs:
            r_x, z_x, n_x = np.split(x @ p["input"]["kernel"] + p["input"]["bias"], 3)
            r_h, z_h, n_h = np.split(h @ p["kernel"] + p["bias"], 3)
            r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
            h = (1 - z) * np.tanh(n_x + r * n_h) + z * h
            states.append(h)
        xs = np.array(states)
    return xs @ params["out"]["kernel"] + params["out"]["bias"]


def test_packed_histories_are_each_by_itself():
    encoder, params = small()
    rows = jnp.array([[3, 1, 4, 5, 9, 2, 0, 0], [7, 7, 1, 0, 0, 0, 0, 0]])
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]])
    hidden = encoder.apply(params, rows, segment_ids=segments)
    for row, places in ((0, slice(0, 3)), (0, slice(3, 6)), (1, slice(0, 3))):
        expected = by_definition(params, np.asarray(rows)[row, places])
        np.testing.assert_allclose(hidden[row, places], expected, rtol=1e-4, atol=1e-5)
    read = (jnp.array([1, 0]), jnp.array([2, 4]))
    found = encoder.apply(params, rows, segment_ids=segments, read=read)
    np.testing.assert_array_equal(found, hidden[read])


def test_dropout_needs_and_follows_its_key():
    encoder, params = small(hidden_dropout=0.5)
    rows = jnp.array([[3, 1, 4]])
    first, second, again = (
        encoder.apply(params, rows, deterministic=False, rngs={"dropout": jax.random.key(k)})
        for k in (0, 1, 0)
    )
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, again)


def test_backbones_by_name_take_the_fields_they_have():
    settings = {"max_len": 6, "dim": 8, "num_heads": 2, "inner_dim": 12, "repeat_bias": True}
    gru = make_backbone(9, kind="gru", **settings)
    assert isinstance(gru, GRUEncoder) and (gru.inner_dim, gru.dim, gru.num_items) == (12, 8, 9)
    assert isinstance(make_backbone(9, **settings), SequenceEncoder)
    params = quick_jit(gru.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    assert params["repeat_bias"] == 0
    with pytest.raises(ConfigError, match="encoder.kind='lstm' is unknown; use one of transformer"):
        make_backbone(9, kind="lstm")
