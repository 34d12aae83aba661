"""Every study of the catalogue fits the configurations that it is meant for."""

import pathlib
import subprocess
import sys

import pytest

from raserec_jax import presets
from raserec_jax.errors import ConfigError
from raserec_jax.studies.analyses import run_analysis
from raserec_jax.studies.catalogue import ANALYSES, STUDIES, find_study
from raserec_jax.studies.running import quick, run_study, varied
from raserec_jax.training.workdir import plain

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", STUDIES)
def test_variants_are_distinct_and_can_be_configured(name, tmp_path):
    study = STUDIES[name]
    preset = presets.sra_cl if name.startswith("sra_cl") else presets.raserec
    config = preset("movielens_100k")
    config.semantic.llm.model, config.semantic.descriptions_file = "small", "descriptions.tsv"
    if name == "sra_cl_vectors":
        config.semantic.encoder = "minilm"  # one that can be trained
    made = [varied(config, variant, tmp_path) for variant in study.variants]
    runs = {variant.run or variant.name for variant in study.variants}
    assert len({str(plain(one)) for one in made}) == len(runs) or name in ("sra_cl_text", "reader")
    assert len({(variant.run or variant.name, variant.model) for variant in study.variants}) == len(
        study.variants
    )
    assert len({variant.name for variant in study.variants}) == len(study.variants)
    if study.axis:
        assert all(variant.value is not None for variant in study.variants)
    if study.one_encoder:
        parts = ("data", "encoder", "pretrain", "sra_cl", "semantic")
        assert len({str([plain(one)[part] for part in parts]) for one in made}) == 1
    if study.axis or not study.variants[0].changes:  # the reference is what is configured
        reference = varied(config, study.variants[0], tmp_path)
        reference.semantic.folder = config.semantic.folder
        assert plain(reference) == plain(config)


def test_texts_that_differ_get_a_folder_of_their_own(tmp_path):
    config = presets.sra_cl("movielens_100k")
    config.semantic.folder = "ready"
    folders = {
        variant.name: varied(config, variant, tmp_path).semantic.folder
        for variant in STUDIES["sra_cl_pool"].variants
    }
    assert folders["training"] == "ready"
    assert folders["published"] == str(tmp_path / "semantic_published")


def test_an_unknown_study_or_variant_is_refused():
    with pytest.raises(ConfigError, match="no such study; did you mean memory_k"):
        find_study("memory_kk")
    with pytest.raises(ConfigError, match="no such study; did you mean when_memory_helps"):
        find_study("when_memory_help")
    with pytest.raises(ConfigError, match="--study is missing"):
        find_study(None)
    with pytest.raises(ConfigError, match="--variants has nope; use some of clusters"):
        find_study("sra_cl_ablations").only(["nope"])
    kept = find_study("sra_cl_ablations").only(["clusters"])
    assert [variant.name for variant in kept.variants] == ["full", "clusters"]
    kept = find_study("backbones").only(["gru_combined"])
    names = ["transformer_pretrain", "gru_pretrain", "gru_control", "gru_combined"]
    assert [variant.name for variant in kept.variants] == names


def test_runs_and_stage_1_of_others_go_only_with_studies_that_use_them(tmp_path):
    config = presets.raserec("movielens_100k")
    with pytest.raises(ConfigError, match="--study=drift trains what it needs itself; leave out"):
        run_analysis("drift", config, tmp_path / "w", seed=0, runs=["a"])
    with pytest.raises(ConfigError, match="--study=memory_cost looks at one run; give --runs one"):
        run_analysis("memory_cost", config, tmp_path / "w", seed=0, runs=["a", "b"])
    with pytest.raises(ConfigError, match="--pretrained=a: the variants of this study train"):
        run_study(STUDIES["backbones"], config, tmp_path / "w", pretrained="a")
    assert not (tmp_path / "w").exists()


def test_quick_is_short():
    config = quick(presets.raserec("movielens_100k"))
    assert config.pretrain.stopping.epochs == config.finetune.stopping.epochs == 2


def run_launcher(*arguments):
    command = [sys.executable, "launch/study.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_tells_the_studies_and_refuses_in_one_sentence(tmp_path):
    told = run_launcher("--list")
    assert told.returncode == 0
    assert all(f"{name}: " in told.stdout for name in [*STUDIES, *ANALYSES])
    common = ("--config=configs/raserec.py:movielens_100k", f"--workdir={tmp_path / 'w'}")
    for arguments, words in (
        (("--study=memoryk",), "--study=memoryk: there is no such study; did you mean memory_k?"),
        (("--study=memory_k", "--variants=no"), "--variants has no; use some of top_k_1,"),
        (("--study=memory_k", "--seeds=1,1"), "--seeds=1,1 should be distinct integers"),
        (("--study=new_items", "--seeds=0,1"), "--study=new_items takes one seed"),
        (("--study=new_items", "--seeds="), "--study=new_items takes one seed"),
        (("--study=memory_k", "--windows=3"), "--windows is of --study=drift; leave it out here"),
        (("--study=memory_k", "--runs=a"), "--study=memory_k trains its variants itself; leave"),
        (
            ("--study=sra_cl_prompts", "--quick"),
            "variant llm_0: --config.semantic.descriptions=llm needs --config.semantic.llm.model; give it",
        ),
    ):
        refused = run_launcher(*common, *arguments)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
        assert words in refused.stderr
    assert not (tmp_path / "w").exists()
