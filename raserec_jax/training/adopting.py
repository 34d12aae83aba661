"""Stages of another workdir taken over: many memories over one encoder, pre-trained once.

What is taken over is copied, checked by its digests when it is read, and told in the record, so a workdir stays whole
when the other one goes.
"""

import os
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from raserec_jax import checkpoints
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import ConfigError
from raserec_jax.report.results import read_json
from raserec_jax.training import workdir as wd

# What decides a stage's result, beside the data: parts of the configuration.
_DECIDED_BY = {
    "pretrain": ("data", "encoder", "pretrain", "seed", "semantic", "sra_cl"),
    "memory": ("memory", "mixing.top_k"),
}
# Of these, what only says where files lie.
_PLACES = ("semantic.folder",)


def adopt_pretraining(
    workdir: Path, other: PathLike, config: ConfigDict, log: InteractionLog
) -> str:
    """Takes over stage 1 of `other`, with its texts, and its memory if that would be the same here; nothing if stage 1
    is here already.

    Returns:
      What was taken over, as a sentence for the terminal; "" for nothing.

    Raises:
      ConfigError: the other workdir has no finished stage 1, or one of another configuration or other data; the keys
        that differ are named.
      CheckpointError: what is there is damaged.
    """
    other = Path(other)
    if wd.stage_record(workdir, "pretrain") is not None:
        return ""
    if not (other / "config.json").exists() or wd.stage_record(other, "pretrain") is None:
        raise ConfigError(
            f"{other} has no finished pretrain stage; train it there first, or leave out --pretrained"
        )
    given, saved = wd.plain(config), read_json(other / "config.json")
    _refuse_other_data(other, log)
    differing = _differing("pretrain", saved, given)
    if differing:
        raise ConfigError(
            f"stage 1 of {other} was trained otherwise: {'; '.join(differing[:6])}; give the workdir of a run with "
            "these settings, or leave out --pretrained"
        )
    checkpoints.read_meta(other / "best" / "pretrain")
    _copy(other / "best" / "pretrain", workdir / "best" / "pretrain")
    taken = ["pretrain"]
    if wd.stage_record(other, "memory") is not None and not _differing("memory", saved, given):
        _copy(other / "memory", workdir / "memory")
        taken.append("memory")
    texts = Path(saved["semantic"]["folder"] or other / "semantic")
    if texts.is_dir() and not config.semantic.folder and not (workdir / "semantic").exists():
        _copy(texts, workdir / "semantic")
        taken.append("texts")
    for stage in ("pretrain", "memory"):
        if stage not in taken:
            continue
        record = wd.stage_record(other, stage)
        path = workdir / "stages" / f"{stage}.json"
        wd.write_record(path, {**record, "taken_from": str(other)})
    return (
        f"{' and '.join(filter(None, [', '.join(taken[:-1]), taken[-1]]))}: taken over from {other}"
    )


def _differing(stage: str, saved: dict, given: dict) -> list[str]:
    found = wd.differences(_part(saved, stage), _part(given, stage))
    return [words for words in found if not words.startswith(_PLACES)]


def _part(config: dict, stage: str) -> dict:
    """The part of a configuration that decides a stage."""
    found: dict = {}
    for name in _DECIDED_BY[stage]:
        *groups, last = name.split(".")
        source, target = config, found
        for group in groups:
            source, target = source.get(group, {}), target.setdefault(group, {})
        if last in source:
            target[last] = source[last]
    return found


def _refuse_other_data(other: Path, log: InteractionLog) -> None:
    if InteractionLog.load(other / "log").fingerprint() != log.fingerprint():
        raise ConfigError(
            f"{other} was made from other data; give the workdir of a run on these, or leave out --pretrained"
        )


def _copy(source: Path, target: Path) -> None:
    """A folder, whole or not at all."""
    building = target.with_name(f".building-{target.name}")
    for leftover in (building, target):  # from a call that was killed before its record was written
        shutil.rmtree(leftover, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, building)
    os.replace(building, target)
