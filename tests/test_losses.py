"""Losses against what they are defined as, written out in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.losses import default_chunk_items, full_softmax, info_nce, next_item_loss
from tests.golden_files import read_golden
from tests.quick_jit import quick_jit

BATCH, DIM, ROWS = 6, 5, 23


def random_case(scale=1.0):
    draw = np.random.default_rng(0)
    query = (scale * draw.normal(size=(BATCH, DIM))).astype(np.float32)
    item_table = draw.normal(size=(ROWS, DIM)).astype(np.float32)
    # One target twice, and the last row of the table.
    target_ids = np.array([4, 9, 4, ROWS - 1, 1, 17], np.int32)
    weights = np.array([1.0, 0.5, 2.0, 0.0, 1.0, 0.25], np.float32)
    return tuple(map(jnp.asarray, (query, item_table, target_ids, weights)))


def reference(query, item_table, target_ids, weights, first_class):
    """(loss, its gradient for query and for table) with all logits at once, in float64."""
    query, table, weights = (np.asarray(a, np.float64) for a in (query, item_table, weights))
    logits = query @ table.T
    logits[:, :first_class] = -np.inf
    rows = np.arange(len(query))
    top = logits.max(axis=1, keepdims=True)
    log_norm = (top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0]
    total = max(weights.sum(), 1e-9)
    loss = ((log_norm - logits[rows, target_ids]) * weights).sum() / total
    probabilities = np.exp(logits - log_norm[:, None])
    probabilities[rows, target_ids] -= 1
    back = probabilities * weights[:, None] / total
    return loss, back @ table, back.T @ query


def value_and_grads(**settings):
    return quick_jit(
        jax.value_and_grad(
            lambda query, table, targets, weights: next_item_loss(
                query, table, targets, weights, **settings
            ),
            argnums=(0, 1),
        )
    )


def assert_equals_reference(case, first_class, found, rtol=1e-5):
    expected = reference(*case, first_class)
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
    for grad, expected_grad in zip(found[1], expected[1:], strict=True):
        atol = rtol * max(np.abs(expected_grad).max(), 1e-30)
        np.testing.assert_allclose(grad, expected_grad, rtol=rtol, atol=atol)


@pytest.mark.parametrize("include_padding_class", [False, True])
@pytest.mark.parametrize("chunk_items", [0, 1, 4, ROWS, 64])
def test_next_item_loss_and_gradient(chunk_items, include_padding_class):
    case = random_case()
    loss = value_and_grads(chunk_items=chunk_items, include_padding_class=include_padding_class)
    assert_equals_reference(case, 0 if include_padding_class else 1, loss(*case))


@pytest.mark.parametrize("scale", [1.0, 12.0, 1e4])
@pytest.mark.parametrize("include_padding_class", [False, True])
def test_a_frozen_table_gives_the_same_loss_and_the_same_gradient_to_the_query(
    scale, include_padding_class
):
    case = random_case(scale)
    settings = {"include_padding_class": include_padding_class, "chunk_items": 8}
    value, (grad, none) = value_and_grads(**settings, frozen_table=True)(*case)
    expected, (expected_grad, _) = value_and_grads(**settings)(*case)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    largest = float(jnp.abs(expected_grad).max())
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-5 * largest)
    assert (np.asarray(none) == 0).all()
    assert quick_jit(functools.partial(next_item_loss, **settings, frozen_table=True))(
        *case
    ) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("scale", [0.0, 3.0, 6.0, 12.0, 40.0])
@pytest.mark.parametrize("offset", [0.0, -20.0])
def test_large_and_very_negative_logits(scale, offset):
    """Below and above what is exponentiated as it is; with the offset, every logit of a row is far below zero."""
    query, table, targets, weights = random_case(scale)
    query = jnp.concatenate([query, jnp.full((BATCH, 1), offset)], axis=1)
    table = jnp.concatenate([table, jnp.ones((ROWS, 1))], axis=1)
    case = (query, table, targets, weights)
    loss = value_and_grads(chunk_items=8)
    assert_equals_reference(case, 1, loss(*case), rtol=1e-4)


def test_next_item_loss_of_huge_and_of_weightless_rows():
    loss = value_and_grads(chunk_items=8)
    huge = random_case(scale=1e4)  # logits of tens of thousands: exp alone would overflow
    assert_equals_reference(huge, 1, loss(*huge), rtol=1e-4)
    *case, weights = random_case()
    value, grads = loss(*case, jnp.zeros_like(weights))
    assert float(value) == 0
    assert all((np.asarray(grad) == 0).all() for grad in grads)
    # A row without weight does not count, whatever it holds.
    query, table, targets, weights = random_case()
    changed = query.at[3].set(50.0)
    np.testing.assert_allclose(
        loss(changed, table, targets, weights)[0],
        loss(query, table, targets, weights)[0],
        rtol=1e-6,
    )


def test_golden_next_item_loss():
    golden, weights = read_golden("pretrain_loss_us_x_dot"), read_golden("encoder")
    loss = quick_jit(next_item_loss, static_argnames=("include_padding_class", "chunk_items"))
    case = (weights["last_hidden"], weights["w/item_embedding.weight"], golden["target_ids"])
    found = loss(*case, include_padding_class=True, chunk_items=16)  # all rows weigh the same
    assert float(found) == pytest.approx(float(golden["ce_loss"]), rel=1e-5)


def test_chunk_items_must_not_be_negative():
    with pytest.raises(ValueError, match="chunk_items=-1 must be at least 1, or 0 for the default"):
        next_item_loss(*random_case()[:3], chunk_items=-1)


@pytest.mark.parametrize("batch", [1, 256, 1024, 100_000])
def test_default_chunks_are_of_a_sensible_size(batch):
    many = 50_000_000
    assert 128 <= default_chunk_items(batch, many) <= 8192
    assert default_chunk_items(batch, many) % 64 == 0
    few = full_softmax.FEW_LOGITS_BYTES // 4 // batch
    assert default_chunk_items(batch, few) == few  # all of them in one chunk
    assert default_chunk_items(batch, few + 1) <= 8192


def naive_info_nce(first, second, temperature, similarity, owners=None):
    """Loop by loop: each of the 2n rows against its pair and the 2n - 2 others (of other owners)."""
    owner = np.arange(2 * len(first)) if owners is None else np.concatenate(owners)
    rows = np.concatenate([first, second]).astype(np.float64)
    if similarity == "cos":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    count, losses = len(first), []
    for i, row in enumerate(rows):
        pair = (i + count) % (2 * count)
        others = [j for j in range(2 * count) if j == pair or owner[j] != owner[i]]
        scores = {j: row @ rows[j] / temperature for j in others}
        losses.append(-scores[pair] + math.log(sum(math.exp(s) for s in scores.values())))
    return np.mean(losses)


def views(rows=7, seed=0):
    first, second = np.random.default_rng(seed).normal(size=(2, rows, DIM)).astype(np.float32)
    return jnp.asarray(first), jnp.asarray(second)


nce = quick_jit(info_nce, static_argnames=("temperature", "similarity"))


@pytest.mark.parametrize("similarity", ["dot", "cos"])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_info_nce_equals_its_loops(similarity, temperature):
    first, second = views()
    settings = {"temperature": temperature, "similarity": similarity}
    expected = naive_info_nce(np.asarray(first), np.asarray(second), **settings)
    assert float(nce(first, second, **settings)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("similarity", ["dot", "cos"])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_golden_info_nce(similarity, temperature):
    golden = read_golden("info_nce")
    first, second = jnp.asarray(golden["z_i"]), jnp.asarray(golden["z_j"])
    found = nce(first, second, temperature=temperature, similarity=similarity)
    expected = float(golden[f"loss_{similarity}_tau{temperature}"])
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_rows_that_are_not_valid_are_as_good_as_absent():
    first, second = views()
    valid = jnp.array([True, False, True, True, False, True, True])
    settings = {"temperature": 0.5, "similarity": "dot"}
    loss = quick_jit(jax.value_and_grad(lambda a, b, v: info_nce(a, b, valid=v, **settings)))
    garbage = jnp.where(valid[:, None], first, 77.0)
    found, grad = loss(garbage, second, valid)
    expected = naive_info_nce(np.asarray(first)[valid], np.asarray(second)[valid], **settings)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert (np.asarray(grad)[~valid] == 0).all() and (np.asarray(grad)[valid] != 0).any()
    found, grad = loss(first, second, jnp.zeros(7, bool))
    assert float(found) == 0 and (np.asarray(grad) == 0).all()


def test_views_of_one_owner_are_no_negatives_of_each_other():
    first, second = views()
    owners = jnp.array([0, 1, 0, 2, 0, 1, 3]), jnp.array([0, 1, 4, 0, 1, 5, 3])
    settings = {"temperature": 0.5, "similarity": "dot"}
    found = nce(first, second, owners=owners, **settings)
    expected = naive_info_nce(np.asarray(first), np.asarray(second), owners=owners, **settings)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(found) < float(nce(first, second, **settings))


def test_info_nce_of_huge_and_of_zero_vectors_is_finite():
    first, second = views()
    assert np.isfinite(nce(1e4 * first, 1e4 * second, temperature=1.0, similarity="dot"))
    zero = first.at[2].set(0.0)
    grad = quick_jit(jax.grad(lambda a: info_nce(a, second, similarity="cos")))(zero)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (1, {}, "info_nce got a batch of 1; it needs at least 2 rows"),
        (2, {"temperature": 0.0}, "temperature=0.0 must be above 0"),
        (2, {"similarity": "l2"}, "similarity='l2' is unknown; use 'dot' or 'cos'"),
    ],
)
def test_impossible_contrasts_are_refused(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        info_nce(*views(rows), **settings)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_products_of_bfloat16_are_near_those_of_float32(scale):
    """At 300 the streamed maximum is in use."""
    case = random_case(scale)
    rounded = (jnp.asarray(one, jnp.bfloat16).astype(jnp.float32) for one in case[:2])
    expected = reference(*rounded, *case[2:], 1)
    loss, grads = value_and_grads(chunk_items=7, matmul_dtype="bfloat16")(*case)
    # The target's logit stays as it is, so the loss is off by its rounding.
    np.testing.assert_allclose(loss, expected[0], rtol=2e-2, atol=2e-2 * scale)
    for grad, expected_grad in zip(grads, expected[1:], strict=True):
        assert grad.dtype == jnp.float32
        atol = 2e-2 * np.abs(expected_grad).max()
        np.testing.assert_allclose(grad, expected_grad, atol=atol)
        assert np.abs(grad - expected_grad).max() > 0
