"""Attention in blocks: the numbers of the plain form, dropout as it says, memory that grows with the length."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.blockwise_attention import LONG_ROW, block_for, blockwise_attention
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.layers import keep_probability
from raserec_jax.models.segments import visible_keys
from tests.quick_jit import quick_jit

SEQ, HEADS, HEAD_DIM = 45, 2, 5


def plain_attention(query, key, value, segment_ids):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[3] ** -0.5
    weights = jax.nn.softmax(jnp.where(visible_keys(segment_ids), scores, -1e9), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def rows_of(*lengths):
    """One row per entry: segments of these lengths, then padding."""
    rows = np.zeros((len(lengths), SEQ), np.int32)
    for row, of_row in zip(rows, lengths, strict=True):
        row[: sum(of_row)] = np.repeat(np.arange(len(of_row)) + 1, of_row)
    return rows


# One long history, several, two of which begin in the last blocks, much padding, and a row of nothing else.
PACKED = rows_of([45], [3, 20, 1, 9, 12], [7, 2], [])
# No row sees the blocks before its second history: these are skipped.
LATE = rows_of([17, 28], [20, 25], [16, 3, 26])


def inputs(segment_ids, seed=0):
    draw = np.random.default_rng(seed)
    shape = (len(segment_ids), SEQ, HEADS, HEAD_DIM)
    return [jnp.asarray(2 * draw.normal(size=shape), jnp.float32) for _ in range(3)]


@pytest.mark.parametrize("block", [8, 15, 64])
@pytest.mark.parametrize("segment_ids", [PACKED, LATE], ids=["packed", "late"])
def test_values_and_gradients_are_those_of_the_plain_form(segment_ids, block):
    arrays = inputs(segment_ids)
    # Padding means nothing, and nothing is said of it.
    cotangent = inputs(segment_ids, seed=1)[0] * (segment_ids > 0)[:, :, None, None]

    @quick_jit
    def both(arrays, cotangent):
        found = []
        for attend in (plain_attention, functools.partial(blockwise_attention, block=block)):
            out, back = jax.vjp(lambda *args, f=attend: f(*args, jnp.asarray(segment_ids)), *arrays)
            found.append((out * (segment_ids > 0)[:, :, None, None], *back(cotangent)))
        return found

    (expected, *expected_grads), (found, *found_grads) = both(arrays, cotangent)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    for one, other in zip(found_grads, expected_grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        assert np.abs(other).max() > 0.1


def test_large_scores_and_padding_stay_finite():
    arrays = [100 * x for x in inputs(PACKED)]
    segment_ids = jnp.asarray(PACKED)

    @quick_jit
    def both(arrays):
        out, back = jax.vjp(lambda *args: blockwise_attention(*args, segment_ids, block=8), *arrays)
        return out, *back(jnp.ones_like(out))

    for leaf in both(arrays):
        assert np.isfinite(leaf).all()


def weights_with_dropout(rate, seed, block=8):
    """Attention weights of equal scores after dropout, [batch * heads, queries, keys]: values that spell the keys."""
    batch = 6
    equal = jnp.zeros((batch, SEQ, HEADS, SEQ))
    spelled = jnp.broadcast_to(jnp.eye(SEQ)[None, :, None, :], equal.shape)
    out = blockwise_attention(
        equal,
        equal,
        spelled,
        jnp.ones((batch, SEQ), jnp.int32),
        block=block,
        dropout=rate,
        dropout_key=jax.random.key(seed),
    )
    return np.asarray(out).transpose(0, 2, 1, 3).reshape(-1, SEQ, SEQ)


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_dropout_is_exact_in_rate_and_independent(rate):
    weights = weights_with_dropout(rate, 0)
    seen = np.tri(SEQ, dtype=bool)
    share = weights * (np.arange(SEQ) + 1)[None, :, None]  # 1 / keep or 0
    kept = share > 0
    assert not kept[:, ~seen].any()
    np.testing.assert_allclose(share[kept], 1 / keep_probability(rate), rtol=1e-5)
    keep = keep_probability(rate)
    draws = kept[:, seen]
    assert abs(draws.mean() - keep) < 4 * math.sqrt(keep * (1 - keep) / draws.size)
    centred = np.where(seen[None], kept - keep, 0.0)
    for first, second in (
        (centred[:, 8:, :], centred[:, :-8, :]),  # the next block of queries
        (centred[:, :, 8:], centred[:, :, :-8]),  # the next block of keys
        (centred[:, 1:, :], centred[:, :-1, :]),
        (centred[:, :, 1:], centred[:, :, :-1]),
        (centred[1:], centred[:-1]),  # other heads and rows
    ):
        pairs = ((first != 0) & (second != 0)).sum()
        correlation = (first * second).sum() / pairs / (keep * (1 - keep))
        assert abs(correlation) < 5 / math.sqrt(pairs)
    other = weights_with_dropout(rate, 1) > 0
    assert (other != kept)[:, seen].mean() > 0.3


def test_gradients_see_the_same_draws():
    """The gradient of the values is linear in the weights; that of the keys by differences."""
    arrays = [0.3 * x for x in inputs(PACKED)]
    towards = inputs(PACKED, seed=3)
    cotangent = inputs(PACKED, seed=1)[0] * (PACKED > 0)[:, :, None, None]

    def total(step, which):
        moved = [arrays[i] + step * towards[i] if i in which else arrays[i] for i in range(3)]
        out = blockwise_attention(
            *moved, jnp.asarray(PACKED), block=15, dropout=0.25, dropout_key=jax.random.key(2)
        )
        return jnp.sum(out * cotangent)

    with jax.enable_x64(True):
        arrays, towards = (
            [jnp.asarray(np.asarray(x), jnp.float64) for x in xs] for xs in (arrays, towards)
        )
        slope, value = (quick_jit(f, static_argnums=1) for f in (jax.grad(total), total))
        for which in ((0,), (1,), (2,)):
            found = slope(0.0, which)
            expected = (value(1e-5, which) - value(-1e-5, which)) / 2e-5
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_blocks_by_length():
    assert block_for(LONG_ROW, 0) == 0
    assert block_for(2016, 0) >= 128
    assert block_for(64, 16) == 16
    assert block_for(16, 16) == 0


def encoder_of(block, dropout=0.0, max_len=2000, num_layers=2):
    return SequenceEncoder(
        num_items=30,
        max_len=max_len,
        dim=16,
        num_layers=num_layers,
        inner_dim=16,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        attention_block=block,
    )


def test_an_encoder_in_blocks_is_the_same_encoder():
    draw = np.random.default_rng(0)
    item_ids = jnp.asarray(np.where(PACKED > 0, draw.integers(1, 31, PACKED.shape), 0), jnp.int32)
    plain, blocks = encoder_of(0, max_len=45), encoder_of(16, max_len=45)
    params = quick_jit(plain.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))
    params = jax.tree.map(lambda leaf: 5 * leaf, params)
    found, expected = (
        quick_jit(one.apply)(params, item_ids, segment_ids=jnp.asarray(PACKED))
        for one in (blocks, plain)
    )
    real = PACKED > 0
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-5)


def step_memory(encoder, seq):
    """Bytes that XLA sets aside for a gradient with dropout over two rows."""
    params = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))

    def loss(params, item_ids, key):
        hidden = encoder.apply(params, item_ids, deterministic=False, rngs={"dropout": key})
        return jnp.sum(hidden**2)

    item_ids = jax.ShapeDtypeStruct((2, seq), jnp.int32)
    lowered = jax.jit(jax.grad(loss)).lower(params, item_ids, jax.random.key(0))
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length():
    blocks, whole = (encoder_of(block, 0.5, num_layers=1) for block in (128, 2000))
    short, long = (step_memory(blocks, seq) for seq in (500, 2000))
    assert long < 4.5 * short
    # All weights at once: [2, 2, 2000, 2000] float32, several times over.
    plain = step_memory(whole, 2000)
    assert plain > 64e6 > 5 * long
