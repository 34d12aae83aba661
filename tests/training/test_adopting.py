"""Stage 1 of another workdir, taken over."""

import shutil

import numpy as np
import pytest

from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.report.results import read_json
from raserec_jax.training import adopting
from raserec_jax.training.pipeline import train
from raserec_jax.training.workdir import stage_record
from tests.tiny_workdir import STAGES, generated_log, quick_training, tiny_config, trained


@pytest.fixture(scope="session")
def tiny_workdir(tmp_path_factory):
    return trained(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_training():
        yield


def test_another_reader_over_the_same_encoder_and_memory(tiny_workdir, tmp_path, capsys):
    config = tiny_config()
    config.reader.alpha = 0.3
    run = train(config, generated_log(), tmp_path / "b", stages=STAGES, pretrained=tiny_workdir)
    assert f"pretrain and memory: taken over from {tiny_workdir}" in capsys.readouterr().out
    before = read_json(tiny_workdir / "results.json")["stages"]
    stages = read_json(run.workdir / "results.json")["stages"]
    assert stages["pretrain"]["test"] == before["pretrain"]["test"]
    assert stages["pretrain"]["taken_from"] == str(tiny_workdir)
    assert stages["finetune"]["valid"] != before["finetune"]["valid"]
    assert not (tmp_path / "b" / "checkpoints" / "pretrain").exists()
    again = train(config, generated_log(), tmp_path / "b", stages=STAGES, pretrained="/none")
    assert again.results["stages"] == stages  # what is there already is not taken over again


def test_the_memory_stays_where_it_would_be_another(tiny_workdir, tmp_path):
    config = tiny_config()
    config.memory.newest_share = 0.5
    train(config, generated_log(), tmp_path / "b", stages=["memory"], pretrained=tiny_workdir)
    record = stage_record(tmp_path / "b", "memory")
    assert "taken_from" not in record
    assert record["entries_train"] < stage_record(tiny_workdir, "memory")["entries_train"]


def test_what_does_not_fit_is_refused(tiny_workdir, tmp_path):
    config = tiny_config()
    config.pretrain.optimizer.learning_rate = 0.5
    with pytest.raises(ConfigError, match=r"trained otherwise: pretrain.optimizer.learning_rate"):
        train(config, generated_log(), tmp_path / "a", pretrained=tiny_workdir)
    log = generated_log()
    other = type(log)(
        log.user_ids,
        np.ascontiguousarray(log.item_ids[::-1]),
        log.timestamps,
        log.user_labels,
        log.item_labels,
    )
    with pytest.raises(ConfigError, match="made from other data"):
        train(tiny_config(), other, tmp_path / "b", pretrained=tiny_workdir)
    with pytest.raises(ConfigError, match="no finished pretrain stage"):
        train(tiny_config(), log, tmp_path / "c", pretrained=tmp_path)


def test_a_kill_while_copying_leaves_nothing_half(tiny_workdir, tmp_path, monkeypatch):
    log, copied = generated_log(), shutil.copytree(tiny_workdir, tmp_path / "a")
    monkeypatch.setattr(adopting.wd, "write_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny_config(), log, tmp_path / "b", stages=["memory"], pretrained=copied)
    monkeypatch.undo()
    train(tiny_config(), log, tmp_path / "b", stages=["memory"], pretrained=copied)
    assert stage_record(tmp_path / "b", "pretrain")["taken_from"] == str(copied)
    damaged = next((copied / "best" / "pretrain" / "tree" / "d").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        train(tiny_config(), log, tmp_path / "c", stages=["memory"], pretrained=copied)
