"""Rows about the softmax over the catalogue alone: streamed against dense logits, and its memory by catalogue."""

import functools

import jax
import jax.numpy as jnp
import optax

from raserec_jax.benchmarks.bench import Bench
from raserec_jax.benchmarks.contest import Contestant, Line
from raserec_jax.benchmarks.counting import full_softmax_work
from raserec_jax.benchmarks.stepping import temp_bytes
from raserec_jax.losses import default_chunk_items, next_item_loss


def streamed_loss(query, table, target_ids):
    """Ours."""
    return next_item_loss(query, table, target_ids)


def dense_loss(query, table, target_ids):
    """The usual: all logits at once."""
    logits = query @ table[1:].T
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target_ids - 1)
    return jnp.mean(losses)


def compiled_gradient(loss, targets: int, items: int, dim: int):
    """Loss and gradients by query and table, compiled for these sizes without any array made."""
    shapes = [
        jax.ShapeDtypeStruct((targets, dim), jnp.float32),
        jax.ShapeDtypeStruct((items + 1, dim), jnp.float32),
        jax.ShapeDtypeStruct((targets,), jnp.int32),
    ]
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*shapes).compile()


def loss_contestant(what: str, loss, targets: int, items: int, dim: int) -> Contestant:
    """Loss and gradients of drawn queries."""
    compiled = compiled_gradient(loss, targets, items, dim)
    keys = jax.random.split(jax.random.key(0), 3)
    query = 0.1 * jax.random.normal(keys[0], (targets, dim))
    table = 0.1 * jax.random.normal(keys[1], (items + 1, dim))
    target_ids = jax.random.randint(keys[2], (targets,), 1, items + 1)
    chunk = min(default_chunk_items(targets, items + 1), items)
    return Contestant(
        what,
        functools.partial(compiled, query, table, target_ids),
        targets,
        full_softmax_work(targets=targets, items=items, dim=dim, chunk=chunk, kept=chunk == items),
        temp_bytes(compiled),
    )


def loss(bench: Bench) -> list[Line]:
    """At the sizes of a step of stage 1."""
    config, items = bench.config(), bench.split.log.num_items
    targets, dim = config.pretrain.batching.targets_per_batch, config.encoder.dim
    contestants = [
        loss_contestant("streamed in chunks", streamed_loss, targets, items, dim),
        loss_contestant("dense logits", dense_loss, targets, items, dim),
    ]
    size = f"{targets} targets, {items:,} items, width {dim}, loss and gradients"
    return bench.measure("loss", size, "targets", contestants)
