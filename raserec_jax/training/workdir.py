"""The workdir: everything a run makes, and what it refuses to mix.

    config.json  log/  stages/  checkpoints/  best/  memory/  metrics.jsonl  plots/  results.json  report.html

A stage is done when `stages/NAME.json` exists; it is written last, whole, by a rename.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from raserec_jax.data.interactions import ITEMS_FILE, InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import ConfigError
from raserec_jax.report.results import read_json, write_json_atomic

# What may change between two calls on one workdir: how the work is cut up or shown, not its result.
FREE_KEYS = ("checkpoint", "evaluation.samples")


def plain(config: ConfigDict) -> dict:
    """The configuration as JSON sees it (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def open_workdir(workdir: PathLike, config: ConfigDict) -> Path:
    """Makes the workdir, or checks that the one there belongs to this configuration.

    Raises:
      ConfigError: the workdir holds a run of another configuration; the keys that differ are named.
    """
    workdir = Path(workdir)
    path = workdir / "config.json"
    given = plain(config)
    if path.exists():
        differing = _differences(read_json(path), given)
        if differing:
            raise ConfigError(
                f"{workdir} holds a run of another configuration: {'; '.join(differing[:6])}; "
                "give another --workdir, or the configuration in its config.json"
            )
    try:
        write_json_atomic(path, given)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error
    return workdir


def _differences(saved: dict, given: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(saved) | set(given)):
        name = f"{prefix}{key}"
        if name in FREE_KEYS:
            continue
        old, new = saved.get(key, "absent"), given.get(key, "absent")
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name} is {old!r} there and {new!r} here")
    return found


def keep_log(workdir: Path, log: InteractionLog, text: ItemText | None) -> None:
    """Saves the prepared log in the workdir, or checks that the one there is the same.

    Raises:
      ConfigError: the workdir was made from other data.
    """
    folder = workdir / "log"
    if not folder.exists():
        log.save(folder)
    saved = InteractionLog.load(folder)
    if saved.fingerprint() != log.fingerprint():
        raise ConfigError(
            f"{workdir} was made from other data (fingerprint {saved.fingerprint()[:12]}, now "
            f"{log.fingerprint()[:12]}); give another --workdir"
        )
    if text is not None and not (folder / ITEMS_FILE).exists():
        text.save(folder)


def stage_record(workdir: Path, stage: str) -> dict | None:
    """What a finished stage wrote down, or None."""
    path = workdir / "stages" / f"{stage}.json"
    return read_json(path) if path.exists() else None


def finish_stage(workdir: Path, stage: str, record: dict) -> dict:
    """Marks a stage as done."""
    write_json_atomic(workdir / "stages" / f"{stage}.json", record)
    return record
