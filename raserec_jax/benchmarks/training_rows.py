"""Rows about stage 1: batchings, calls, contrastive losses, and the sampled softmax over large catalogues."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from raserec_jax.batching.windows import training_examples
from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.contest import Contestant, Line
from raserec_jax.benchmarks.machine import free_bytes
from raserec_jax.benchmarks.stepping import Stepper, recording, step_work
from raserec_jax.semantic.tables import SemanticTables
from raserec_jax.training.objectives import pretrain_task
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.pretraining import make_encoder, make_feed, make_pretrain_task
from raserec_jax.training.state import TrainState

_HEADROOM = 1.25
_TABLES = 3  # the table and Adam's two moments


def stage_1_stepper(bench: Bench, config, *, most: int, semantic=None, mesh: Mesh | None = None):
    """(Stepper, work of a step, targets of a step) of the stage 1 that a configuration describes."""
    encoder, passes = recording(make_encoder(config, bench.split.log.num_items))
    task = make_pretrain_task(config, encoder, bench.split, semantic)
    params = jax.jit(encoder.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params = params | task.init(jax.random.key(1))
    optimizer = _optimizer(config, task)
    examples = len(training_examples(bench.split).lengths)
    reads = make_feed(config, bench.split).reads
    work = step_work(config, task, params, passes, reads=reads)
    stepper = Stepper(task, optimizer, params, most, mesh=mesh)
    return stepper, work, examples / task.steps_per_epoch


def _optimizer(config, task):
    lazy = task.touched is not None
    return make_optimizer(total_steps=10_000, lazy=lazy, **config.pretrain.optimizer)


def stage_1_contestant(
    bench: Bench, what: str, config, steps: int, *, semantic=None, note: str = ""
) -> Contestant:
    """So many steps in one call."""
    stepper, work, targets = stage_1_stepper(bench, config, most=steps, semantic=semantic)
    steps = stepper.most
    return Contestant(
        what,
        lambda: stepper.run(steps),
        targets * steps,
        work.times(steps),
        stepper.temp_bytes,
        note,
    )


def stage_1(bench: Bench) -> list[Line]:
    """Packed against `prefix`; many steps in a call against one."""
    sizes, config = bench.sizes, bench.config()
    stepper, work, targets = stage_1_stepper(bench, config, most=sizes.steps)
    steps, few = stepper.most, min(sizes.slow_steps, stepper.most)
    contestants = [
        Contestant(
            "packed, many steps per call",
            lambda: stepper.run(steps),
            targets * steps,
            work.times(steps),
            stepper.temp_bytes,
        ),
        Contestant(
            "packed, one dispatch per step",
            lambda: stepper.run_one_by_one(few),
            targets * few,
            work.times(few),
            stepper.temp_bytes,
        ),
        stage_1_contestant(
            bench,
            "prefix",
            bench.config(pretrain__batching__mode="prefix"),
            sizes.slow_steps,
        ),
    ]
    return _whole_epoch(
        bench, bench.measure("stage_1", size_of(bench, config), "targets", contestants)
    )


def stage_1_contrast(bench: Bench) -> list[Line]:
    """RaSeRec's contrast (us_x), all targets contrasted, in both batchings."""
    steps = bench.sizes.slow_steps
    change = {"pretrain__contrast__mode": "us_x", "pretrain__contrast__anchors": 0}
    config = bench.config(**change)
    contestants = [
        stage_1_contestant(bench, "packed, us_x", config, steps),
        stage_1_contestant(
            bench,
            "prefix, us_x",
            bench.config(pretrain__batching__mode="prefix", **change),
            steps,
        ),
    ]
    lines = bench.measure("stage_1_contrast", size_of(bench, config), "targets", contestants)
    return _whole_epoch(bench, lines)


def stage_1_sra_cl(bench: Bench) -> list[Line]:
    """SRA-CL's losses, neighbours from a cache, with drawn tables: speed does not depend on what is in them."""
    steps, split = bench.sizes.slow_steps, bench.split
    draw = np.random.default_rng(bench.seed)
    examples, items, top_k = len(training_examples(split).lengths), split.log.num_items, 10
    tables = SemanticTables(
        np.zeros((items + 1, 4), np.float16),
        draw.standard_normal((examples, 384), dtype=np.float32).astype(np.float16),
        draw.integers(1, items + 1, (items + 1, top_k)).astype(np.int32),
        draw.integers(0, examples, (examples, top_k)).astype(np.int32),
        "training",
    )
    config = bench.config(
        sra_cl__inter_weight=0.1,
        sra_cl__intra_weight=0.1,
        sra_cl__neighbors="cache",
        sra_cl__views=1,
        sra_cl__anchors=0,
        sra_cl__across_users=True,
    )
    note = "refresh of the cache not counted"
    contestants = [
        stage_1_contestant(bench, "packed, SRA-CL", config, steps, semantic=tables, note=note),
        stage_1_contestant(bench, "packed, no contrast", bench.config(), steps),
    ]
    lines = bench.measure("stage_1_sra_cl", size_of(bench, config), "targets", contestants)
    return _whole_epoch(bench, lines)


def sampled(bench: Bench) -> list[Line]:
    """A sampled softmax that touches only what a batch reads, over a small and a large catalogue."""
    first, *larger = bench.sizes.catalogues
    contestants = [sampled_contestant(bench, first)]
    for items in larger:
        fitting = fitting_items(bench, items)
        note = "" if fitting == items else f"{items:,} do not fit the memory that is free"
        contestants.append(sampled_contestant(bench, fitting, note=note))
    contestants.append(sampled_contestant(bench, first, updates="all"))
    size = f"{bench.sizes.negatives} negatives, width {bench.config().encoder.dim}"
    return bench.measure("sampled", size, "targets", contestants)


def fitting_items(bench: Bench, items: int) -> int:
    """So many items, or as many as memory has room for, in halves.

    Raises:
      Skipped: not even a thousandth.
    """
    free, least = free_bytes(), items / 1000
    row = _TABLES * 4 * bench.config().encoder.dim * _HEADROOM
    while free is not None and items * row > free:
        items //= 2
        if items < least:
            raise Skipped(f"{free / 2**30:.1f} GiB of memory are free: too little")
    return items


def sampled_contestant(
    bench: Bench, items: int, *, updates: str = "touched", note: str = ""
) -> Contestant:
    """Steps on the histories of the log, their items spread over a catalogue of `items`."""
    config = bench.config(
        encoder__repeat_bias=False,
        pretrain__loss__next_item="sampled",
        pretrain__loss__item_updates=updates,
        pretrain__loss__num_negatives=bench.sizes.negatives,
    )
    spread = _spread(bench.split.log.num_items, items, bench.seed)
    feed = make_feed(config, bench.split)
    arrays = feed.arrays._replace(
        item_ids=spread[feed.arrays.item_ids], target_ids=spread[feed.arrays.target_ids]
    )
    encoder, passes = recording(make_encoder(config, items))
    task = pretrain_task(encoder, feed._replace(arrays=arrays), (), **config.pretrain.loss)
    optimizer = _optimizer(config, task)
    state = _large_state(encoder, optimizer, bench.seed)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.params)
    work = step_work(config, task, shapes, passes, reads=feed.reads)
    steps = bench.sizes.steps if updates == "touched" else bench.sizes.slow_steps
    stepper = Stepper(task, optimizer, state, steps)
    del state
    steps = stepper.most
    per_step = len(training_examples(bench.split).lengths) / task.steps_per_epoch
    return Contestant(
        f"{items:,} items, {updates} rows updated",
        lambda: stepper.run(steps),
        per_step * steps,
        work.times(steps),
        stepper.temp_bytes,
        note,
    )


def _spread(known: int, items: int, seed: int) -> jax.Array:
    """[known + 1] places in a catalogue of `items`: distinct if it has room for all, 0 stays 0."""
    if items <= known:
        places = np.arange(known) % items
    else:
        places = np.sort(np.random.default_rng(seed).choice(items, known, replace=False))
    return jnp.asarray(np.concatenate([[0], places + 1]), jnp.int32)


def _large_state(encoder, optimizer, seed: int) -> TrainState:
    """A state made where it stays: no copy of the table, not even of random bits, is ever beside it."""
    small = type(encoder)(
        **{
            name: getattr(encoder, name)
            for name in type(encoder).__dataclass_fields__
            if name not in ("parent", "name", "num_items")
        },
        num_items=1,
    )
    shape = (encoder.num_items + 1, encoder.dim)

    def made(key):
        params = small.init(key, jnp.ones((1, 2), jnp.int32))["params"]
        rows, columns = (jax.lax.broadcasted_iota(jnp.float32, shape, axis) for axis in (0, 1))
        table = 0.02 * jnp.sin(rows * 12.9898 + columns * 78.233)
        params = params | {"item_table": table}
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), None)

    return jax.block_until_ready(jax.jit(made)(jax.random.key(seed)))


def size_of(bench: Bench, config) -> str:
    """The log and the model in words."""
    encoder = config.encoder
    return (
        f"{bench.size_words()}, {len(training_examples(bench.split).lengths):,} targets; width "
        f"{encoder.dim}, {encoder.num_layers} layers, {encoder.num_heads} heads, {encoder.max_len} items, "
        f"{config.pretrain.batching.targets_per_batch} targets a step"
    )


def _whole_epoch(bench: Bench, lines: list[Line]) -> list[Line]:
    targets = len(training_examples(bench.split).lengths)
    return [line._replace(whole_s=targets / line.rate) for line in lines]
