"""Rows by id: the gradient of a plain gather, however it is added up, and the same bits where that is promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.losses import Negatives, next_item_loss, sampled_loss
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.gru_encoder import GRUEncoder
from raserec_jax.table_rows import TABLE_GRADIENTS, add_rows, table_gradient_for, take_rows
from tests.quick_jit import quick_jit

ROWS, DIM, PLACES = 40, 5, 600


@pytest.fixture(scope="module")
def drawn():
    """Ids of which few are most, as in a batch, and gradients of very different sizes."""
    draw = np.random.default_rng(0)
    ids = np.minimum(draw.geometric(0.3, PLACES) - 1, ROWS - 1).astype(np.int32)
    values = draw.normal(size=(PLACES, DIM)) * 10.0 ** draw.integers(-4, 1, (PLACES, 1))
    return jnp.asarray(ids), jnp.asarray(values, jnp.float32)


def sums(ids, values):
    """In float64."""
    found = np.zeros((ROWS, DIM))
    np.add.at(found, np.asarray(ids), np.asarray(values, np.float64))
    return found


@pytest.mark.parametrize("how", TABLE_GRADIENTS)
def test_equal_ids_add_up(how, drawn):
    table = jnp.ones((ROWS, DIM))
    found = quick_jit(lambda *args: add_rows(*args, how))(table, *drawn)
    np.testing.assert_allclose(found, 1 + sums(*drawn), rtol=2e-6, atol=2e-6)
    # Nothing at all, and values all but zero.
    for scale in (0.0, 1e-30):
        found = add_rows(jnp.zeros((ROWS, DIM)), drawn[0], scale * drawn[1], how)
        np.testing.assert_allclose(found, scale * sums(*drawn), atol=2e-26 * scale / 1e-30)


@pytest.mark.parametrize("how", TABLE_GRADIENTS)
def test_the_gradient_is_that_of_a_plain_gather(how, drawn):
    ids, values = drawn[0].reshape(20, 30), drawn[1].reshape(20, 30, DIM)
    table = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, DIM)), jnp.float32)
    found, back = jax.vjp(lambda table: take_rows(table, ids, how), table)
    np.testing.assert_array_equal(found, table[ids])
    np.testing.assert_allclose(back(values)[0], sums(*drawn), rtol=2e-6, atol=2e-6)


def test_repeatable_sums_have_the_same_bits_in_any_order(drawn):
    ids, values = drawn
    table = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, DIM)), jnp.float32)
    add = {
        how: quick_jit(lambda i, v, how=how: add_rows(table, i, v, how))
        for how in ("scatter", "sorted", "repeatable")
    }
    orders = [np.random.default_rng(seed).permutation(PLACES) for seed in range(4)]
    for how, one in add.items():
        found = [np.asarray(one(ids[order], values[order])) for order in orders]
        same = all((found[0] == other).all() for other in found[1:])
        assert same == (how == "repeatable"), how


def test_a_value_that_is_not_finite_shows():
    values = jnp.ones((3, 2)).at[1, 0].set(jnp.nan)
    for how in TABLE_GRADIENTS:
        found = add_rows(jnp.zeros((4, 2)), jnp.array([1, 1, 2]), values, how)
        assert not np.isfinite(found).all()


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="table_gradient='some' is unknown; use one of auto"):
        table_gradient_for("some")
    assert table_gradient_for("auto") in TABLE_GRADIENTS[1:]


@pytest.mark.parametrize("backbone", [SequenceEncoder, GRUEncoder])
def test_gradients_of_the_encoders(backbone):
    sizes = {"num_items": 9, "max_len": 6, "dim": 4, "num_layers": 1, "inner_dim": 4}
    item_ids = jnp.array([[1, 2, 1, 1, 0, 0], [9, 2, 2, 3, 3, 3]])
    encoder = backbone(**sizes)
    params = quick_jit(encoder.init)(jax.random.key(0), item_ids)

    def gradient(how):
        def loss(params):
            hidden = encoder.clone(table_gradient=how).apply(params, item_ids)
            return jnp.sum(hidden * jnp.arange(4.0)[None, None])

        return jax.grad(loss)(params)

    expected, *others = quick_jit(lambda: [gradient(how) for how in TABLE_GRADIENTS[1:]])()
    assert np.abs(expected["params"]["item_table"]).max() > 1e-3
    for found in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
        )


def test_gradients_of_the_losses(drawn):
    draw = np.random.default_rng(2)
    query = jnp.asarray(draw.normal(size=(PLACES, DIM)), jnp.float32)
    table = jnp.asarray(draw.normal(size=(ROWS, DIM)), jnp.float32)
    targets = jnp.maximum(drawn[0], 1)
    negatives = Negatives(targets[:50], jnp.full(50, -3.0))

    def losses(table, how):
        full = next_item_loss(query, table, targets, chunk_items=16, table_gradient=how)
        return full + sampled_loss(query, table, targets, negatives, table_gradient=how)

    (expected, expected_grad), *others = quick_jit(
        lambda: [jax.value_and_grad(losses)(table, how) for how in TABLE_GRADIENTS[1:]]
    )()
    assert np.abs(expected_grad).max() > 1e-3
    for found, grad in others:
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-7)
