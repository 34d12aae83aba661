"""Studies as a whole, on a small generated log."""

import csv
import io
import json

import numpy as np
import pytest

from raserec_jax import presets
from raserec_jax.errors import ConfigError
from raserec_jax.studies.running import run_study
from raserec_jax.studies.study import MEMORY, STAGE_1, Study, Variant, sweep
from raserec_jax.training.comparing import compare
from tests.tiny_workdir import generated_log, quick_compiles, tiny_config, titles


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_compiles():
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


def test_a_study_of_texts_shares_vectors_and_shows_entropies(tmp_path):
    config, log = tiny_config(), generated_log()
    config.pretrain.stopping.epochs = 1
    config.sra_cl = presets.sra_cl().sra_cl
    config.semantic = presets.sra_cl().semantic
    config.semantic.update(encoder="hashing", width=16, top_k=4, report_samples=1)
    config.sra_cl.update(k=4, anchors=8)
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


def test_changes_that_do_not_fit_are_refused_before_any_work(tmp_path):
    study = memory_study()._replace(variants=(Variant("x", "x", {"reader.nothing": 1}),))
    with pytest.raises(
        ConfigError, match="variant x changes reader.nothing, which this configuration does not"
    ):
        run_study(study, tiny_config(), tmp_path / "a")
    with pytest.raises(ConfigError, match="distinct integers"):
        run_study(memory_study(), tiny_config(), tmp_path / "a", seeds=[1, 1])
    assert not (tmp_path / "a").exists()
