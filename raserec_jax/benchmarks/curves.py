"""Curves: what grows with the catalogue, the bank, the length of histories, the batch, the width; and how fast.

Each point is a row of its own, so a killed benchmark goes on between points.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.benchmarks.bench import Bench
from raserec_jax.benchmarks.contest import Contestant, Line
from raserec_jax.benchmarks.counting import FLOAT_BYTES, encoder_work
from raserec_jax.benchmarks.loss_rows import (
    compiled_gradient,
    dense_loss,
    loss_contestant,
    streamed_loss,
)
from raserec_jax.benchmarks.machine import device_name
from raserec_jax.benchmarks.memory_rows import exact_contestant, generated_bank
from raserec_jax.benchmarks.stepping import temp_bytes
from raserec_jax.benchmarks.training_rows import (
    fitting_items,
    sampled_contestant,
    stage_1_contestant,
)
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.retrieval.exact import ExactIndex


def full_softmax_point(bench: Bench, items: int) -> list[Line]:
    """Memory, from the compiled program; time where the catalogue is not too large."""
    config = bench.config()
    targets, dim = config.pretrain.batching.targets_per_batch, config.encoder.dim
    dense = temp_bytes(compiled_gradient(dense_loss, targets, items, dim))
    table = (items + 1) * dim * FLOAT_BYTES
    where = {"curve": "items: full softmax", "x": float(items)}
    size = f"{targets} targets, {items:,} items"
    if items <= bench.sizes.timed_items:
        one = loss_contestant("full softmax, streamed", streamed_loss, targets, items, dim)
        (line,) = bench.measure("", size, "targets", [one], **where)
    else:
        temp = temp_bytes(compiled_gradient(streamed_loss, targets, items, dim))
        line = Line(
            "", "full softmax, streamed", size, "targets", device_name(), temp_bytes=temp, **where
        )
    note = f"table {table / 2**20:,.1f} MiB; dense logits take {(dense or 0) / 2**20:,.1f} MiB"
    return [line._replace(note=note if line.seconds else f"compiled, not run; {note}")]


def sampled_point(bench: Bench, items: int) -> list[Line]:
    """A step of the sampled softmax."""
    fitting = fitting_items(bench, items)
    note = "" if fitting == items else f"{items:,} do not fit the memory that is free"
    one = sampled_contestant(bench, fitting, note=note)
    size = f"{bench.sizes.negatives:,} negatives, {fitting:,} items"
    return _point(bench, "items: sampled softmax", float(fitting), "targets", one, size)


def bank_point(bench: Bench, rows: int) -> list[Line]:
    """Exact search."""
    config, asked = bench.config(), bench.sizes.curve_queries
    own, queries = generated_bank(rows, config.encoder.dim, asked, bench.seed)
    one = exact_contestant(ExactIndex(own, eligibility="all"), queries, asked, config.memory.top_k)
    return _point(bench, "bank: exact search", float(rows), "queries", one)


def length_point(bench: Bench, length: int) -> list[Line]:
    """The encoder forward and backward, as many places whatever the length."""
    sizes = bench.config().encoder
    rows = max(1, bench.sizes.curve_places // length)
    shape = {name: sizes[name] for name in ("dim", "num_layers", "num_heads", "inner_dim")}
    encoder = SequenceEncoder(1000, max_len=length, **shape)
    draw = np.random.default_rng(bench.seed)
    item_ids = jnp.asarray(draw.integers(1, 1001, (rows, length)), jnp.int32)
    params = jax.jit(encoder.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]

    def loss(params, item_ids, key):
        hidden = encoder.apply(
            {"params": params}, item_ids, deterministic=False, rngs={"dropout": key}
        )
        return jnp.mean(hidden**2)

    key = jax.random.key(1)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, item_ids, key).compile()
    one = Contestant(
        f"encoder, {rows} rows of {length}",
        lambda: compiled(params, item_ids, key),
        rows * length,
        encoder_work(rows=rows, seq=length, backward=True, **shape),
        temp_bytes(compiled),
    )
    return _point(bench, "length of histories: encoder", float(length), "places", one)


def batch_point(bench: Bench, targets: int) -> list[Line]:
    """Stage 1, packed, by targets in a step."""
    config = bench.config(pretrain__batching__targets_per_batch=targets)
    # As many targets in every run, within an epoch.
    steps = max(
        1, bench.sizes.slow_steps * bench.config().pretrain.batching.targets_per_batch // targets
    )
    one = stage_1_contestant(bench, f"stage 1, {targets} targets a step", config, steps)
    return _point(bench, "batch: stage 1", float(targets), "targets", one)


def width_point(bench: Bench, dim: int) -> list[Line]:
    """Stage 1, packed, by width; the inner layer is four times as wide."""
    config = bench.config(encoder__dim=dim, encoder__inner_dim=4 * dim)
    one = stage_1_contestant(bench, f"stage 1, width {dim}", config, bench.sizes.slow_steps)
    return _point(bench, "width: stage 1", float(dim), "targets", one)


def _point(
    bench: Bench, curve: str, x: float, unit: str, one: Contestant, size: str = ""
) -> list[Line]:
    size = size or (bench.size_words() if unit == "targets" else f"{one.units:,.0f} {unit}")
    return bench.measure("", size, unit, [one], curve=curve, x=x)


def slope(x: Sequence[int | float], y: Sequence[int | float]) -> float | None:
    """Least-squares slope of log y over log x: 0 = constant, 1 = linear; None with fewer than two points."""
    if len(x) < 2:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def curve_lines(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Points by curve, x rising; a place that is there twice counts once."""
    curves: dict[str, dict[float, Line]] = {}
    for line in lines:
        if line.curve:
            curves.setdefault(line.curve, {})[line.x] = line
    return {name: [points[x] for x in sorted(points)] for name, points in curves.items()}


def slopes(points: Sequence[Line]) -> dict[str, float | None]:
    """Of a curve: seconds for a unit, and bytes beside arguments and results, each where it is known."""
    timed = [one for one in points if one.rate]
    sized = [one for one in points if one.temp_bytes]
    return {
        "seconds": slope([one.x for one in timed], [1 / one.rate for one in timed]),
        "temp_bytes": slope([one.x for one in sized], [one.temp_bytes for one in sized]),
    }
