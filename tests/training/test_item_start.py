"""The item table that starts from texts."""

import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.errors import DataError
from raserec_jax.training.item_start import start_from_texts


def cosines(rows):
    rows = rows - rows.mean(axis=0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def case(items=40, width=6, seed=0):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(items + 1, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[0, 7]] = 0
    table = draw.normal(size=(items + 1, 16)).astype(np.float32)
    return jnp.asarray(table), vectors


def test_all_directions_keep_all_angles():
    table, vectors = case()
    found = np.asarray(start_from_texts(table, vectors, 0.1))
    known = np.setdiff1d(np.arange(len(vectors)), [0, 7])
    np.testing.assert_allclose(cosines(found[known, :6]), cosines(vectors[known]), atol=1e-4)
    np.testing.assert_allclose(found[known, :6].std(), 0.1, rtol=1e-4)


def test_rows_and_columns_that_no_text_describes_stay():
    table, vectors = case()
    found = np.asarray(start_from_texts(table, vectors, 0.1))
    np.testing.assert_array_equal(found[[0, 7]], np.asarray(table)[[0, 7]])
    np.testing.assert_array_equal(found[:, 6:], np.asarray(table)[:, 6:])


def test_few_directions_are_the_main_ones():
    draw = np.random.default_rng(1)
    # Two strong directions, hidden by a rotation, and four weak ones.
    vectors = draw.normal(size=(200, 6)) * [5, 3, 0.01, 0.01, 0.01, 0.01]
    vectors = (vectors @ np.linalg.qr(draw.normal(size=(6, 6)))[0]).astype(np.float32)
    found = np.asarray(start_from_texts(jnp.zeros((200, 2)), vectors, 1.0))
    np.testing.assert_allclose(cosines(found), cosines(vectors), atol=0.01)


def test_the_same_start_whatever_the_sign_and_order_of_the_solver():
    table, vectors = case()
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0].astype(np.float32)
    first = np.asarray(start_from_texts(table, vectors, 0.1))
    again = np.asarray(start_from_texts(table, vectors, 0.1))
    np.testing.assert_array_equal(first, again)
    # Texts in other coordinates: the same angles, so the same start but for signs of directions.
    other = np.asarray(start_from_texts(table, vectors @ turned, 0.1))
    np.testing.assert_allclose(np.abs(other[:, :6]), np.abs(first[:, :6]), atol=1e-4)


def test_other_catalogues_and_too_few_texts_are_refused():
    table, vectors = case()
    with pytest.raises(DataError, match="vectors of 39 items were given for a catalogue of 40"):
        start_from_texts(table, vectors[:-1], 0.1)
    vectors[2:] = 0
    with pytest.raises(DataError, match="at least two items with a text"):
        start_from_texts(table, vectors, 0.1)
