"""Products of rounded operands: their values and gradients by hand, and the modules that use them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.gru_encoder import GRUEncoder
from raserec_jax.products import einsum
from tests.quick_jit import quick_jit


def _rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


@pytest.mark.parametrize(
    ("spec", "left", "right"),
    [
        ("ri,io->ro", (5, 7), (7, 3)),
        ("bqhd,bkhd->bhqk", (2, 4, 2, 3), (2, 5, 2, 3)),
        ("bhqk,bkhd->bqhd", (2, 2, 4, 5), (2, 5, 2, 3)),
        ("bhqk,bhqd->bhkd", (2, 2, 4, 5), (2, 2, 4, 3)),
    ],
)
def test_operands_are_rounded_and_sums_are_not(spec, left, right):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (left, right))
    product, pull_back = jax.vjp(lambda x, y: einsum(spec, x, y, "bfloat16"), x, y)
    assert product.dtype == jnp.float32
    np.testing.assert_allclose(product, np.einsum(spec, _rounded(x), _rounded(y)), atol=1e-5)
    assert np.abs(product - np.einsum(spec, x, y)).max() > 1e-4
    g = jnp.asarray(rng.normal(size=product.shape), jnp.float32)
    _, exact = jax.vjp(lambda x, y: jnp.einsum(spec, x, y), _rounded(x), _rounded(y))
    for ours, theirs, of in zip(pull_back(g), exact(_rounded(g)), (x, y), strict=True):
        assert (ours.shape, ours.dtype) == (of.shape, jnp.float32)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="matmul_dtype='half' is unknown; use one of float32, bf"):
        einsum("ri,io->ro", jnp.ones((2, 2)), jnp.ones((2, 2)), "half")


@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize("kind", [SequenceEncoder, GRUEncoder])
def test_every_product_of_an_encoder_is_rounded(kind, block):
    settings = {"attention_block": block} if kind is SequenceEncoder else {}
    encoder = kind(num_items=30, max_len=12, dim=8, inner_dim=16, **settings)
    item_ids = jax.random.randint(jax.random.key(1), (3, 10), 1, 31)
    params = quick_jit(encoder.init)(jax.random.key(0), item_ids)
    rounded = encoder.clone(matmul_dtype="bfloat16")

    def loss(params, encoder):
        return jnp.sum(jnp.sin(encoder.apply(params, item_ids)))

    gradients = []
    for one, types in ((encoder, {"f32"}), (rounded, {"bf16"})):
        step = quick_jit(jax.grad(lambda p, one=one: loss(p, one)))
        assert _operand_types(step.lower(params).as_text()) == types
        gradients.append(step(params))
    plain, other = gradients
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        assert b.dtype == jnp.float32
        scale = float(jnp.max(jnp.abs(a))) + 1e-3
        assert float(jnp.max(jnp.abs(a - b))) < 0.1 * scale


def _operand_types(program: str) -> set[str]:
    """Types of the operands of all products in a lowered program."""
    signatures = re.findall(r"stablehlo\.dot_general .*: \((.*)\) ->", program)
    return {kind for one in signatures for kind in re.findall(r"x(b?f\d+)>", one)}
