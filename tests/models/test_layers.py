"""Dropout from few random bits, the affine map with its own gradients, initialisers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.layers import (
    Dropout,
    affine,
    dropout_mask,
    exact_gelu,
    keep_probability,
    random_words,
    torch_linear_bias,
    torch_linear_kernel,
)

SHAPE = (
    255,
    513,
)  # odd: no multiple of the draws that share a random word; one shape, one compilation


def draw_mask(seed, rate):
    mask = np.asarray(dropout_mask(jax.random.key(seed), rate, SHAPE))
    assert mask.shape == SHAPE and mask.dtype == bool
    return mask


@pytest.mark.parametrize(
    ("rate", "kept"),
    [
        (0.5, 0.5),
        (0.25, 0.75),
        (1 / 256, 255 / 256),
        (0.1, 1 - 6554 / 65536),
        (0.3, 1 - 19661 / 65536),
        (0.0, 1.0),
    ],
)
def test_keep_probability_is_the_rate_rounded_to_the_bits_drawn(rate, kept):
    assert keep_probability(rate) == kept
    assert abs(kept - (1 - rate)) < 2**-16


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1, 0.7, 1 / 256])
def test_a_mask_keeps_the_share_it_says(rate):
    mask = draw_mask(3, rate)
    kept = keep_probability(rate)
    deviation = math.sqrt(kept * (1 - kept) / mask.size)
    assert abs(mask.mean() - kept) < 4 * deviation
    # Each of the draws that share a random word keeps as many as the others.
    lanes = mask.reshape(-1)[: mask.size // 4 * 4].reshape(-1, 4).mean(axis=0)
    assert np.abs(lanes - kept).max() < 5 * math.sqrt(4) * deviation


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_entries_of_a_mask_are_independent(rate):
    mask = draw_mask(5, rate).astype(np.float64)
    centred = mask - keep_probability(rate)
    for first, second in (
        (centred[:, :-1], centred[:, 1:]),  # neighbours, most of them of one random word
        (centred[:, :-2], centred[:, 2:]),
        (centred[:-1], centred[1:]),  # rows
        (centred[:127], centred[128:]),
    ):
        correlation = (first * second).mean() / centred.var()
        assert abs(correlation) < 5 / math.sqrt(first.size)


def test_masks_of_one_key_are_equal_and_of_two_keys_differ():
    first, again, other = (draw_mask(seed, 0.5) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0.3 < (first != other).mean() < 0.7


def deviations(bits, expected):
    """Largest distance of shares of ones from `expected`, in standard deviations."""
    shares = np.atleast_2d(bits).mean(axis=1)
    return np.abs(shares - expected).max() / math.sqrt(expected * (1 - expected) / bits.shape[-1])


def test_random_words_have_fair_independent_bits():
    """Every bit, every pair of bits of a word, and bits of words at many distances: fair coins."""
    words = np.asarray(random_words(jax.random.key(0), 1 << 18))
    bits = (words[None, :] >> np.arange(32, dtype=np.uint32)[:, None] & 1).astype(np.int8)
    assert deviations(bits, 0.5) < 5
    pairs = np.array([bits[i] ^ bits[j] for i in range(32) for j in range(i)])
    assert deviations(pairs, 0.5) < 5
    for lag in (1, 2, 3, 16, 17, 64, 128, 1024, 65536):
        assert deviations(bits[:, lag:] ^ bits[:, :-lag], 0.5) < 5, lag
        assert deviations(bits[1:, lag:] ^ bits[:-1, :-lag], 0.5) < 5, lag
    histogram = np.bincount(words.view(np.uint8), minlength=256)
    expected = words.size * 4 / 256
    chi_square = ((histogram - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)
    assert len(np.unique(words)) > words.size * (1 - 1.3 * words.size / 2**33)


def test_random_words_of_neighbouring_keys_and_places_differ_in_half_of_their_bits():
    first = np.asarray(random_words(jax.random.key(0), 1 << 15))
    for other in (
        jax.random.fold_in(jax.random.key(0), 1),
        jax.random.fold_in(jax.random.key(0), 2),
        jax.random.key(1),
    ):
        changed = first ^ np.asarray(random_words(other, 1 << 15))
        bits = (changed[None, :] >> np.arange(32, dtype=np.uint32)[:, None] & 1).astype(np.int8)
        assert deviations(bits, 0.5) < 5
        # No shift of one sequence along the other brings them together.
        second = np.asarray(random_words(other, 1 << 15))
        assert not np.isin(first[:64], second).any()


def test_dropout_keeps_the_mean_and_scales_what_it_keeps():
    x = jnp.full(SHAPE, 3.0)
    out = np.asarray(
        Dropout(0.3).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(2)})
    )
    kept = out != 0
    np.testing.assert_allclose(out[kept], 3.0 / keep_probability(0.3), rtol=1e-6)
    assert abs(out.mean() - 3.0) < 4 * 3.0 * math.sqrt(0.3 / 0.7 / out.size)


def test_dropout_off_changes_nothing_and_needs_no_key():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, deterministic=False), x)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, deterministic=True), x)


def test_affine_has_the_gradients_of_an_affine_map():
    draw = np.random.default_rng(0)
    x, kernel, bias, g = (
        jnp.asarray(draw.normal(size=shape), jnp.float32)
        for shape in ((5, 3), (3, 4), (4,), (5, 4))
    )
    out, back = jax.vjp(affine, x, kernel, bias)
    np.testing.assert_allclose(
        out, np.asarray(x) @ np.asarray(kernel) + np.asarray(bias), rtol=1e-5
    )
    grad_x, grad_kernel, grad_bias = back(g)
    np.testing.assert_allclose(grad_x, np.asarray(g) @ np.asarray(kernel).T, rtol=1e-5)
    np.testing.assert_allclose(grad_kernel, np.asarray(x).T @ np.asarray(g), rtol=1e-5)
    np.testing.assert_allclose(grad_bias, np.asarray(g).sum(axis=0), rtol=1e-5)


def test_gelu_is_exact():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(exact_gelu(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_initialisers_are_those_of_a_pytorch_linear():
    bound = 1 / math.sqrt(64)
    for values in (
        torch_linear_kernel(jax.random.key(0), (64, 200)),
        torch_linear_bias(64)(jax.random.key(1), (8000,)),
    ):
        values = np.asarray(values)
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert np.abs(values).max() > 0.99 * bound
        assert abs(values.std() - bound / math.sqrt(3)) < 0.02 * bound
        assert abs(values.mean()) < 0.03 * bound
