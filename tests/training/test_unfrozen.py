"""Stage 2 with the encoder trained along: against the frozen stage, against a bank from scratch, across stops."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from raserec_jax import checkpoints
from raserec_jax.batching.windows import training_examples
from raserec_jax.errors import Interrupted
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training import loop
from raserec_jax.training.finetuning import run_finetuning
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.pretraining import Tools, make_encoder
from raserec_jax.training.reading import make_reader, reader_shapes
from raserec_jax.training.remembering import run_memory
from raserec_jax.training.state import create_state
from raserec_jax.training.unfrozen import make_unfrozen_task, unfrozen_evaluator
from raserec_jax.training.unfrozen_objective import slower_encoder
from tests.quick_jit import quick_jit
from tests.small_logs import random_split
from tests.tiny_workdir import quick_training, tiny_config
from tests.training.toy_fit import Bar, Writer, quick_steps


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_training():
        yield


@pytest.fixture(autouse=True)
def one_program(monkeypatch):
    """All fits of a test have the same step: compiled once, instead of for every call of `fit`."""
    programs = {}

    def steps(task, optimizer):
        kind = len(jax.tree.leaves(task.constants))  # the frozen stage has other constants
        if kind not in programs:
            programs[kind] = quick_steps(task, optimizer)
        return programs[kind]

    monkeypatch.setattr(loop, "make_run_steps", steps)


@pytest.fixture(scope="module")
def split():
    return random_split(np.random.default_rng(0).integers(5, 10, 30), num_items=15)


def frozen_config():
    config = tiny_config()
    config.mixing.top_k = config.memory.top_k  # searches of one size are compiled once
    config.finetune.batch_size = 32
    return config


def unfrozen_config(**finetune):
    config = frozen_config()
    config.finetune.update(train_encoder=True, **finetune)
    return config


@pytest.fixture(scope="module")
def stage_1(split, tmp_path_factory):
    """Parameters of an encoder, none of them special, and the memory by it."""
    config = frozen_config()
    encoder = make_encoder(config, split.log.num_items)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape) / 2, jnp.float32), shapes)
    return params, run_memory(config, encoder, params, split, tmp_path_factory.mktemp("memory"))


def run(config, stage_1, split, folder, bar=None):
    return run_finetuning(config, *stage_1, split, Tools(folder, Writer(), bar or Bar()))


def assert_same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_an_encoder_that_stands_still_gives_the_frozen_stage(split, stage_1, tmp_path):
    """Without dropout in the encoder; the reader's dropout is on, and the same in both."""
    config = unfrozen_config(encoder_rate=0.0)
    config.encoder.update(hidden_dropout=0.0, attention_dropout=0.0)
    found = run(config, stage_1, split, tmp_path / "unfrozen")
    config.finetune.train_encoder = False
    expected = run(config, stage_1, split, tmp_path / "frozen")
    assert_same_bits(found.params["encoder"], stage_1[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
        found.params["reader"],
        expected.params,
    )
    start = quick_jit(make_reader(config).init)(
        jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2), 7),
        *(jnp.zeros(shape) for shape in ((1, 8), (1, 1, 8), (1, 1, 8))),
    )["params"]
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), expected.params, start)
    assert min(jax.tree.leaves(moved)) > 1e-3  # five times what may differ


def test_the_encoder_is_trained_at_its_own_rate():
    params = {"reader": {"w": jnp.ones(3)}, "encoder": {"w": jnp.ones(3)}}
    grads = jax.tree.map(lambda leaf: leaf * jnp.array([1.0, -2.0, 0.0]), params)
    plain = optax.adam(0.5)
    slow = slower_encoder(plain, 0.1)
    assert jax.tree.structure(slow.init(params)) == jax.tree.structure(plain.init(params))
    expected, _ = plain.update(grads, plain.init(params), params)
    found, _ = slow.update(grads, slow.init(params), params, value=jnp.float32(1))
    np.testing.assert_array_equal(found["reader"]["w"], expected["reader"]["w"])
    np.testing.assert_allclose(found["encoder"]["w"], 0.1 * expected["encoder"]["w"])


def from_scratch(config, params, split):
    """Keys from one row per prefix, the bank of them, and all training neighbours in it."""
    encoder, examples = make_encoder(config, split.log.num_items), training_examples(split)
    windows = np.zeros((len(examples.lengths), encoder.max_len), np.int32)
    for i, (place, length) in enumerate(zip(examples.target_places, examples.lengths, strict=True)):
        windows[i, :length] = split.log.item_ids[place - length : place]
    read = (jnp.arange(len(windows)), jnp.asarray(examples.lengths) - 1)
    keys = np.asarray(encoder.apply({"params": params}, jnp.asarray(windows), read=read))
    columns = (examples.user_ids, examples.lengths, split.log.time_ranks[examples.target_places])
    bank = MemoryBank(keys, examples.target_ids, *columns)
    return bank, ExactIndex(bank).search(Queries(keys, *columns), config.memory.top_k)


def test_a_refresh_is_a_bank_from_scratch(split, stage_1):
    config = unfrozen_config(refresh_epochs=1)
    task = make_unfrozen_task(config, make_reader(config), *stage_1, split)
    other = jax.tree.map(lambda leaf: leaf[::-1] if leaf.ndim else leaf, stage_1[0])
    for params in (stage_1[0], other):
        _, found = task.refresh({"encoder": params, "reader": {}}, task.constants)
        bank, retrieved = from_scratch(config, params, split)
        np.testing.assert_allclose(found.memory_keys, bank.keys, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.memory_target_ids, bank.target_ids)
        # Neighbours of nearly equal cosine may change places.
        same = np.asarray(found.retrieved_ids) == np.asarray(retrieved.ids)
        assert same.mean() > 0.99
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, task.constants[1])


def test_without_refresh_the_bank_stays(split, stage_1):
    config = unfrozen_config()
    task = make_unfrozen_task(config, make_reader(config), *stage_1, split)
    assert task.refresh is None
    np.testing.assert_array_equal(task.constants[1].memory_keys, stage_1[1].train_bank.keys)


def last_state(config, stage_1, folder):
    """Parameters, optimizer and what was refreshed last, as the newest checkpoint has them."""
    optimizer = make_optimizer(total_steps=1, **config.finetune.optimizer)
    shapes = reader_shapes(make_reader(config), config.encoder.dim)
    template = create_state(
        {"reader": jax.tree.map(lambda s: jnp.zeros(s.shape), shapes), "encoder": stage_1[0]},
        slower_encoder(optimizer, 1.0),
        refreshes=config.finetune.refresh_epochs > 0,
    )
    newest = checkpoints.step_folders(folder / "checkpoints/finetune")[-1]
    return checkpoints.restore(newest, template)[0]


def test_a_resumed_run_is_the_uninterrupted_one(split, stage_1, tmp_path):
    """Stopped within the first and the third epoch; refreshes lie between them."""
    states = []
    for every in (0, 1):
        config = unfrozen_config(refresh_epochs=every, encoder_rate=1.0)
        config.finetune.stopping.update(epochs=3, patience=0)
        config.finetune.optimizer.learning_rate = 0.02
        config.checkpoint.steps_per_call = 2
        whole = run(config, stage_1, split, tmp_path / str(every))
        states.append(last_state(config, stage_1, tmp_path / str(every)))
    assert not np.array_equal(*(state.params["encoder"]["item_table"] for state in states))
    # Metrics of the best epoch, from its parameters and a bank by its encoder: what later stages will find.
    evaluate = unfrozen_evaluator(config, make_reader(config), stage_1[1], split)
    assert evaluate(whole.params) == whole.valid
    steps = -(-len(training_examples(split).lengths) // 32)

    def interrupt(done):
        if done in (2, 2 * steps + 2):
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):
        with pytest.raises(Interrupted):
            run(config, stage_1, split, tmp_path / "parts", Bar(interrupt))
    parts = run(config, stage_1, split, tmp_path / "parts")
    assert_same_bits(parts.params, whole.params)
    assert_same_bits(last_state(config, stage_1, tmp_path / "parts"), states[-1])
    assert parts.valid == whole.valid
