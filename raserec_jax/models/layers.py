"""Building blocks shared by the encoder and the memory reader: dropout, feed-forward, initialisers."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from raserec_jax.mesh import BATCH_ROWS, in_force, over
from raserec_jax.products import einsum


def random_words(key: Array, shape: int | tuple[int, int]) -> Array:
    """Random uint32 words, [count] or the same as [rows, count]: a counter, mixed twice with a key of 64 bits.

    For dropout, where random bits of a cryptographic kind cost a CPU more than the matrix products (BUILD_NOTES, stage
    1): two multiply-xorshift mixers, of which every output bit depends on every bit of counter and key. Tests hold
    rates, and the independence of neighbouring draws, of draws from one word and of neighbouring keys.
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)

    def mix(x, shifts, factors):
        for shift, factor in zip(shifts, factors, strict=False):
            x = (x ^ (x >> shift)) * jnp.uint32(factor)
        return x ^ (x >> shifts[-1])

    x = _counter(shape) * jnp.uint32(0x9E3779B9) + seeds[0]
    x = mix(x, (16, 15, 15), (0x21F0AAAD, 0xD35A2D97)) + seeds[1]
    return mix(x, (16, 13, 16), (0x85EBCA6B, 0xC2B2AE35))


def _counter(shape: int | tuple[int, int]) -> Array:
    """0, 1, 2, ... row by row; of several rows each device makes its own."""
    if isinstance(shape, int):
        return jax.lax.iota(jnp.uint32, shape)
    row, column = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, 1))
    return over(BATCH_ROWS, row) * jnp.uint32(shape[1]) + column


def dropout_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Keep-mask of independent Bernoulli(1 - rate) draws, from as few random words as the rate allows.

    Random bits cost more than the matrix products of a small model on a CPU, so a draw uses 8 bits where
    `rate` is a multiple of 1/256 (0.5 and 0.25 are) and 16 bits elsewhere, instead of 32. `keep_probability`
    is the probability with which the mask keeps an entry, exactly.

    Returns:
      bool array of `shape`, True = keep.
    """
    bits = 8 if float(rate * 256).is_integer() else 16
    per_word = 32 // bits
    count = math.prod(shape)
    if in_force() is not None and math.prod(shape[1:]) % per_word == 0:
        words = random_words(key, (shape[0], math.prod(shape[1:]) // per_word))
    else:
        words = random_words(key, -(-count // per_word))
    draws = jax.lax.bitcast_convert_type(words, jnp.uint8 if bits == 8 else jnp.uint16)
    draws = draws.reshape(-1)[:count].reshape(shape) if words.ndim == 1 else draws.reshape(shape)
    return draws >= round(rate * 2**bits)


def keep_probability(rate: float) -> float:
    """Exact probability with which `dropout_mask` keeps an entry: 1 - rate, rounded to its bits."""
    bits = 8 if float(rate * 256).is_integer() else 16
    return 1.0 - round(rate * 2**bits) / 2**bits


class Dropout(nn.Module):
    """Inverted dropout with `dropout_mask`; needs the "dropout" RNG unless `deterministic`.

    Fields:
      rate: probability of dropping an entry, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        if deterministic or self.rate == 0.0:
            return x
        mask = dropout_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(mask, x / keep_probability(self.rate), jnp.zeros_like(x))


def _zero_bias(fan_in: int) -> nn.initializers.Initializer:
    return nn.initializers.zeros


torch_linear_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what the published memory reader starts from."""


def torch_linear_bias(fan_in: int) -> nn.initializers.Initializer:
    """Bias initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) that goes with `torch_linear_kernel`."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@jax.custom_vjp
def affine(
    x: Float[Array, "rows inner"], kernel: Float[Array, "inner outer"], bias: Float[Array, " outer"]
) -> Array:
    """x @ kernel + bias, with gradients in the form that a CPU does in few passes (BUILD_NOTES, stage 1).

    The usual rule computes (g^T x)^T for the kernel, and the copy of g^T cost as much as the product; here x, often
    narrower, is transposed. It sums g over rows for the bias, column by column; here that is a product with ones.
    """
    return x @ kernel + bias[None, :]


def _affine_fwd(x, kernel, bias):
    return x @ kernel + bias[None, :], (x, kernel)


def _affine_bwd(residuals, g):
    x, kernel = residuals
    grad_kernel = jax.lax.dot_general(x, g, (((0,), (0,)), ((), ())))
    return g @ kernel.T, grad_kernel, jnp.ones(g.shape[0], g.dtype) @ g


affine.defvjp(_affine_fwd, _affine_bwd)


class Dense(nn.Module):
    """Affine map of the last axis, through `affine` on flattened rows.

    Fields:
      features: width of the output.
      kernel_init, bias_init: initialisers.
      matmul_dtype: of the product's operands (`products.einsum`).
    """

    features: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    matmul_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch features"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        flat = x.reshape(-1, x.shape[-1])
        if self.matmul_dtype == "float32":
            flat = affine(flat, kernel, bias)
        else:
            flat = einsum("ri,io->ro", flat, kernel, self.matmul_dtype) + bias[None, :]
        return flat.reshape(*x.shape[:-1], self.features)


def exact_gelu(x: Array) -> Array:
    """x * Phi(x) through erf; `jax.nn.gelu(approximate=False)` goes through erfc, which a CPU does in more passes."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 2**-0.5))


class FeedForward(nn.Module):
    """Two dense layers with an exact (erf) GELU between them: dim -> inner_dim -> dim.

    Fields:
      inner_dim: width of the hidden layer.
      kernel_init: initialiser of both kernels.
      bias_init_of_fan_in: fan-in of a layer -> initialiser of its bias; default zeros.
      matmul_dtype: as in `Dense`.
    """

    inner_dim: int
    kernel_init: nn.initializers.Initializer
    bias_init_of_fan_in: Callable[[int], nn.initializers.Initializer] = _zero_bias
    matmul_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        for width, name in ((self.inner_dim, "inner"), (x.shape[-1], "outer")):
            bias_init = self.bias_init_of_fan_in(x.shape[-1])
            x = Dense(width, self.kernel_init, bias_init, self.matmul_dtype, name=name)(x)
            x = exact_gelu(x) if name == "inner" else x
        return x
