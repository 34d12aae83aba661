"""A workdir trained on a small generated log, once per session; what tests of inference load."""

import contextlib
import functools
import json
import pathlib
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from raserec_jax import presets
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.recommend import Recommender
from raserec_jax.training import loop
from raserec_jax.training.pipeline import train
from tests.quick_jit import quick_jit

STAGES = ("pretrain", "memory", "finetune", "mixing", "control", "evaluate")
USERS, ITEMS, MAX_LEN = 60, 30, 8


@pytest.fixture(scope="session")
def tiny_workdir(tmp_path_factory):
    """The trained workdir; tests must not change it."""
    return trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def copied(tiny_workdir, tmp_path):
    """A copy of the workdir, to be changed."""
    return shutil.copytree(tiny_workdir, tmp_path / "run")


@pytest.fixture(scope="module")
def recommender(tiny_workdir):
    """The workdir's; of each test file its own, as some compile otherwise."""
    return Recommender.load(tiny_workdir)


@functools.cache  # test files that import the fixture have one each
def trained(base: pathlib.Path) -> pathlib.Path:
    """Its folder, under the session's temporary one."""
    folder = base / "tiny_workdir"
    log = generated_log()
    with quick_training():
        train(tiny_config(), log, str(folder), item_text=titles(log), stages=STAGES)
    return folder


@contextlib.contextmanager
def quick_training():
    """What is trained in here compiles in the least time."""
    make_run_steps = loop.make_run_steps

    def quick_steps(task, optimizer):
        steps = make_run_steps(task, optimizer).__wrapped__
        return quick_jit(steps, static_argnames="most", donate_argnums=0)

    with quick_compiles(), mock.patch.object(loop, "make_run_steps", quick_steps):
        yield


@contextlib.contextmanager
def quick_compiles():
    """XLA's compiler is most of the time of small tests: it leaves the optimising out."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def generated_log() -> InteractionLog:
    """Users u00.. take items i001.. along noisy cycles; 5 to 12 of them, so some have more than MAX_LEN."""
    draw = np.random.default_rng(3)
    lengths = draw.integers(5, 13, USERS)
    users = np.repeat(np.arange(USERS), lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    items = (np.repeat(draw.integers(0, ITEMS, USERS), lengths) + places) % ITEMS
    items = np.where(draw.random(len(items)) < 0.2, draw.integers(0, ITEMS, len(items)), items)
    return InteractionLog.from_columns(
        [f"u{user:02d}" for user in users],
        [f"i{item + 1:03d}" for item in items],
        timestamp=100 * places + users,
        name="tiny",
    )


def titles(log: InteractionLog) -> ItemText:
    """Item i003 is called "Title 3"; i001 has no title."""
    labels = log.item_labels[2:]
    return ItemText(labels, {"title": [f"Title {int(label[1:])}" for label in labels.tolist()]})


def tiny_config():
    """Sizes at which every stage takes a moment."""
    config = presets.raserec("tiny")
    config.encoder.update(max_len=MAX_LEN, dim=8, num_layers=1, inner_dim=16, hidden_dropout=0.1)
    config.pretrain.batching.targets_per_batch = 64
    config.pretrain.contrast.mode = "none"
    config.pretrain.optimizer.update(learning_rate=1e-2, schedule="constant", warmup_steps=0)
    config.pretrain.stopping.epochs = 3
    config.finetune.stopping.epochs = 1
    config.reader.inner_dim = 16
    config.memory.update(top_k=5, engine="exact")
    config.mixing.update(top_k=8, temperatures=(0.05, 0.2), weights=(0.3,))
    config.evaluation.update(bootstrap_samples=20, samples=0)
    return config


def change_config(workdir, **values):
    """Sets GROUP__NAME=VALUE in config.json."""
    path = workdir / "config.json"
    config = json.loads(path.read_text())
    for name, value in values.items():
        group, _, leaf = name.partition("__")
        config[group][leaf] = value
    path.write_text(json.dumps(config))
