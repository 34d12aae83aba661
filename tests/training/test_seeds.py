"""A run per seed and the summary over them."""

import json

import pytest

from raserec_jax.errors import ConfigError
from raserec_jax.training.seeds import format_seeds, summarize, train_seeds
from tests import tiny_workdir as tiny


def results_of(value, **stages):
    metrics = {p: {"HR@10": value, "NDCG@10": value / 2} for p in ("unfiltered", "filtered")}
    return {"stages": {"pretrain": {"test": metrics}} | stages}


def test_mean_and_sample_deviation():
    extra = {"control": results_of(0.5)["stages"]["pretrain"]}
    rows = summarize([results_of(0.1), results_of(0.2, **extra), results_of(0.6)])
    assert [row["label"] for row in rows] == ["Stage 1"]  # one run alone has a control
    found = rows[0]["unfiltered"]["HR@10"]
    assert found["values"] == [0.1, 0.2, 0.6]
    assert found["mean"] == pytest.approx(0.3)
    assert found["std"] == pytest.approx(0.264575, rel=1e-5)
    text = format_seeds({"seeds": [0, 1, 2], "rows": rows})
    assert "0.3000 ± 0.2646" in text and "test, filtered, 3 seeds" in text
    assert summarize([results_of(0.1)])[0]["filtered"]["HR@10"]["std"] is None


def test_each_seed_has_its_run(tmp_path, monkeypatch):
    log = tiny.generated_log()
    log.save(tmp_path / "log")
    config = tiny.tiny_config()
    config.data.interactions = str(tmp_path / "log")
    config.data.min_interactions = 1
    config.pretrain.stopping.epochs = 1
    with tiny.quick_training():
        summary = train_seeds(config, tmp_path / "runs", [3, 5], stages=("pretrain", "evaluate"))
    values = summary["rows"][0]["unfiltered"]["NDCG@20"]["values"]
    for seed, value in zip((3, 5), values, strict=True):
        folder = tmp_path / "runs" / f"seed_{seed}"
        results = json.loads((folder / "results.json").read_text())
        assert results["seed"] == seed
        found = results["stages"]["pretrain"]["test"]["unfiltered"]["NDCG@20"]
        assert found == pytest.approx(value, rel=1e-6)
    assert values[0] != values[1]
    assert json.loads((tmp_path / "runs" / "seeds.json").read_text())["seeds"] == [3, 5]


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_distinct(seeds, tmp_path):
    with pytest.raises(ConfigError, match="should be distinct integers"):
        train_seeds(tiny.tiny_config(), tmp_path, seeds)
