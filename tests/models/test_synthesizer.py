"""PositiveSynthesizer: golden attention, the plain form of its scores, and rows without neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.synthesizer import ItemMixer, PositiveSynthesizer
from tests.golden_files import read_golden
from tests.quick_jit import quick_jit


@pytest.mark.parametrize("name", ["sra_cl_tau1.0", "sra_cl_tau0.5"])
def test_golden_attention(name):
    golden = read_golden(name)
    vectors, history = golden["semantic_embeddings"], golden["history_ids"]
    neighbors = golden["neighbor_history_ids"][history]
    params = {"W": golden["w/W"], "a": golden["w/a"]}
    hidden = np.zeros((*neighbors.shape, 16), np.float32)
    _, attention = PositiveSynthesizer(golden["w/W"].shape[1]).apply(
        {"params": params}, *map(jnp.asarray, (vectors[history], vectors[neighbors], hidden))
    )
    np.testing.assert_allclose(attention, golden["attention"], rtol=2e-5, atol=1e-6)


def _inputs(batch=5, k=4, width=7, hidden=3):
    draw = np.random.default_rng(0)
    shapes = ((batch, width), (batch, k, width), (batch, k, hidden))
    return [jnp.asarray(draw.normal(size=shape).astype(np.float32)) for shape in shapes]


def test_it_is_the_published_form():
    """LeakyReLU(a^T [W s || W s']) written out, with a mask."""
    own, neighbors, hidden = _inputs()
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    module = PositiveSynthesizer(6)
    variables = quick_jit(module.init)(jax.random.key(0), own, neighbors, hidden)
    positive, attention = quick_jit(module.apply)(
        variables, own, neighbors, hidden, jnp.asarray(mask)
    )
    own, neighbors, hidden = (np.asarray(x) for x in (own, neighbors, hidden))
    kernel, attend = (np.asarray(variables["params"][name]) for name in ("W", "a"))
    for row in range(len(own)):
        scores = []
        for j in np.flatnonzero(mask[row]):
            x = float(
                np.concatenate([own[row] @ kernel, neighbors[row, j] @ kernel]) @ attend[:, 0]
            )
            scores.append(x if x > 0 else 0.2 * x)
        weights = np.exp(scores) / np.exp(scores).sum() if scores else np.zeros(0)
        np.testing.assert_allclose(attention[row][mask[row]], weights, rtol=1e-4)
        assert np.all(np.asarray(attention[row])[~mask[row]] == 0)
        expected = (weights[:, None] * hidden[row][mask[row]]).sum(axis=0)
        np.testing.assert_allclose(positive[row], expected, rtol=1e-4, atol=1e-6)


def test_gradients_are_finite_without_neighbours():
    own, neighbors, hidden = _inputs()
    module = PositiveSynthesizer(6)
    variables = quick_jit(module.init)(jax.random.key(0), own, neighbors, hidden)

    def total(variables, hidden):
        return module.apply(variables, own, neighbors, hidden, jnp.zeros((5, 4), bool))[0].sum()

    value, grads = jax.value_and_grad(total, argnums=(0, 1))(variables, jnp.asarray(hidden))
    assert value == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_dropout_keeps_the_mean_and_drops_whole_neighbours():
    own, neighbors, hidden = _inputs(batch=400)
    module = PositiveSynthesizer(6, attention_dropout=0.5)
    variables = quick_jit(module.init)(jax.random.key(0), own, neighbors, hidden)
    hidden = jnp.broadcast_to(jnp.eye(4), (400, 4, 4))
    weights, attention = quick_jit(functools.partial(module.apply, deterministic=False))(
        variables, own, neighbors, hidden, rngs={"dropout": jax.random.key(1)}
    )
    kept = np.asarray(weights) > 0
    assert abs(kept.mean() - 0.5) < 0.05
    np.testing.assert_allclose(
        np.asarray(weights)[kept], 2 * np.asarray(attention)[kept], rtol=1e-5
    )


def test_the_projection_starts_as_published():
    own, neighbors, hidden = _inputs(width=50)
    params = quick_jit(PositiveSynthesizer(30).init)(jax.random.key(0), own, neighbors, hidden)[
        "params"
    ]
    for leaf, fans in ((params["W"], 80), (params["a"], 61)):
        bound = 1.414 * (6 / fans) ** 0.5
        assert 0.9 * bound < np.abs(leaf).max() <= bound


def test_items_are_mixed_as_histories_are():
    """With the same parameters, and without dropout, ItemMixer is the synthesizer on vectors of items."""
    draw = np.random.default_rng(1)
    semantic = jnp.asarray(draw.normal(size=(9, 5)), jnp.float16)
    table = jnp.asarray(draw.normal(size=(9, 4)), jnp.float32)
    items = jnp.asarray(draw.integers(0, 9, (2, 3)), jnp.int32)
    neighbors = draw.integers(1, 9, (2, 3, 4)).astype(np.int32)
    neighbors[0, 1, 2:] = neighbors[1, 0] = -1
    mixer, neighbors = ItemMixer(6), jnp.asarray(neighbors)
    variables = quick_jit(mixer.init)(jax.random.key(0), semantic, items, neighbors, table)
    mixed = quick_jit(mixer.apply)(variables, semantic, items, neighbors, table)
    kept = jnp.maximum(neighbors, 0).reshape(6, 4)
    expected, _ = PositiveSynthesizer(6).apply(
        variables,
        semantic[items.reshape(-1)],
        semantic[kept],
        table[kept],
        neighbors.reshape(6, 4) >= 0,
    )
    np.testing.assert_allclose(mixed.reshape(6, 4), expected, rtol=1e-4, atol=1e-6)
    assert np.all(mixed[1, 0] == 0)
