"""Stage 2 in its other shapes, through the whole pipeline, on a workdir whose stage 1 is done."""

import json
import shutil

import numpy as np
import pytest

from raserec_jax import checkpoints
from raserec_jax.batching.windows import training_examples
from raserec_jax.data.splits import leave_one_out
from raserec_jax.errors import DataError
from raserec_jax.evaluation.metrics import metrics_from_ranks
from raserec_jax.recommend import exporting
from raserec_jax.recommend.exported_loader import load
from raserec_jax.recommend.recommender import Recommender
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.subsets import Subset, kept_entries, kept_users
from raserec_jax.training import loop
from raserec_jax.training.pipeline import train
from raserec_jax.training.reevaluate import reevaluate
from raserec_jax.training.workdir import plain
from tests.tiny_workdir import (
    STAGES,
    generated_log,
    quick_compiles,
    tiny_config,
    tiny_workdir,  # noqa: F401 - a fixture
)
from tests.training.toy_fit import quick_steps


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_compiles():
        yield


@pytest.fixture(autouse=True)
def quick_loop(monkeypatch):
    monkeypatch.setattr(loop, "make_run_steps", quick_steps)


@pytest.fixture
def run(tiny_workdir, tmp_path):  # noqa: F811 - the fixture
    """(config, stages) -> results, in a workdir that starts with the tiny one's stage 1."""
    folder = tmp_path / "run"

    def start(config, stages=STAGES):
        if not folder.exists():
            for part in ("log", "best/pretrain"):
                shutil.copytree(tiny_workdir / part, folder / part)
            (folder / "stages").mkdir()
            for path in (tiny_workdir / "stages").glob("pretrain.*"):
                shutil.copy(path, folder / "stages")
            (folder / "config.json").write_text(json.dumps(plain(config)))
        return train(config, generated_log(), folder, stages=stages)

    return start


def test_no_memory_is_the_encoder_alone(run):
    config = tiny_config()
    config.reader.alpha = 1.0
    done = run(config, (*STAGES, "report"))
    stages = done.results["stages"]
    assert (stages["finetune"]["epochs_run"], stages["finetune"]["best_epoch"]) == (0, -1)
    assert stages["finetune"]["test"] == stages["pretrain"]["test"]
    assert stages["finetune"]["valid"] == stages["pretrain"]["valid"]
    assert "control" not in stages and stages["gain"]["against"] == "pretrain"
    assert (done.workdir / "report.html").exists()


def test_the_plain_mean_has_nothing_to_train(run):
    config = tiny_config()
    config.reader.update(pooling="mean", feed_forward=False)
    stages = ("memory", "finetune", "mixing")
    done = run(config, stages)
    assert checkpoints.restore(done.workdir / "best/finetune", {})[0] == {}
    record = json.loads((done.workdir / "stages/finetune.json").read_text())
    assert record["epochs_run"] == 0
    (done.workdir / "stages/mixing.json").unlink()
    run(config, stages)  # reads it


def test_subset_rounded_keys_learned_weights_and_noise(run):
    config = tiny_config()
    config.memory.update(key_dtype="bfloat16", min_length=2, newest_share=0.8, user_share=0.7)
    config.reader.update(learn_alpha=True, learn_beta=True, pooling="mean")
    config.finetune.control = False
    config.evaluation.noise = (0.5,)
    done = run(config)
    stages = done.results["stages"]

    split = leave_one_out(generated_log())
    examples, users = training_examples(split), kept_users(60, 0.7, config.seed)
    assert users.sum() == 42
    kept = kept_entries(
        Subset(min_length=2, newest_share=0.8),
        examples.lengths,
        examples.user_ids,
        split.log.time_ranks[examples.target_places],
        users,
    )
    told = stages["memory"]
    assert told["entries_train"] == kept.sum() and told["left_out"] == (~kept).sum() > 50
    assert told["entries"] == kept.sum() + 42  # and a validation pair of each user
    assert 0.9 < told["recall_vs_exact@5"] <= 1.0
    bank = MemoryBank.load(done.workdir / "memory")
    assert str(bank.keys.dtype) == "bfloat16"
    np.testing.assert_array_equal(bank.target_ids[: kept.sum()], examples.target_ids[kept])

    weights = stages["finetune"]["reader"]
    assert sorted(weights) == ["alpha", "beta"]
    assert all(0 < value < 1 and value != 0.5 for value in weights.values())
    for name in ("pretrain", "finetune"):
        noisy = stages[name]["noise"]["0.5"]
        assert noisy["unfiltered"] != stages[name]["test"]["unfiltered"]


def test_an_empty_bank_is_refused(run):
    config = tiny_config()
    config.memory.min_length = 100
    with pytest.raises(DataError, match="bank is empty: .* by config.memory.min_length=100; widen"):
        run(config, ("memory",))


def test_the_trained_encoder_is_the_one_that_is_tested_and_asked(run):
    config = tiny_config()
    config.finetune.update(train_encoder=True, refresh_epochs=1, encoder_rate=1.0, control=False)
    config.finetune.batch_size = 64
    config.finetune.optimizer.learning_rate = 1e-2
    config.finetune.stopping.epochs = 2
    done = run(config)
    stages = done.results["stages"]
    for part in ("test", "valid"):
        again = reevaluate(done.workdir, part)
        assert again.holds, again.verdict
    # Stage 1 and its memory are as they were.
    assert stages["mixing"]["test"] != stages["combined"]["test"]
    before = (done.workdir / "results.json").read_bytes()
    (done.workdir / "stages/evaluate.json").unlink()
    run(config)
    assert (done.workdir / "results.json").read_bytes() == before

    # What is recommended has the ranks of the test.
    rec, log = Recommender.load(done.workdir), generated_log()
    assert rec.scoring == "finetune"
    with np.load(done.workdir / "ranks.npz") as stored:
        ranks = stored["finetune/unfiltered"]
    assert metrics_from_ranks(ranks)["HR@10"] == pytest.approx(
        stages["finetune"]["test"]["unfiltered"]["HR@10"], abs=1e-7
    )
    users = range(0, 60, 7)
    taken = [[str(one) for one in log.labels_of(log.items_of(user))] for user in users]
    found = rec.recommend(
        [items[:-1] for items in taken],
        k=log.num_items,
        exclude_seen=False,
        users=[str(log.user_labels[user]) for user in users],
    )
    for user, items, answer in zip(users, taken, found, strict=True):
        assert [str(one.item) for one in answer].index(items[-1]) == ranks[user]


def test_a_gate_and_a_null_memory_go_all_the_way(run, tmp_path):
    """Trained, tested, evaluated again, recommended with, explained, exported."""
    config = tiny_config()
    config.reader.update(gate="query", null_memory=True)
    config.memory.top_k = 8
    config.finetune.control = False
    done = run(config, ("memory", "finetune", "evaluate"))
    stage = done.results["stages"]["finetune"]
    own = stage["attention"]["own_weight"]
    assert 0 < own["low"] < own["mean"] < own["high"] < 1 and own["mean"] != 0.5
    assert "all equal those in" in reevaluate(done.workdir).verdict

    recommender = Recommender.load(done.workdir)
    history = ["i001", "i002", "i003"]
    answer = recommender.explain(history, 5)
    assert 0 < answer.own_weight < 1
    assert json.loads(answer.to_json())["own_weight"] == pytest.approx(answer.own_weight)
    assert f"The history itself counts {answer.own_weight:.2f}, what was read" in answer.to_html()
    assert recommender.explain(["i009"], 5).own_weight != answer.own_weight

    pytest.importorskip("flatbuffers", reason="the extra export is not installed: flatbuffers")
    folder = exporting.export_recommender(done.workdir, tmp_path / "export", k=5)
    (found,) = load(folder).recommend([history])
    assert found.items == [one.item for one in answer.recommendations]
    np.testing.assert_allclose(
        found.scores, [one.score for one in answer.recommendations], rtol=1e-4
    )
