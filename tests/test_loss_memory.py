"""What the full softmax takes beside table and gradient must not grow with the catalogue; compiled, never run."""

import jax
import jax.numpy as jnp
import pytest

from raserec_jax.benchmarks.bench import Bench
from raserec_jax.benchmarks.loss_rows import compiled_gradient, dense_loss, streamed_loss
from raserec_jax.benchmarks.sizes import TINY
from raserec_jax.benchmarks.stepping import temp_bytes
from raserec_jax.losses import full_softmax
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.pretraining import make_encoder, make_pretrain_task
from raserec_jax.training.state import create_state
from raserec_jax.training.steps import make_run_steps
from tests.tiny_workdir import quick_compiles

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="how much XLA reuses is only held for its CPU backend"
)
TARGETS, DIM = 256, 64


def test_loss_and_gradient_are_flat_from_ten_thousand_to_two_million_items(monkeypatch):
    """Flat where logits are made again, at most a constant more where they are few enough to be kept."""
    kept, large = (
        temp_bytes(compiled_gradient(streamed_loss, TARGETS, items, DIM))
        for items in (10_000, 2_000_000)
    )
    assert 4 * TARGETS * 10_000 < kept < large + 2 * full_softmax.FEW_LOGITS_BYTES
    monkeypatch.setattr(full_softmax, "FEW_LOGITS_BYTES", 0)
    small = temp_bytes(compiled_gradient(streamed_loss, TARGETS, 10_000, DIM))
    assert abs(large - small) < 2**16
    assert large < 2**21  # the logits alone would be 2 GB, a copy of the table 0.5 GB
    dense = temp_bytes(compiled_gradient(dense_loss, TARGETS, 10_000, DIM))
    assert dense > 4 * TARGETS * 10_000  # so that what is compared can be seen at all


def test_a_training_step_holds_one_gradient_of_the_table_and_nothing_else_that_grows(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(full_softmax, "FEW_LOGITS_BYTES", 0)
    bench = Bench(TINY, tmp_path)
    config = bench.config(encoder__dim=DIM)
    sizes = 20_000, 120_000
    with quick_compiles():
        small, large = (step_bytes(config, bench.split, items) for items in sizes)
    gradient = 4 * DIM * (sizes[1] - sizes[0])
    assert large - small < 1.02 * gradient


def step_bytes(config, split, items):
    """Beside state and data, of compiled steps of stage 1 for so many items."""
    encoder = make_encoder(config, items)
    task = make_pretrain_task(config, encoder, split, None)
    optimizer = make_optimizer(total_steps=100, **config.pretrain.optimizer)
    key = jax.random.key(0)
    shapes = jax.eval_shape(encoder.init, key, jnp.ones((1, 2), jnp.int32))["params"]
    state = jax.eval_shape(lambda params: create_state(params, optimizer), shapes)
    order = task.order(task.constants, key)
    arguments = state, task.constants, order, jnp.int32(0), jnp.int32(2), key
    return temp_bytes(make_run_steps(task, optimizer).lower(*arguments, most=2).compile())
