"""Runs a study: every variant under every seed in a workdir of its own, then one table of all.

    WORKDIR/study.json  study.csv  study.md  report.html  plots/  VARIANT/seed_N/  semantic/

What is finished is read, so a killed study goes on, and seeds or variants can be added to it later. What a language
model is asked for comes first, before any training, and no variant pays for an answer that another has.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from raserec_jax import presets
from raserec_jax.config_files import leaves
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import split_log
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import ConfigError
from raserec_jax.report.results import write_bytes_atomic, write_json_atomic
from raserec_jax.semantic.answer_cache import share_answers
from raserec_jax.semantic.pipeline import embed_text
from raserec_jax.semantic.settings import asks_a_model
from raserec_jax.semantic.vector_cache import share_vectors
from raserec_jax.studies.outcome import Outcome, read_outcome, summarize
from raserec_jax.studies.page import write_study_report
from raserec_jax.studies.study import Study, Variant
from raserec_jax.studies.tables import study_csv
from raserec_jax.training.pipeline import check_times, read_data, train
from raserec_jax.training.semantic_stage import uses_semantics
from raserec_jax.training.signals import interruptible
from raserec_jax.training.workdir import plain

QUICK_EPOCHS = 2


def run_study(
    study: Study,
    config: ConfigDict,
    workdir: PathLike,
    *,
    seeds: Sequence[int] = (0,),
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
    pretrained: PathLike | None = None,
) -> dict[str, Any]:
    """Trains every variant under every seed and compares each with the first.

    Args:
      study: of `catalogue.STUDIES`, or one's own.
      config: what the variants change; its seed is replaced.
      workdir: folder of the study.
      seeds: distinct integers.
      log, item_text: as `train`; default: what `config.data` names, read once.
      pretrained: a workdir whose stage 1 is taken over, for a study in which no variant changes it.

    Returns:
      The summary, as `outcome.summarize` makes it and study.json keeps it.

    Raises:
      ConfigError: no seed or one twice, a change that the configuration does not know, or `pretrained` for a study
        of stage 1; else as `train`.
    """
    if pretrained is not None and not study.one_encoder:
        raise ConfigError(
            f"--pretrained={pretrained}: the variants of this study train stage 1 themselves; leave it out"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds={','.join(map(str, seeds))} should be distinct integers")
    workdir = Path(workdir)
    configs = {one.name: varied(config, one, workdir) for one in study.variants}
    if log is None:
        log, item_text = read_data(config)
    for one in configs.values():
        check_times(one, log)
    base = config.semantic.folder or workdir / "semantic"
    ask_models(study, configs, base, workdir, log, item_text)
    outcomes: dict[str, list[Outcome]] = {}
    for place, variant in enumerate(study.variants):
        for seed in seeds:
            print(
                f"\n=== {variant.label} ({place + 1} of {len(study.variants)}), seed {seed}",
                flush=True,
            )
            one = configs[variant.name].copy_and_resolve_references()
            one.seed = seed
            if uses_semantics(one):
                share_vectors(base, one.semantic.folder)
            folder = workdir / (variant.run or variant.name) / f"seed_{seed}"
            first = workdir / study.variants[0].name / f"seed_{seed}"
            train(
                one,
                log,
                folder,
                item_text=item_text,
                stages=study.stages,
                pretrained=first if study.one_encoder and place else pretrained,
            )
            told = read_outcome(folder, variant.model or study.model)
            outcomes.setdefault(variant.name, []).append(told)
            done = study.only(list(outcomes))
            if len(outcomes[variant.name]) == len(seeds):  # a report after each variant
                summary = summarize(done, outcomes, seeds, plain(config))
                _write(workdir, done, summary)
    return summary


def ask_models(
    study: Study,
    configs: Mapping[str, ConfigDict],
    base: PathLike,
    workdir: Path,
    log: InteractionLog,
    item_text: ItemText | None,
) -> None:
    """Has a language model write the texts of every variant that wants some, so that a dead endpoint costs no training.

    Args:
      study, log, item_text: as `run_study`.
      configs: variant name -> its configuration, as `varied` makes it.
      base: another folder whose answers are taken over.
      workdir: folder of the study; answers to variants of an earlier call lie there too.

    Raises:
      as `embed_text`.
    """
    for variant in study.variants:
        one = configs[variant.name]
        if uses_semantics(one) and asks_a_model(one.semantic):
            print(f"\n=== {variant.label}: texts", flush=True)
            folder = one.semantic.folder
            share_answers([base, *sorted(workdir.glob("semantic*"))], folder)
            with interruptible():
                embed_text(split_log(log, one.data), item_text, one.semantic, folder)


def varied(config: ConfigDict, variant: Variant, workdir: Path) -> ConfigDict:
    """The configuration of a variant; texts that differ from the configuration's get a folder of their own.

    Raises:
      ConfigError: it changes what is not there, or to what cannot be.
    """
    one = config.copy_and_resolve_references()
    known = {name for name, _ in leaves(one)}
    unknown = [name for name in variant.changes if name not in known]
    if unknown:
        raise ConfigError(
            f"variant {variant.name} changes {', '.join(unknown)}, which this configuration does not have; "
            "take another --config"
        )
    one.update_from_flattened_dict(dict(variant.changes))
    if uses_semantics(one) and not one.semantic.folder:
        one.semantic.folder = str(workdir / "semantic")
    if one.semantic.to_dict() != _with_folder(config, one).to_dict():
        one.semantic.folder = str(workdir / f"semantic_{variant.name}")
    try:
        presets.check_config(one)
    except ConfigError as error:
        raise ConfigError(f"variant {variant.name}: {error}") from None
    return one


def _with_folder(config: ConfigDict, other: ConfigDict) -> ConfigDict:
    settings = config.copy_and_resolve_references().semantic
    settings.folder = other.semantic.folder
    return settings


def quick(config: ConfigDict) -> ConfigDict:
    """The same with few epochs, for a first look."""
    one = config.copy_and_resolve_references()
    for stage in ("pretrain", "finetune"):
        one[stage].stopping.epochs = min(one[stage].stopping.epochs, QUICK_EPOCHS)
    one.evaluation.bootstrap_samples = min(one.evaluation.bootstrap_samples, 500)
    return one


def _write(workdir: Path, study: Study, summary: Mapping[str, Any]) -> None:
    write_json_atomic(workdir / "study.json", summary)
    write_bytes_atomic(workdir / "study.csv", study_csv(summary).encode())
    print(f"report: {write_study_report(workdir, study, summary)}", flush=True)
