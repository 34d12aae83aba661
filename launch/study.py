"""Studies: variants of one configuration side by side, each trained, tested and compared with the first.

python launch/study.py --study=sra_cl_ablations --config=configs/sra_cl.py:amazon_beauty --workdir=runs/ablations
python launch/study.py --study=memory_k --config=configs/raserec.py:amazon_beauty --workdir=runs/k --seeds=0,1,2
python launch/study.py --study=sra_cl_ablations --config=configs/sra_cl.py:movielens_100k --workdir=runs/quick \\
    --quick --config.semantic.encoder=hashing
python launch/study.py --study=reader_gate --config=configs/raserec.py:amazon_beauty --workdir=runs/gate \\
    --pretrained=runs/beauty
python launch/study.py --study=when_memory_helps --config=configs/raserec.py:amazon_beauty --workdir=runs/when \\
    --runs=runs/beauty
python launch/study.py --list

WORKDIR gets study.csv (a line per run), study.md, plots/ and report.html, and a workdir per variant and seed. Killed or
interrupted, the same command goes on; more seeds or variants can be added to a finished study.
"""

import sys

from absl import flags

from raserec_jax import cli
from raserec_jax.errors import ConfigError

# --list asks for neither.
_LISTS = any(argument in ("--list", "-list") for argument in sys.argv[1:])
if not _LISTS:
    cli.config_flag()
_WORKDIR = (
    flags.DEFINE_string("workdir", None, "folder of the study") if _LISTS else cli.workdir_flag()
)
_STUDY = flags.DEFINE_string("study", None, "Name of the study; --list tells them.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, comma-separated; in place of --config.seed.")
_VARIANTS = flags.DEFINE_list(
    "variants", None, "Some of the study's variants, beside its first; default all."
)
_PRETRAINED = flags.DEFINE_string(
    "pretrained",
    None,
    "Of a study of the memory: workdir of a run whose stage 1 is taken over by every variant.",
)
_RUNS = flags.DEFINE_list(
    "runs",
    [],
    "Of a study of finished runs: their workdirs, in place of a training; nothing there is changed.",
)
_QUICK = flags.DEFINE_bool("quick", False, "Few epochs: a first look, no result.")
_WINDOWS = flags.DEFINE_integer("windows", 5, "Of --study=drift: windows after training.", 1)
_RETRAIN = flags.DEFINE_bool(
    "retrain", True, "Of --study=drift: also train anew before each window."
)
_LIST = flags.DEFINE_bool("list", False, "Tell the studies and their variants, and end.")


def main(argv: list[str]) -> None:
    """Studies."""
    del argv
    from raserec_jax.studies.catalogue import ANALYSES, STUDIES, find_study

    if _LIST.value:
        for name, study in STUDIES.items():
            print(f"{name}: {study.question}")
            for variant in study.variants:
                print(f"    {variant.name}: {variant.label}")
        for name, question in ANALYSES.items():
            print(f"{name}: {question}")
        return
    if _STUDY.value != "drift":
        for flag in ("windows", "retrain"):
            if flags.FLAGS[flag].present:
                raise ConfigError(f"--{flag} is of --study=drift; leave it out here")
    if _STUDY.value in ANALYSES:
        _of_one_seed(_STUDY.value)
        return
    study = find_study(_STUDY.value)
    if _RUNS.value:
        raise ConfigError(f"--study={_STUDY.value} trains its variants itself; leave out --runs")
    if _VARIANTS.value is not None:
        study = study.only(_VARIANTS.value)
    config = cli.load_config()
    from raserec_jax.studies.running import quick, run_study
    from raserec_jax.studies.tables import study_markdown

    config = quick(config) if _QUICK.value else config
    seeds = cli.integers("seeds", _SEEDS.value)
    summary = run_study(study, config, _WORKDIR.value, seeds=seeds, pretrained=_PRETRAINED.value)
    print(study_markdown(summary))


def _of_one_seed(name: str) -> None:
    if len(_SEEDS.value) != 1 or _VARIANTS.value is not None or _PRETRAINED.value is not None:
        raise ConfigError(
            f"--study={name} takes one seed and has no variants; nor does it take --pretrained"
        )
    config = cli.load_config()
    from raserec_jax.studies.analyses import run_analysis
    from raserec_jax.studies.running import quick

    config = quick(config) if _QUICK.value else config
    (seed,) = cli.integers("seeds", _SEEDS.value)
    print(
        run_analysis(
            name,
            config,
            _WORKDIR.value,
            seed=seed,
            runs=_RUNS.value,
            windows=_WINDOWS.value,
            retrain=_RETRAIN.value,
        )
    )


if __name__ == "__main__":
    cli.run(main)
