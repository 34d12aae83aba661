"""SRA-CL from texts to a served encoder: whole runs on a small log, alone and under RaSeRec, with both backbones."""

import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax import checkpoints, presets
from raserec_jax.data.splits import leave_one_out
from raserec_jax.encoding import encode_rows, evaluation_set
from raserec_jax.errors import ConfigError, Interrupted
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.recommend import Recommender
from raserec_jax.report.results import read_json
from raserec_jax.training import loop
from raserec_jax.training.pipeline import train
from raserec_jax.training.pretraining import make_encoder, make_feed, make_terms, query_ranks
from tests.tiny_workdir import generated_log, quick_training, tiny_config, titles

STAGES = ("semantic", "pretrain", "evaluate", "report")


def config_of(**changes):
    """The tiny settings with SRA-CL's losses on; words are counted in place of a model."""
    config = tiny_config()
    config.sra_cl = presets.sra_cl().sra_cl
    config.semantic = presets.sra_cl().semantic
    config.semantic.update(encoder="hashing", width=16, top_k=4, report_samples=1)
    config.sra_cl.update(k=4, anchors=8)
    config.checkpoint.steps_per_call = 2
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, log = tmp_path_factory.mktemp("sra") / "run", generated_log()
    with quick_training():
        train(config_of(), log, folder, item_text=titles(log), stages=STAGES)
    return folder


def test_what_is_served_is_the_bare_encoder(run):
    """Best parameters, test results and recommendations know nothing of texts, vectors or the synthesizer."""
    config, log = config_of(), generated_log()
    split = leave_one_out(log)
    encoder = make_encoder(config, log.num_items)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params, _ = checkpoints.restore(run / "best" / "pretrain", shapes)
    assert set(params) == set(shapes)
    queries = evaluation_set(split, "test", max_len=encoder.max_len)
    vectors = encode_rows(encoder, params, jnp.asarray(log.item_ids), queries.rows)
    expected = evaluate_ranks(*query_ranks(Scores(vectors), params, split, queries))
    told = read_json(run / "results.json")["stages"]["pretrain"]["test"]
    assert told["unfiltered"] == pytest.approx(expected["unfiltered"], rel=1e-5)
    history = [["i001", "i002", "i003"]]
    with_texts = Recommender.load(run).recommend(history, k=5)
    bare = shutil.copytree(run, run.parent / "bare")
    shutil.rmtree(bare / "semantic")
    assert Recommender.load(bare).recommend(history, k=5) == with_texts


def test_a_memory_over_it_makes_no_texts_anew(run, tmp_path, capsys):
    log = generated_log()
    stages = ("semantic", "memory")
    train(config_of(), log, tmp_path / "r", item_text=titles(log), stages=stages, pretrained=run)
    told = capsys.readouterr().out
    assert f"pretrain and texts: taken over from {run}" in told
    assert "read from the folder, nothing to do" in told


def test_losses_are_logged_and_neighbours_are_shown(run):
    lines = (run / "metrics.jsonl").read_text()
    for name in ("inter_user_loss", "intra_user_loss", "attention_entropy", "neighbor_share"):
        assert f"train/{name}" in lines
    assert "<h2>" in (run / "report.html").read_text()
    assert read_json(run / "stages" / "semantic.json")["pool"] == "training"


def test_a_stopped_run_goes_on_to_the_same_bits(run, tmp_path, monkeypatch):
    """Synthesizer, optimiser and cache of vectors come back; the stop is inside the second epoch."""
    log, folder = generated_log(), tmp_path / "run"
    finite, stopped = loop._Fit._finite, []

    def stop_once(self, losses, first_step):
        if first_step > self.task.steps_per_epoch and not stopped:
            stopped.append(first_step)
            os.kill(os.getpid(), signal.SIGTERM)
        return finite(self, losses, first_step)

    monkeypatch.setattr(loop._Fit, "_finite", stop_once)
    with quick_training():
        with pytest.raises(Interrupted):
            train(config_of(), log, folder, item_text=titles(log), stages=STAGES)
        assert stopped
        train(config_of(), log, folder, item_text=titles(log), stages=STAGES)
    for one, other in zip(
        *(np.load(where / "ranks.npz").values() for where in (run, folder)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    results = [read_json(where / "results.json") for where in (run, folder)]
    assert results[0]["stages"]["pretrain"] == results[1]["stages"]["pretrain"]


_WAYS = {
    "GRU with DuoRec": {
        "encoder.kind": "gru",
        "pretrain.contrast.mode": "us_x",
        "sra_cl.neighbors": "encode",
        "sra_cl.anchor": "second",
    },
    "published": {
        "encoder.align": "right",
        "pretrain.batching.mode": "prefix",
        "sra_cl.neighbors": "encode",
        "sra_cl.views": 2,
        "semantic.pool": "published",
        "semantic.own_histories": True,
    },
}


@pytest.mark.parametrize(
    "way", ["GRU with DuoRec", pytest.param("published", marks=pytest.mark.slow)]
)
def test_memory_works_over_every_way_to_pretrain(tmp_path, way):
    log = generated_log()
    with quick_training():
        done = train(config_of(**_WAYS[way]), log, tmp_path / "run", item_text=titles(log))
    stages = done.results["stages"]
    for stage in ("pretrain", "finetune", "control", "mixing"):
        assert 0 <= stages[stage]["test"]["unfiltered"]["NDCG@10"] <= 1
    assert Recommender.load(tmp_path / "run").explain(["i001", "i002"], k=3)


def test_sra_cl_without_tables_is_refused():
    config = config_of()
    split = leave_one_out(generated_log())
    encoder = make_encoder(config, split.log.num_items)
    with pytest.raises(ConfigError, match="need semantic tables; set both to 0 or"):
        make_terms(config, encoder, make_feed(config, split), split)
