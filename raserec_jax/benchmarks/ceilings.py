"""What this device gives, measured in this process: rates of products and passes by shape, bandwidth, exponentials.

Probes run between the contestants of a measurement, so what else happens on the machine hits both; the best rate that
was seen counts. Each probe loops inside one device call for some tens of milliseconds.
"""

import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from raserec_jax.benchmarks.counting import FLOAT_BYTES, Pass, Product, Work
from raserec_jax.models.layers import exact_gelu

SQUARE = 2048
PROBE_S = 0.03
_EXP_COUNT = 2**16  # stays in a cache: exponentials, not memory, are the limit
_CACHE_MIB = 256  # larger than any cache of a CPU


class Ceilings:
    """Best rates so far: FLOP/s by shape of the product, entries/s by pass and shape, bytes/s, exponentials/s.

    Attributes:
      rates: (kind, shape) -> work per second.
    """

    def __init__(
        self, probe_s: float = PROBE_S, stream_mib: int = _CACHE_MIB, square: int = SQUARE
    ):
        """probe_s: how long a probe takes.  stream_mib: of each array of the triad.  square: of the large product."""
        self.rates: dict[tuple[str, tuple], float] = {}
        self._probes: dict[tuple[str, tuple], tuple] = {}
        self._probe_s, self._stream_mib, self._square = probe_s, stream_mib, square

    def probe(self, work: Work) -> dict[tuple[str, tuple], float]:
        """Measures once more what bounds `work`; what was seen this time, in units of `rates`."""
        kinds = [("product", one.shape) for one in (*work.products, *work.recomputed) if one.times]
        kinds += [("pass", one.shape) for one in work.passes]
        kinds += [self._of_square()]
        kinds += [("bytes", ())] * (work.bytes > 0) + [("exps", ())] * (work.exps > 0)
        return {kind: self._measure(kind) for kind in dict.fromkeys(kinds)}

    def product_seconds(
        self,
        products: tuple[Product, ...],
        rates: Mapping[tuple[str, tuple], float] | None = None,
    ) -> float:
        """How long these take at the rates of their own shapes: the best, or those given."""
        rates = self.rates if rates is None else rates
        return sum((one.flops / rates["product", one.shape] for one in products if one.times), 0.0)

    def pass_seconds(self, passes: tuple[Pass, ...]) -> float:
        """The same for passes between products."""
        return sum((one.count / self.rates["pass", one.shape] for one in passes), start=0.0)

    def square_rate(self) -> float:
        """FLOP/s of a large square product."""
        return self.rates[self._of_square()]

    def told(self) -> dict[str, float]:
        """For a record: the three general ceilings, as far as they were needed."""
        named = {
            self._of_square(): "square_flops_per_s",
            ("bytes", ()): "bytes_per_s",
            ("exps", ()): "exps_per_s",
        }
        return {name: self.rates[kind] for kind, name in named.items() if kind in self.rates}

    def _of_square(self) -> tuple[str, tuple]:
        return "product", (1, self._square, self._square, self._square, False)

    def _measure(self, kind: tuple[str, tuple]) -> float:
        if kind not in self._probes:
            self._probes[kind] = self._prepared(kind)
        run, arrays, work, count = self._probes[kind]
        began = time.perf_counter()
        jax.block_until_ready(run(count, *arrays))
        seconds = time.perf_counter() - began
        rate = count * work / seconds
        self.rates[kind] = max(self.rates.get(kind, 0.0), rate)
        return rate

    def _prepared(self, kind: tuple[str, tuple]) -> tuple:
        """(function of a count and arrays, arrays, work of one round, rounds that take about `probe_s`)."""
        name, shape = kind
        if name == "product":
            batch, m, k, n, exact = shape
            run = _exact_products if exact else _products
            arrays = (jnp.full((batch, m, k), 0.5), jnp.full((batch, k, n), 0.5))
            work = 2.0 * batch * m * k * n
        elif name == "pass":
            what, rows, columns = shape
            run, work = _PASSES[what], rows * columns
            values = jnp.broadcast_to(jnp.linspace(-2.0, 2.0, columns), (rows, columns))
            arrays = (values, jnp.ones(rows)) if what == "compare" else (values,)
        elif name == "exps":
            run, arrays, work = _exponentials, (jnp.linspace(-2.0, 0.0, _EXP_COUNT),), _EXP_COUNT
        else:
            count = self._stream_mib * 2**20 // FLOAT_BYTES
            run, arrays = _triad, (jnp.zeros(count), jnp.ones(count))
            work = 3.0 * count * FLOAT_BYTES
        jax.block_until_ready(run(1, *arrays))
        began = time.perf_counter()
        jax.block_until_ready(run(2, *arrays))
        once = (time.perf_counter() - began) / 2
        return run, arrays, work, max(1, min(round(self._probe_s / max(once, 1e-7)), 100_000))


def _looped(precision):
    """Products in a row; each waits for the one before, and all of each is made."""

    def products(count, left, right):
        def one(_, left):
            made = lax.optimization_barrier(jnp.matmul(left, right, precision=precision))
            return left.at[0, 0, 0].add(1e-30 * made[0, 0, 0])

        return lax.fori_loop(0, count, one, left)

    return jax.jit(products)


_products, _exact_products = _looped(None), _looped(lax.Precision.HIGHEST)


@jax.jit
def _exponentials(count, values):
    return lax.fori_loop(0, count, lambda _, x: jnp.exp(x) - 1.5, values)


@jax.jit
def _comparisons(count, scores, thresholds):
    """Per row, how many are not below its threshold; each round's thresholds depend on the counts before."""

    def one(_, thresholds):
        above = jnp.sum(~(scores < thresholds[:, None]), axis=1, dtype=jnp.int32)
        return thresholds + 1e-30 * above.astype(jnp.float32)

    return lax.fori_loop(0, count, one, thresholds)


def _repeated(one):
    """The same pass again and again, each over what the one before made."""
    return jax.jit(lambda count, values: lax.fori_loop(0, count, lambda _, x: one(x), values))


def _layer_norm(x):
    mean = jnp.mean(x, axis=1, keepdims=True)
    spread = jnp.mean(x * x, axis=1, keepdims=True) - mean * mean
    return (x - mean) * lax.rsqrt(spread + 1e-6)


_PASSES = {
    "compare": _comparisons,
    "softmax": _repeated(lambda x: jax.nn.softmax(x, axis=1)),
    "gelu": _repeated(lambda x: exact_gelu(x) + 0.1),
    "layer_norm": _repeated(_layer_norm),
}


@jax.jit
def _triad(count, out, other):
    """out = other + s * out, in place: two reads and a write."""
    return lax.fori_loop(0, count, lambda _, out: other + 0.5 * out, out)
