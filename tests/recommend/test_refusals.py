"""Recommender: unusable arguments and damaged workdirs end in one sentence."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import shutil

import jax
import numpy as np
import pytest

from raserec_jax import checkpoints
from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.recommend import Recommender
from raserec_jax.recommend.loading import open_workdir
from raserec_jax.retrieval.memory_bank import MemoryBank
from tests import tiny_workdir as tiny
from tests.tiny_workdir import change_config, copied, recommender, tiny_workdir  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    with tiny.quick_compiles():
        yield


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([["i001"]], {"k": 0}, ConfigError, r"k=0 but the catalogue has 30 items; give a k of 1..30"),
        ([["i001"]], {"k": 31}, ConfigError, r"k=31 but the catalogue has 30 items"),
        ([["i001"]], {"k": True}, ConfigError, r"k=True but the catalogue has 30 items; give a k of"),
        ([["i001"]] * 2, {"users": "u1"}, DataError, "users='u1' is a single value; give one user per"),
        ([["i001"]], {"as_of": 5}, ConfigError, "as_of=5 needs the rule 'before' but .*=own_earlier"),
        ([["i001"]], {"users": []}, DataError, "0 users for 1 histories; give one user per history"),
        (["i001"], {}, DataError, r"histories\[0\] is 'i001', a single value; give a list of item"),
        ([7], {}, DataError, r"histories\[0\] is 7, a single value"),
        ("i001", {}, DataError, "histories is 'i001'; give a list of lists"),
        ([["i001"]], {"allow": []}, DataError, "allow and deny leave none of the 30 items; .* such as 'i001'"),
        ([["i001"]], {"allow": ["x"]}, DataError, "allow and deny leave none of the 30 items"),
        ([["i001"]], {"deny": "i001"}, DataError, "deny='i001' is a single value; give a list"),
        ([[None]], {}, DataError, "item ids must be integers or strings, got None"),
        ([[1.5]], {}, DataError, "item ids must be integers or strings, got float64"),
    ],
)  # fmt: skip
def test_unusable_arguments(recommender, arguments, options, error, message):
    with pytest.raises(error, match=message):
        recommender.recommend(arguments, **options)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such workdir; give the folder that launch/train.py made"),
        (lambda run: (run / "config.json").unlink(), r"has no config\.json, so it is no workdir"),
        (lambda run: cut(run / "config.json"), r"config\.json: damaged, not JSON"),
        (
            lambda run: (run / "config.json").write_text("[1]"),
            "not the configuration of a run .it needs data, encoder",
        ),
        (
            lambda run: change_config(run, encoder__depth=3),
            r"config\.json: describes no model of this release .*depth",
        ),
        (lambda run: change_config(run, encoder__dim=16), "made by another configuration"),
        (
            lambda run: (run / "stages/pretrain.json").unlink(),
            r"pre-training is not finished \(no stages/pretrain\.json\); run launch/train\.py",
        ),
        (lambda run: cut(run / "stages/finetune.json"), r"finetune\.json: damaged, not JSON"),
        (lambda run: (run / "stages/finetune.json").write_text("3"), "not the record of a stage"),
        (lambda run: shutil.rmtree(run / "log"), "no InteractionLog here"),
        (lambda run: cut(run / "log/item_ids.npy"), r"item_ids\.npy: damaged"),
        (lambda run: cut(run / "log/items.json"), r"items\.json: damaged"),
        (lambda run: shutil.rmtree(run / "best/pretrain"), "no checkpoint there"),
        (lambda run: shutil.rmtree(run / "best/finetune"), "no checkpoint there"),
        (lambda run: cut(run / "best/finetune/manifest.json"), "not a checkpoint manifest"),
        (lambda run: shutil.rmtree(run / "memory"), "no memory bank here"),
        (lambda run: cut(next(run.glob("memory/segments/*/keys.npy"))), r"keys\.npy: damaged"),
    ],
)  # fmt: skip
def test_damaged_workdir_is_one_sentence(copied, damage, message):
    damage(copied)
    with pytest.raises(CheckpointError, match=message) as caught:
        Recommender.load(copied)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_mixture_is_one_sentence(copied):
    (copied / "stages/finetune.json").unlink()
    (copied / "stages/mixing.json").write_text('{"mixing": {"weight": "a"}}')
    with pytest.raises(
        CheckpointError, match=r"mixing\.json: damaged, mixing lacks one of weight, temp"
    ):
        Recommender.load(copied)


def test_memory_of_another_encoder_is_refused(copied):
    params = open_workdir(copied).encoder_params
    other = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, params)
    checkpoints.save(copied / "best/pretrain", other, {})
    with pytest.raises(CheckpointError, match="the memory bank was built by encoder"):
        Recommender.load(copied)


def test_memory_of_another_catalogue_is_refused(copied):
    opened = open_workdir(copied)
    fingerprint = checkpoints.params_fingerprint(opened.encoder_params)
    key = np.ones((1, 8), np.float32)
    one = np.ones(1, np.int32)
    MemoryBank(key, 31 * one, one, one).save(copied / "memory", fingerprint)
    with pytest.raises(CheckpointError, match="names items or users that .*/log does not have"):
        Recommender.load(copied)
