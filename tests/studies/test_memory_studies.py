"""The studies of a finished run's memory, whole on the tiny workdir, which they must not change."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import csv
import hashlib
import json

import numpy as np
import pytest

from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.evaluation.metrics import metric_values
from raserec_jax.report.results import read_json
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.studies import memory_cost, memory_usefulness, when_memory_helps
from raserec_jax.studies.memory_signals import SIGNALS, memory_signals
from raserec_jax.studies.mixing_groups import run_mixing_groups
from raserec_jax.studies.trained_run import trained_run
from raserec_jax.training.comparing import read_ranks
from raserec_jax.training.testing import Ranks, training_popularity
from tests.tiny_workdir import copied, quick_training, tiny_config, tiny_workdir  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_training():
        yield


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in files}


@pytest.fixture(scope="module")
def run(tiny_workdir):
    """The tiny workdir; unchanged at the end."""
    before = digests(tiny_workdir)
    yield tiny_workdir
    assert digests(tiny_workdir) == before


def check_files(folder, name, summary):
    told = json.loads((folder / f"{name}.json").read_text())
    assert told == json.loads(json.dumps(summary))
    assert "| " in (folder / f"{name}.md").read_text()
    assert (folder / "plots" / f"{name}.png").stat().st_size > 5000
    assert "data:image/png;base64" in (folder / "report.html").read_text()
    return list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))


def test_when_memory_helps(run, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="of the validation queries, fewer than 20; take more"):
        when_memory_helps.run_when_memory_helps(tiny_config(), tmp_path, run=run)
    monkeypatch.setattr(when_memory_helps, "_LEAST", 1)
    summary = when_memory_helps.run_when_memory_helps(tiny_config(), tmp_path, run=run)
    assert summary["queries"] == 30
    assert summary["area"]["low"] <= summary["area"]["test"] <= summary["area"]["high"]
    assert [one["signal"] for one in summary["coefficients"]] == list(SIGNALS)
    assert sum(one["rows"] for one in summary["calibration"]) == summary["moved"]["judged"]
    rows = check_files(tmp_path, "when_memory_helps", summary)
    assert {row["kind"] for row in rows} == {"coefficient", "calibration", "policy"}

    # Nobody and everybody: the same users' ranks in the run's own files.
    ranks, _ = read_ranks(run)
    trained = trained_run(tiny_config(), tmp_path, run=run)
    judged = ~when_memory_helps.halves(60, 0)[trained.memory.test.evaluation.user_ids]
    of = {(row["policy"], row["protocol"], row["metric"]): row for row in summary["policies"]}
    for policy, model in (("no memory", "pretrain"), ("memory for all", "finetune")):
        for protocol in ("unfiltered", "filtered"):
            expected = metric_values(ranks[f"{model}/{protocol}"][judged], "NDCG@10").mean()
            assert of[policy, protocol, "NDCG@10"]["mean"] == pytest.approx(expected)
    for end in (("unfiltered", "MRR@10"), ("filtered", "MRR@10")):
        best = of["where it helps (bound)", *end]["mean"]
        assert best == max(row["mean"] for key, row in of.items() if key[1:] == end)
        nobody, everybody = (of[name, *end]["mean"] for name in ("no memory", "memory for all"))
        for name in ("odds above even", "odds weighted by effect"):
            # The mean of all draws, not one draw.
            drawn, share = of[f"at random, as {name}", *end], of[name, *end]["share"]
            assert drawn["share"] == pytest.approx(share)
            expected = share * everybody + (1.0 - share) * nobody
            assert drawn["mean"] == pytest.approx(expected)


def test_the_bound_is_of_its_own_protocol():
    ranks = (
        Ranks(np.array([0, 3, 5]), np.array([4, 3, 1])),
        Ranks(np.array([2, 3, 2]), np.array([1, 3, 2])),
    )
    judged = when_memory_helps._Asked(np.zeros((3, len(SIGNALS))), *ranks)
    rows = when_memory_helps.policy_rows(judged, {}, samples=10, seed=0)
    of = {(row["policy"], row["protocol"], row["metric"]): row["mean"] for row in rows}
    for protocol, best in (("unfiltered", [0, 3, 2]), ("filtered", [1, 3, 1])):
        expected = metric_values(np.array(best), "NDCG@10").mean()
        assert of["where it helps (bound)", protocol, "NDCG@10"] == pytest.approx(expected)


def test_the_signals_by_hand(run, tmp_path):
    trained = trained_run(tiny_config(), tmp_path, run=run)
    part, bank = trained.memory.test, trained.memory.full_bank
    table = trained.opened.encoder_params["item_table"]
    popularity = training_popularity(trained.split)
    found = memory_signals(part, bank, table, popularity, 5)
    for row in (0, 17, 59):
        ids = np.asarray(part.retrieved.ids)[row, :5]
        cosines, told = np.asarray(part.retrieved.scores)[row, :5], bank.target_ids[ids]
        logits = np.asarray(table)[1:].astype(np.float64) @ np.asarray(part.query)[row]
        chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        expected = [
            cosines[0],
            cosines.mean(),
            max(np.bincount(told)) / 5,
            np.log1p(part.evaluation.end_positions[row]),
            np.log1p(popularity[told]).mean(),
            -(chances * np.log(chances)).sum() / np.log(30),
            chances[np.unique(told) - 1].sum(),
        ]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4)


def test_memory_usefulness(run, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_usefulness, "KEPT", (0.5,))
    summary = memory_usefulness.run_memory_usefulness(tiny_config(), tmp_path, run=run)
    bank = trained_run(tiny_config(), tmp_path, run=run).memory.train_bank
    assert summary["entries"] == bank.rows >= summary["read"] > 0
    assert summary["check"] > 0.8
    rows = check_files(tmp_path, "memory_usefulness", summary)
    assert len(rows) == len(summary["rows"]) == (1 + 5) * 2 * 4
    whole = summary["rows"][1]
    expected = read_json(run / "results.json")["stages"]["finetune"]["test_train_bank"]
    assert (whole["rule"], whole["metric"], whole["protocol"]) == (
        "whole memory", "NDCG@10", "unfiltered"
    )  # fmt: skip
    assert whole["mean"] == pytest.approx(expected["unfiltered"]["NDCG@10"])
    assert {row["entries"] for row in summary["rows"]} == {
        bank.rows, round(0.5 * bank.rows)
    }  # fmt: skip

    # Random is the mean of several draws.
    trained = trained_run(tiny_config(), tmp_path, run=run)
    part, draws = trained.memory.test_train_bank, []
    for key in ([0, 17], *([0, 17, draw] for draw in range(1, memory_usefulness.DRAWS))):
        order = np.random.default_rng(key).permutation(bank.rows)
        smaller = bank.select(np.sort(order[bank.rows - round(0.5 * bank.rows) :]))
        draws.append(trained.ranks_with(trained.searched(part, smaller), smaller).unfiltered)
    found = next(
        row for row in summary["rows"]
        if (row["rule"], row["metric"], row["protocol"]) == ("random", "NDCG@10", "unfiltered")
    )  # fmt: skip
    assert found["mean"] == pytest.approx(np.mean([metric_values(d, "NDCG@10") for d in draws]))


def test_the_orders_give_up_what_they_say():
    draw = np.random.default_rng(0)
    targets, times = draw.integers(1, 6, 30), draw.integers(0, 9, 30)
    bank = MemoryBank(draw.normal(size=(30, 4)), targets, np.zeros(30, int), times + 1, times)
    total, popularity = draw.normal(size=30), np.array([0, 5, 1, 9, 2, 7])
    found = memory_usefulness.orders(bank, total, popularity, seed=1)
    assert all(sorted(order) == list(range(30)) for order in found.values())
    for name, values in (
        ("harmful first", total),
        ("useful first", -total),
        ("oldest first", times),
        ("unpopular first", popularity[targets]),
    ):
        assert (np.diff(values[found[name]]) >= 0).all()
    timeless = MemoryBank(bank.keys, targets, bank.user_ids, bank.lengths)
    assert "oldest first" not in memory_usefulness.orders(timeless, total, popularity, seed=1)


def test_mixing_groups(run, tmp_path):
    summary = run_mixing_groups(tiny_config(), tmp_path, runs=[run])
    results = read_json(run / "results.json")
    rows = check_files(tmp_path, "mixing_groups", summary)
    assert len(rows) == len(summary["rows"])
    of = {
        (row["kind"], row["group"], row["model"], row["protocol"], row["metric"]): row
        for row in summary["rows"]
    }
    for model in ("control", "mixing", "finetune", "combined"):
        for protocol in ("unfiltered", "filtered"):
            row = of["all", "all", model, protocol, "NDCG@10"]
            stage = results["stages"][model]
            assert row["mean"] == pytest.approx(stage["test"][protocol]["NDCG@10"])
            if model == "control":
                assert row["change"] is row["fresh"] is None
                continue
            stale = stage["test_train_bank"][protocol]["NDCG@10"]
            gain = stage["test"][protocol]["NDCG@10"] - stale
            assert row["fresh"]["mean"] == pytest.approx(gain, abs=2e-8)
            before = results["stages"]["control"]["test"][protocol]["NDCG@10"]
            assert row["change"]["mean"] == pytest.approx(row["mean"] - before, abs=2e-8)
    for group in results["groups"]["popularity"]:
        if group["queries"]:
            row = of["popularity", group["label"], "mixing", "filtered", "HR@10"]
            assert row["queries"] == group["queries"]
            assert row["mean"] == pytest.approx(group["models"]["mixing"]["filtered"]["HR@10"])


def test_two_runs_of_one_split_are_not_mixed_up(run, tmp_path):
    words = "under leave_one_out, .*so give --runs one run of each split"
    with pytest.raises(ConfigError, match=words):
        run_mixing_groups(tiny_config(), tmp_path, runs=[run, run])
    assert not (tmp_path / "mixing_groups.json").exists()


def test_memory_cost(run, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_cost, "SHARES", (1.0,))
    monkeypatch.setattr(memory_cost, "_REPEATS", {memory_cost.LARGEST_BATCH: 1, 1: 1})
    summary = memory_cost.run_memory_cost(tiny_config(), tmp_path, run=run)
    check_files(tmp_path, "memory_cost", summary)
    first, *rows = summary["rows"]
    stages = read_json(run / "results.json")["stages"]
    assert first["mean"] == pytest.approx(stages["pretrain"]["test"]["unfiltered"]["NDCG@10"])
    assert (first["entries"], first["bytes"], first["change"]) == (0, 0, None)
    bank = trained_run(tiny_config(), tmp_path, run=run).memory.train_bank
    assert [(row["entries"], row["top_k"]) for row in rows] == [
        (bank.rows, top_k) for top_k in (5, 20, 50)
    ]
    # Keys of 8 floats, and target, user, length and time.
    assert all(row["bytes"] == row["entries"] * (8 * 4 + 4 * 4) for row in rows)
    as_trained = next(r for r in rows if (r["entries"], r["top_k"]) == (bank.rows, 5))
    expected = stages["finetune"]["test_train_bank"]["unfiltered"]["NDCG@10"]
    assert as_trained["mean"] == pytest.approx(expected)
    assert all(row["batch_ms"] > 0 and row["single_ms"] > 0 for row in rows)


def test_runs_that_cannot_be_read_are_refused(copied, tmp_path):
    (copied / "stages" / "finetune.json").unlink()
    with pytest.raises(CheckpointError, match="stage 2 is not finished; run launch/train.py"):
        trained_run(tiny_config(), tmp_path, run=copied)
    config = json.loads((copied / "config.json").read_text())
    config["finetune"]["train_encoder"] = True
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="this study needs config.finetune.train_encoder=false"):
        trained_run(tiny_config(), tmp_path, run=copied)
    ranks, users = read_ranks(copied)
    kept = {name: one for name, one in ranks.items() if not name.startswith("mixing")}
    np.savez(copied / "ranks.npz", user_labels=users, **kept)
    with pytest.raises(CheckpointError, match="its test has no mixing; run launch/train.py"):
        run_mixing_groups(tiny_config(), tmp_path, runs=[copied])
