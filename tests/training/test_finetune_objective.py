"""Stage 2's objective: what a step reads, what it trains, and what an epoch is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.training.finetune_objective import MemoryConstants, finetune_task, read_memories
from tests.quick_jit import quick_jit
from tests.training.repeat_bias_loss import loss_by_definition


def memory_constants(examples=10, dim=8, bank=7, items=11, top_k=3):
    draw = np.random.default_rng(0)
    ids = draw.integers(0, bank, (examples, top_k)).astype(np.int32)
    ids[2] = -1
    ids[3, 1:] = -1
    return MemoryConstants(
        {"item_table": draw.normal(size=(items + 1, dim)).astype(np.float32)},
        None,
        draw.normal(size=(examples, dim)).astype(np.float32),
        draw.integers(1, items + 1, examples).astype(np.int32),
        draw.normal(size=(bank, dim)).astype(np.float32),
        draw.integers(1, items + 1, bank).astype(np.int32),
        ids,
    )


@pytest.fixture(scope="module")
def reader_and_params():
    reader = MemoryReader(inner_dim=8, beta=1.0, hidden_dropout=0.0, attention_dropout=0.0)
    shapes = jax.eval_shape(
        reader.init,
        jax.random.key(0),
        *(jnp.zeros(shape) for shape in ((1, 8), (1, 1, 8), (1, 1, 8))),
    )["params"]
    draw = np.random.default_rng(1)
    return reader, jax.tree.map(lambda s: draw.normal(size=s.shape).astype(np.float32), shapes)


def test_memories_are_looked_up_when_they_are_read(reader_and_params):
    reader, params = reader_and_params
    constants = jax.tree.map(jnp.asarray, memory_constants())

    @quick_jit
    def both(params):
        read = read_memories(
            reader,
            params,
            constants.queries,
            constants.retrieved_ids,
            constants.memory_keys,
            constants.memory_target_ids,
            constants.encoder_params["item_table"],
        )
        ids = constants.retrieved_ids
        values = constants.encoder_params["item_table"][constants.memory_target_ids[ids]]
        arguments = (constants.queries, constants.memory_keys[ids], values, ids >= 0)
        return read, reader.apply({"params": params}, *arguments)

    found, expected = both(params)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[2], constants.queries[2])


def test_an_epoch_of_finetuning_is_every_example_once(reader_and_params):
    reader, params = reader_and_params
    constants = memory_constants()
    task = finetune_task(
        reader, constants, batch_size=4, include_padding_class=False, chunk_items=16
    )
    assert task.steps_per_epoch == 3
    order = task.order(task.constants, jax.random.key(0))
    assert sorted(np.asarray(order)) == [-1, -1, *range(10)]
    step = quick_jit(task.loss)
    key = jax.random.key(1)
    losses = [step(params, task.constants, order, jnp.int32(i), key)[0] for i in range(3)]
    # All at once: the steps' losses are means over 4, 4 and 2 examples.
    whole = finetune_task(
        reader, constants, batch_size=99, include_padding_class=False, chunk_items=16
    )
    assert whole.steps_per_epoch == 1
    expected, metrics = quick_jit(whole.loss)(
        params, whole.constants, jnp.arange(10, dtype=jnp.int32), jnp.int32(0), key
    )
    assert metrics["next_item_loss"] == expected
    found = np.average(np.array(losses, np.float64), weights=[4, 4, 2])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_finetuning_trains_the_reader_alone_and_uses_dropout(reader_and_params):
    reader, params = reader_and_params
    dropping = reader.clone(hidden_dropout=0.5, attention_dropout=0.5)
    task = finetune_task(
        dropping, memory_constants(), batch_size=10, include_padding_class=True, chunk_items=16
    )
    step = quick_jit(jax.value_and_grad(task.loss, has_aux=True))
    order = jnp.arange(10, dtype=jnp.int32)

    def run(seed):
        return step(params, task.constants, order, jnp.int32(0), jax.random.key(seed))

    ((first, _), grads), ((again, _), _), ((other, _), _) = run(0), run(0), run(1)
    assert first == again != other
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("bias", [-0.7, 0.3])
def test_the_repeat_bias_is_part_of_the_loss(bias, reader_and_params):
    reader, reader_params = reader_and_params
    lengths = np.array([3, 5, 1, 6, 2, 6, 4, 6, 3, 5], np.int32)
    items = np.random.default_rng(0).integers(1, 7, lengths.sum()).astype(np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    constants = memory_constants()
    constants = constants._replace(
        encoder_params=constants.encoder_params | {"repeat_bias": np.float32(bias)},
        windows=(items, starts, lengths),
        retrieved_ids=np.full_like(constants.retrieved_ids, -1),  # the vectors stay as they are
    )
    settings = {"batch_size": 10, "include_padding_class": False, "chunk_items": 16, "max_len": 6}
    stage = finetune_task(reader, constants, **settings)
    found, _ = quick_jit(stage.loss)(
        reader_params,
        stage.constants,
        jnp.arange(10, dtype=jnp.int32),
        jnp.int32(0),
        jax.random.key(0),
    )
    expected = [
        loss_by_definition(query, constants.encoder_params, items[start : start + length], target)
        for query, start, length, target in zip(
            constants.queries, starts, lengths, constants.target_ids, strict=True
        )
    ]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)
