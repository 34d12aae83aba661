"""train(): all stages of a configuration in order, each resumable, everything in one workdir."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

import raserec_jax
from raserec_jax import presets
from raserec_jax.data.filters import Filters
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.preparation import read_filtered
from raserec_jax.data.splits import split_log
from raserec_jax.distributed import agreed, by_writer, process_count, stop_agreed
from raserec_jax.errors import ConfigError, DataError, Interrupted
from raserec_jax.mesh import default_devices, mesh_of
from raserec_jax.metric_writer import MetricWriter
from raserec_jax.training import workdir as wd
from raserec_jax.training.adopting import adopt_pretraining
from raserec_jax.training.dry_run import dry_run
from raserec_jax.training.signals import interruptible
from raserec_jax.training.stages import STAGES, Stages

EMBEDDED_DATASET = "movielens_100k"
"""Read when the configuration names no data."""


class Run(NamedTuple):
    """What `train` returns: where everything is, and the results as in results.json."""

    workdir: Path
    results: dict


def read_data(config) -> tuple[InteractionLog, ItemText | None]:
    """The log that `config.data` names, filtered as it says, and its item text if there is some."""
    data = config.data
    _, log, text = read_filtered(
        data.interactions or None,
        None if data.interactions else data.dataset or EMBEDDED_DATASET,
        data.item_text or None,
        format=data.format,
        columns=data.columns,
        filters=Filters.of(data),
    )
    return log, text


@interruptible()
def train(
    config,
    log: InteractionLog | None = None,
    workdir: str | os.PathLike = "runs/run",
    *,
    item_text: ItemText | None = None,
    stages: Sequence[str] = STAGES,
    pretrained: str | os.PathLike | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> Run:
    """Runs the stages of a configuration in a workdir; what is finished there is reused.

    Args:
      config: as `presets` makes it.
      log: interactions to use as they are (no further filter); default: read what `config.data` names.
      workdir: folder for everything the run makes.
      item_text: titles and other columns, for the report and for recommendations.
      stages: which to run, of STAGES; the others are skipped, or read if they are done.
      pretrained: another workdir, whose finished stage 1 is taken over, and its memory where it would be the same.
      profile_steps: (first, last): a trace of these steps of each stage is left in WORKDIR/profile.

    Returns:
      The workdir and the results so far.

    Raises:
      ConfigError, DataError, CheckpointError: unusable configuration, data or workdir, in one sentence.
      NonFiniteLossError: a loss became NaN or infinite.
      Interrupted: a signal came; the state was saved, run again to go on.
    """
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        raise ConfigError(f"--stages has {', '.join(unknown)}; use some of {', '.join(STAGES)}")
    presets.check_config(config)
    mesh = mesh_of(config)
    if log is None:
        log, item_text = read_data(config)
    check_times(config, log)
    if process_count() > 1:
        told = json.dumps([wd.identity(config, log), list(stages)], sort_keys=True)
        agreed("configuration", told, "configuration, other stages or other data")
    folder = Path(workdir)

    def open_workdir() -> None:
        wd.open_workdir(folder, config)
        wd.keep_log(folder, log, item_text)
        if pretrained is not None:
            taken = adopt_pretraining(folder, pretrained, config, log)
            if taken:
                print(taken, flush=True)

    tools = {"mesh": mesh, "profile_steps": profile_steps}
    with wd.locked(workdir):
        by_writer("workdir", open_workdir)
        return _train(config, log, item_text, folder, stages, tools)


def plan(config, log: InteractionLog | None = None) -> str:
    """What a run of a configuration would take on its mesh, in words (`dry_run`); trains and writes nothing.

    Raises:
      ConfigError, DataError: unusable configuration or data.
    """
    presets.check_config(config)
    mesh = mesh_of(config)
    log = read_data(config)[0] if log is None else log
    check_times(config, log)
    return dry_run(config, split_log(log, config.data), mesh)


def check_times(config, log: InteractionLog) -> None:
    """Refuses, before anything is trained or written, what a log without times cannot give.

    Raises:
      DataError: the log has no times, and the configuration goes by them.
    """
    if log.timestamps is not None:
        return
    memory, wants = config.memory, None
    if config.data.split == "global_time":
        wants, way_out = "data.split=global_time", "data.split=leave_one_out"
    elif memory.eligibility == "before":
        wants, way_out = "memory.eligibility=before", "memory.eligibility=own_earlier"
    elif memory.newest_share < 1.0:
        wants, way_out = f"memory.newest_share={memory.newest_share}", "memory.newest_share=1"
    if wants:
        raise DataError(
            f"config.{wants} needs times but {log.name} has none; give it a timestamp column or set "
            f"--config.{way_out}"
        )


def _train(config, log, item_text, folder: Path, stages: Sequence[str], tools: dict) -> Run:
    with MetricWriter(folder) as writer:
        run = Stages(config, split_log(log, config.data), item_text, folder, writer, **tools)
        run.say(
            f"workdir {folder}; {log.num_users:,} users, {log.num_items:,} items, "
            f"{log.num_interactions:,} interactions; {_devices(tools['mesh'])}"
        )
        for stage in STAGES:
            if stage in stages:
                if stop_agreed():
                    raise Interrupted(f"stopped before {stage}; what is finished was kept")
                run.announce(stage)
                getattr(run, stage)()
    return Run(folder, run.results)


def _devices(mesh: Mesh | None) -> str:
    devices = default_devices()[:1] if mesh is None else list(mesh.devices.flat)
    kinds = sorted({device.device_kind for device in devices})
    spread = "" if mesh is None else " as " + ",".join(f"{a}:{n}" for a, n in mesh.shape.items())
    return f"{len(devices)} x {', '.join(kinds)}{spread}, raserec_jax {raserec_jax.__version__}"
