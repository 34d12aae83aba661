"""train() as a whole, on a small generated log: contracts of the workdir, reuse, refusals."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.evaluation.metrics import metrics_from_ranks
from raserec_jax.retrieval.eligibility import Queries, audit
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import load_retrieved
from raserec_jax.training.pipeline import train
from raserec_jax.training.workdir import plain
from tests.tiny_workdir import STAGES, generated_log, quick_training, tiny_config, trained

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_workdir(tmp_path_factory):
    return trained(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_training():
        yield


@pytest.fixture
def results(tiny_workdir):
    return json.loads((tiny_workdir / "results.json").read_text())


def test_results_keep_the_contract(results):
    assert results["protocol"]["split"] == "leave_one_out"
    assert results["protocol"]["num_users"] == 60
    stages = results["stages"]
    for name in ("pretrain", "finetune", "mixing", "combined", "control"):
        for protocol in ("unfiltered", "filtered"):
            metrics = stages[name]["test"][protocol]
            assert set(metrics) == {
                f"{kind}@{k}" for kind in ("HR", "NDCG", "MRR") for k in (1, 5, 10, 20, 50)
            }
            assert 0 <= metrics["NDCG@10"] <= metrics["HR@10"] <= 1
    assert "test_train_bank" in stages["finetune"]
    assert stages["memory"]["violations"] == 0
    assert stages["memory"]["recall_vs_exact@5"] == 1.0
    assert stages["memory"]["entries"] == stages["memory"]["entries_train"] + 60
    for gain in (stages["gain"]["NDCG@10"], stages["gain"]["filtered"]["NDCG@10"]):
        assert gain["low"] <= gain["mean"] <= gain["high"]


def test_ranks_give_the_metrics_and_the_gain(tiny_workdir, results):
    with np.load(tiny_workdir / "ranks.npz", allow_pickle=False) as ranks:
        finetune, control = ranks["finetune/unfiltered"], ranks["control/unfiltered"]
    stages = results["stages"]
    expected = metrics_from_ranks(finetune)
    assert stages["finetune"]["test"]["unfiltered"]["NDCG@10"] == pytest.approx(
        expected["NDCG@10"], abs=1e-7
    )
    difference = expected["NDCG@10"] - metrics_from_ranks(control)["NDCG@10"]
    assert stages["gain"]["NDCG@10"]["mean"] == pytest.approx(difference, abs=1e-7)


def test_saved_neighbours_are_those_of_the_saved_bank(tiny_workdir):
    bank = MemoryBank.load(tiny_workdir / "memory")
    train_rows = bank.segment_ends[0]
    train_bank = MemoryBank(
        bank.keys[:train_rows],
        bank.target_ids[:train_rows],
        bank.user_ids[:train_rows],
        bank.lengths[:train_rows],
        bank.times[:train_rows],
    )
    queries = Queries(train_bank.keys, train_bank.user_ids, train_bank.lengths, train_bank.times)
    found = load_retrieved(tiny_workdir / "memory" / "neighbours_train.npz")
    again = ExactIndex(train_bank).search(queries, found.ids.shape[1])
    np.testing.assert_array_equal(found.ids, again.ids)
    assert len(audit(np.asarray(found.ids), train_bank, queries, "own_earlier")) == 0


def test_a_second_call_reuses_everything(tiny_workdir, monkeypatch):
    def no_search(*args):
        raise AssertionError("searched again")

    monkeypatch.setattr(ExactIndex, "search", no_search)
    before = (tiny_workdir / "results.json").read_bytes()
    run = train(tiny_config(), generated_log(), tiny_workdir, stages=STAGES)
    assert (tiny_workdir / "results.json").read_bytes() == before
    assert run.results["stages"]["finetune"]["test"]


def test_an_epoch_searches_nothing(tiny_workdir, tmp_path, monkeypatch):
    """Stage 2 with the neighbours at hand never calls an index."""
    workdir = shutil.copytree(tiny_workdir, tmp_path / "run")
    for stage in ("finetune", "mixing", "control", "evaluate"):
        (workdir / "stages" / f"{stage}.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "finetune")
    calls = []
    monkeypatch.setattr(ExactIndex, "search", lambda *args: calls.append(args))
    train(tiny_config(), generated_log(), workdir, stages=("finetune",))
    assert not calls
    first = json.loads((tiny_workdir / "stages" / "finetune.json").read_text())
    again = json.loads((workdir / "stages" / "finetune.json").read_text())
    assert first["valid"] == again["valid"]  # and the same seed gives the same numbers


def test_another_configuration_is_refused(tiny_workdir):
    config = tiny_config()
    config.encoder.dim = 16
    with pytest.raises(
        ConfigError, match=r"another configuration: encoder.dim is 8 there and 16 here"
    ):
        train(config, generated_log(), tiny_workdir)


def test_unknown_stage_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--stages has fintune; use some of semantic, pretrain"):
        train(tiny_config(), generated_log(), tmp_path, stages=("fintune",))


@pytest.mark.parametrize(
    "changes",
    [
        {"memory.newest_share": 0.5},
        {"memory.eligibility": "before"},
        {"data.split": "global_time", "memory.eligibility": "before"},
    ],
)
def test_what_needs_times_is_refused_before_the_training(tmp_path, changes):
    config, log = tiny_config(), generated_log()
    config.update_from_flattened_dict(changes)
    without = dataclasses.replace(log, timestamps=None)
    with pytest.raises(DataError, match="config.* needs times but .* has none"):
        train(config, without, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_later_stage_needs_the_first(tmp_path):
    with pytest.raises(ConfigError, match="no finished pretrain stage"):
        train(tiny_config(), generated_log(), tmp_path, stages=("memory",))


def test_top_k_above_the_bank_is_refused(tiny_workdir, tmp_path):
    workdir = shutil.copytree(tiny_workdir, tmp_path / "run")
    shutil.rmtree(workdir / "memory")
    for path in (workdir / "stages").glob("*.json"):
        if path.stem != "pretrain":
            path.unlink()
    config = tiny_config()
    config.memory.top_k = 10_000
    (workdir / "config.json").write_text(json.dumps(plain(config)))
    with pytest.raises(
        ConfigError, match=r"config.memory.top_k=10000 but the bank has \d+ entries"
    ):
        train(config, generated_log(), workdir, stages=("memory",))


def _command(tmp_path, *flags: str) -> subprocess.CompletedProcess:
    log = tmp_path / "log.tsv"
    if not log.exists():
        rows = [f"u{u}\ti{(u * 3 + t) % 12}\t{t}" for u in range(30) for t in range(7)]
        log.write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows) + "\n")
    return subprocess.run(
        [
            sys.executable,
            "launch/train.py",
            "--config=configs/raserec.py",
            f"--config.data.interactions={log}",
            f"--workdir={tmp_path / 'run'}",
            "--config.encoder.dim=8",
            "--config.encoder.num_layers=1",
            "--config.pretrain.contrast.mode=none",
            "--stages=pretrain",
            *flags,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_a_loss_that_is_not_finite_ends_with_3_and_names_the_step(tmp_path):
    done = _command(tmp_path, "--config.pretrain.optimizer.learning_rate=1e38")
    assert done.returncode == 3, done.stderr
    assert "pretrain: the loss of step" in done.stderr
    assert "last good checkpoint" in done.stderr
    # One step per epoch: nothing of the step that is named, or of a later one, was saved.
    named = int(re.search(r"the loss of step (\d+)", done.stderr).group(1))
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints" / "pretrain").iterdir()]
    assert saved
    assert max(saved) <= named


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.memory.topk=3",), "top_k"),
        (("--config.memory.top_k=abc",), "config.memory.top_k"),
        (("--config.data.interactions=absent.tsv",), "absent.tsv: no such file"),
        (("--config.encoder.dim=9",), "encoder.dim=9 is not a multiple"),
        (
            ("--config.pretrain.batching.mode=prefx",),
            "batching.mode='prefx' is not usable; expected one of packed",
        ),
        (("--config.data.min_interactions=1000",), "1000"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, flags, message):
    done = _command(tmp_path, *flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1
