"""Studies as a whole, on a small generated log."""

import csv
import io
import json
import shutil

import numpy as np
import pytest

from raserec_jax import presets
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.report.tables import PROTOCOLS
from raserec_jax.studies.catalogue import STUDIES
from raserec_jax.studies.plots import draw_study
from raserec_jax.studies.running import ask_models, run_study, varied
from raserec_jax.studies.study import MEMORY, STAGE_1, Study, Variant, sweep
from raserec_jax.training.comparing import compare
from tests.semantic.chat_server import reply, serving
from tests.tiny_workdir import (
    STAGES,
    generated_log,
    quick_training,
    tiny_config,
    tiny_workdir,  # noqa: F401 - a fixture
    titles,
)


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_training():
        yield


def memory_study():
    return Study(
        "Weights",
        "How much?",
        sweep("reader.alpha", (0.2,), 0.5, "alpha"),
        MEMORY,
        "finetune",
        "NDCG@10",
        "alpha",
        one_encoder=True,
    )


def test_a_study_of_the_memory_trains_stage_1_once_per_seed_and_goes_on(tmp_path, capsys):
    study, config, log = memory_study(), tiny_config(), generated_log()
    config.pretrain.stopping.epochs = 1
    config.finetune.control = False
    run_study(study, config, tmp_path, seeds=[0], log=log)
    assert "pretrain and memory: taken over from" in capsys.readouterr().out
    summary = run_study(study, config, tmp_path, seeds=[0, 1], log=log)
    assert capsys.readouterr().out.count("taken over") == 1  # only the new seed's
    assert json.loads((tmp_path / "study.json").read_text())["seeds"] == [0, 1]
    one, two = summary["variants"]
    assert (one["value"], two["value"]) == (0.5, 0.2)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "study.csv").read_text())))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (f"alpha_{alpha}", str(seed)) for alpha in (0.5, 0.2) for seed in (0, 1)
    ]
    differences = []
    for place, row in enumerate(rows):
        folder = tmp_path / row["variant"] / f"seed_{row['seed']}"
        found = json.loads((folder / "results.json").read_text())["stages"]["finetune"]
        told = float(row["test/filtered/NDCG@20"])
        assert told == pytest.approx(found["test"]["filtered"]["NDCG@20"])
        assert float(row["valid/unfiltered/HR@10"]) == found["valid"]["unfiltered"]["HR@10"]
        if place >= 2:
            other = tmp_path / "alpha_0.5" / f"seed_{row['seed']}"
            changes = compare(folder, other)["finetune"]["unfiltered"]["NDCG@10"]
            differences.append(changes["mean"])
    change = two["change"]["unfiltered"]["NDCG@10"]
    assert change["mean"] == pytest.approx(np.mean(differences), abs=1e-7)
    assert change["low"] <= change["mean"] <= change["high"]
    assert one["change"] is None
    for name in ("report.html", "study.md", "plots/study.png"):
        assert (tmp_path / name).stat().st_size > 500


def test_models_of_one_run_stand_side_by_side(tiny_workdir, tmp_path):  # noqa: F811 - the fixture
    shutil.copytree(tiny_workdir, tmp_path / "one" / "seed_0")  # so that nothing is left to train
    against = {"pretrain": "", "control": ""}
    against |= dict.fromkeys(("mixing", "finetune", "combined"), "control")
    models = tuple(against)
    variants = tuple(
        Variant(model, model, {}, None, model, "one", against[model]) for model in models
    )
    study = Study("Models", "Which?", variants, STAGES, "pretrain", "NDCG@10")
    config, log = tiny_config(), generated_log()
    summary = run_study(study, config, tmp_path, log=log, item_text=titles(log))
    stages = json.loads((tmp_path / "one/seed_0/results.json").read_text())["stages"]
    for one in summary["variants"]:
        for protocol in ("unfiltered", "filtered"):
            expected = stages[one["name"]]["test"][protocol]["HR@10"]
            assert one["test"][protocol]["HR@10"]["mean"] == expected
            before = against[one["name"]] or "pretrain"
            if one["name"] == "pretrain":
                assert one["change"] is None
                continue
            change = expected - stages[before]["test"][protocol]["HR@10"]
            assert one["change"][protocol]["HR@10"]["mean"] == pytest.approx(change, abs=2e-8)
    assert not any((tmp_path / model).exists() for model in models)
    told = (tmp_path / "study.md").read_text()
    assert told.count(", against control |") == 2 * 3  # models × protocols


def test_a_curve_shows_intervals_of_the_difference(tmp_path):
    points = {
        protocol: {"NDCG@10": {"mean": 0.5, "std": None, "values": [0.5]}} for protocol in PROTOCOLS
    }
    change = {
        protocol: {"NDCG@10": {"mean": 0.1, "low": 0.0, "high": 0.3}} for protocol in PROTOCOLS
    }
    variants = [
        {"label": f"K {value}", "value": value, "test": points, "change": change if place else None}
        for place, value in enumerate((20, 5))
    ]
    figure = draw_study({"axis": "K", "metric": "NDCG@10", "variants": variants})
    for axis in figure.axes:
        lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in axis.get_lines()}
        assert lines[5, 5] == pytest.approx((0.4, 0.7))
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["K 20"]


def tiny_sra_cl():
    config = tiny_config()
    config.pretrain.stopping.epochs = 1
    config.sra_cl = presets.sra_cl().sra_cl
    config.semantic = presets.sra_cl().semantic
    config.semantic.update(encoder="hashing", width=16, top_k=4, report_samples=1)
    config.sra_cl.update(k=4, anchors=8)
    return config


def test_a_study_of_texts_shares_vectors_and_shows_entropies(tmp_path):
    config, log = tiny_sra_cl(), generated_log()
    variants = (
        Variant("full", "full", {}),
        Variant("clusters", "clusters", {"semantic.neighbors": "cluster"}),
    )
    study = Study("Text", "What of it?", variants, STAGE_1, "pretrain", "NDCG@20")
    summary = run_study(study, config, tmp_path, log=log, item_text=titles(log))
    assert [len(one["curves"]["attention_entropy"]) for one in summary["variants"]] == [1, 1]
    assert (tmp_path / "plots" / "entropy.png").exists()
    one, two = (
        np.load(tmp_path / folder / "tables" / "item_vectors.npy")
        for folder in ("semantic", "semantic_clusters")
    )
    np.testing.assert_array_equal(one, two)
    assert (tmp_path / "semantic_clusters" / "vectors").is_dir()


def test_a_study_of_prompts_pays_for_no_answer_twice(tmp_path, monkeypatch):
    pytest.importorskip("openai", reason="the extra semantic is not installed: no package openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config, log, study = tiny_sra_cl(), generated_log(), STUDIES["sra_cl_prompts"]
    config.semantic.history_items = 2
    config.semantic.llm.update(model="small", retries=0, backoff_s=0.001)
    text = titles(log)

    def ask(*names):
        chosen = study.only(list(names))
        configs = {one.name: varied(config, one, tmp_path) for one in chosen.variants}
        ask_models(chosen, configs, tmp_path / "semantic", tmp_path, log, text)

    with pytest.raises(ConfigError, match="the environment variable OPENAI_API_KEY is not set"):
        ask("llm_0")
    with serving(lambda number, request: reply(f"answer {number}")) as server:
        config.semantic.llm.base_url = server.url
        ask("llm_5", "llm_10")
        items, few = len(text.labels), len(server.requests)
        assert items < few < 2 * items  # of items with up to five sequences both have one prompt
        ask("llm_0", "llm_histories")
        asked = [json.dumps(request["messages"]) for request in server.requests]
        assert len(set(asked)) == len(asked) > few + items
        ask(*(variant.name for variant in study.variants))
        assert len(server.requests) == len(asked)
    described = {
        name: (tmp_path / f"semantic_{name}" / "descriptions.tsv").read_bytes()
        for name in ("llm_0", "llm_5", "llm_10", "llm_histories")
    }
    assert described["llm_10"] == described["llm_histories"]
    assert len(set(described.values())) == 3
    assert not (tmp_path / "template").exists()


def test_an_endpoint_that_is_down_is_told_before_any_training(tmp_path):
    pytest.importorskip("openai", reason="the extra semantic is not installed: no package openai")
    config, log = tiny_sra_cl(), generated_log()
    config.semantic.llm.update(model="small", retries=0, base_url="http://127.0.0.1:9/v1")
    study = STUDIES["sra_cl_prompts"]
    with pytest.raises(DataError, match="gives no answers"):
        run_study(study, config, tmp_path, log=log, item_text=titles(log))
    assert not (tmp_path / "template").exists()
    config.semantic.llm.model = ""
    with pytest.raises(ConfigError, match="variant llm_0: .*descriptions=llm needs .*llm.model"):
        run_study(study, config, tmp_path / "a", log=log, item_text=titles(log))
    assert not (tmp_path / "a").exists()


def test_changes_that_do_not_fit_are_refused_before_any_work(tmp_path):
    study = memory_study()._replace(variants=(Variant("x", "x", {"reader.nothing": 1}),))
    with pytest.raises(
        ConfigError, match="variant x changes reader.nothing, which this configuration does not"
    ):
        run_study(study, tiny_config(), tmp_path / "a")
    with pytest.raises(ConfigError, match="distinct integers"):
        run_study(memory_study(), tiny_config(), tmp_path / "a", seeds=[1, 1])
    assert not (tmp_path / "a").exists()
