"""The workdir: everything a run makes, and what it refuses to mix.

    config.json  log/  stages/  checkpoints/  best/  memory/  metrics.jsonl  plots/  results.json  report.html

A stage is done when `stages/NAME.json` exists; it is written last, whole, by a rename. Beside it lies its sha256, in
the form that `sha256sum -c` reads: a record that was altered is refused. One process at a time trains in a workdir
(`.lock`); any number may read it meanwhile.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from raserec_jax.config_rules import AS_BEFORE
from raserec_jax.data.interactions import ITEMS_FILE, InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.storage import PathLike
from raserec_jax.distributed import by_writer, is_writer
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.report.results import read_json, write_bytes_atomic, write_json_atomic
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import load_retrieved

# What may change between two calls on one workdir: how the work is cut up, spread or shown, not its result. Of a
# language model: where it is asked, how fast and for how much, not what it is asked; answers are known by its name.
FREE_KEYS = (
    "checkpoint",
    "mesh",
    "evaluation.samples",
    "pretrain.batching.workers",
    "semantic.llm.base_url",
    "semantic.llm.key_variable",
    "semantic.llm.concurrency",
    "semantic.llm.calls_per_minute",
    "semantic.llm.timeout_s",
    "semantic.llm.retries",
    "semantic.llm.backoff_s",
    "semantic.llm.max_calls",
    "semantic.llm.max_cost",
    "semantic.llm.price_in",
    "semantic.llm.price_out",
)

LOCK_FILE = ".lock"
# What some network file systems answer: without a lock the run goes on, with a warning.
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def plain(config: ConfigDict) -> dict:
    """The configuration as JSON sees it (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


@contextlib.contextmanager
def locked(workdir: PathLike) -> Iterator[None]:
    """Context in which no other process trains in the workdir, which is made if absent; reading it needs no lock.

    The lock is the kernel's, so it ends with the process, however that ends: nothing has to be cleaned up after a kill.
    Of several processes of one run, process 0 has it.

    Raises:
      ConfigError: another process has it, or the workdir cannot be written.
    """
    if not is_writer():
        yield
        return
    path = Path(workdir) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error
    try:
        _take_lock(descriptor, workdir)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, workdir: PathLike) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    except BlockingIOError:
        process, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").partition(" ")
        there = "" if host.strip() in ("", socket.gethostname()) else f" on {host.strip()}"
        raise ConfigError(
            f"{workdir} is in use by process {process.strip() or '(unknown)'}{there}; wait until it ends or stop it, "
            "or give another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise ConfigError(
                f"--workdir={workdir}: cannot be written ({error.strerror})"
            ) from error
        logging.getLogger("raserec_jax").warning(
            "%s: this file system has no locks (%s); see to it that one process at a time trains there",
            workdir,
            error.strerror,
        )


def open_workdir(workdir: PathLike, config: ConfigDict) -> Path:
    """Makes the workdir, or checks that the one there belongs to this configuration.

    Raises:
      ConfigError: the workdir holds a run of another configuration; the keys that differ are named.
      CheckpointError: config.json is damaged, or missing beside a run.
    """
    workdir = Path(workdir)
    path = workdir / "config.json"
    given = plain(config)
    if path.exists():
        saved = read_json(path)
        if not isinstance(saved, dict):
            raise CheckpointError(f"{path}: damaged, not a configuration; restore it from a copy")
        differing = differences(saved, given)
        if differing:
            raise ConfigError(
                f"{workdir} holds a run of another configuration: {'; '.join(differing[:6])}; "
                "give another --workdir, or the configuration in its config.json"
            )
    _refuse_orphans(workdir, path)
    try:
        _remove_leftovers(workdir)
        write_json_atomic(path, given)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error
    return workdir


def _refuse_orphans(workdir: Path, path: Path) -> None:
    """What belongs to every run is written before its first checkpoint: if it is gone, nobody knows whose those are."""
    if not path.exists() and any((workdir / n).exists() for n in ("stages", "checkpoints", "best")):
        raise CheckpointError(
            f"{path} is missing from a workdir that holds a run; restore it from a copy, or give another --workdir"
        )


def _remove_leftovers(workdir: Path) -> None:
    """Files that a killed process did not get to rename; those of checkpoints and memory are cleared where they lie."""
    for folder in (workdir, workdir / "stages", *workdir.glob("memory*")):
        for leftover in folder.glob(".*.partial"):
            leftover.unlink()


def identity(config: ConfigDict, log: InteractionLog) -> dict:
    """What names a run: its configuration and the fingerprint of its data; kept in every checkpoint."""
    return {"config": plain(config), "data": log.fingerprint()}


def differences(saved: dict, given: dict, prefix: str = "") -> list[str]:
    """In words, each key whose value differs between two nested mappings; what is free to change is left out, and
    what an earlier release did not write, if it is as it was then."""
    found = []
    for key in sorted(set(saved) | set(given)):
        name = f"{prefix}{key}"
        known_as = name.removeprefix("config.")
        if known_as in FREE_KEYS or (
            key not in saved and known_as in AS_BEFORE and given[key] == AS_BEFORE[known_as]
        ):
            continue
        old, new = saved.get(key, "absent"), given.get(key, "absent")
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name} is {old!r} there and {new!r} here")
    return found


def keep_log(workdir: Path, log: InteractionLog, text: ItemText | None) -> None:
    """Saves the prepared log in the workdir, or checks that the one there is the same.

    Raises:
      ConfigError: the workdir was made from other data; what differs is named.
      CheckpointError: the log is missing beside a run.
      DataError: the log there is damaged.
    """
    folder = workdir / "log"
    _refuse_orphans(workdir, folder)
    if not folder.exists():
        log.save(folder)
    saved = InteractionLog.load(folder)
    if saved.fingerprint() != log.fingerprint():
        raise ConfigError(
            f"{workdir} was made from other data: {'; '.join(differences(_facts(saved), _facts(log)))}; "
            "give another --workdir, or the data it was made from"
        )
    if text is not None and not (folder / ITEMS_FILE).exists():
        text.save(folder)


def _facts(log: InteractionLog) -> dict:
    return {
        "users": log.num_users,
        "items": log.num_items,
        "interactions": log.num_interactions,
        "times": "absent" if log.timestamps is None else "present",
        "fingerprint": log.fingerprint()[:12],
    }


def stage_record(workdir: Path, stage: str) -> dict | None:
    """What a finished stage wrote down, or None.

    Raises:
      CheckpointError: the record is damaged.
    """
    return read_record(workdir / "stages" / f"{stage}.json")


def finish_stage(workdir: Path, stage: str, record: dict) -> dict:
    """Marks a stage as done, once all processes are through with it."""
    path = workdir / "stages" / f"{stage}.json"
    by_writer(f"{stage}: record", lambda: write_record(path, record))
    return record


def write_record(path: Path, record: dict) -> None:
    """Writes a JSON file and, before it appears, its sha256 beside it."""
    building = path.with_name(f".{path.name}.partial")
    write_json_atomic(building, record)
    path.unlink(missing_ok=True)  # never a record beside the digest of another
    digest = f"{file_digest(building)}  {path.name}\n"
    sidecar = path.with_suffix(".sha256")
    write_bytes_atomic(sidecar, digest.encode())
    os.replace(building, path)


def read_record(path: Path) -> dict | None:
    """What `write_record` wrote, None if there is no such file.

    Raises:
      CheckpointError: the file is damaged, or its digest is.
    """
    if not path.exists():
        return None
    sidecar = path.with_suffix(".sha256")  # absent beside records of earlier releases
    if sidecar.exists() and sidecar.read_bytes() != f"{file_digest(path)}  {path.name}\n".encode():
        raise CheckpointError(
            f"{path} does not match the sha256 in {sidecar.name} (truncated or altered); remove it and run "
            "launch/train.py again: the checkpoints of the stage are reused"
        )
    return read_json(path)


def file_digest(path: Path) -> str | None:
    """sha256 of a file, None if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def memory_damage(workdir: Path, name: str = "memory") -> str | None:
    """Why what a finished stage left in this folder of the workdir cannot be read, with the file; None if it can."""
    folder = workdir / name
    needed = {folder / f"neighbours_{part}.npz" for part in ("valid", "test_train_bank", "test")}
    try:
        MemoryBank.load(folder)
        for path in sorted(needed | {*folder.glob("neighbours_*.npz")}):
            load_retrieved(path)
    except CheckpointError as error:
        return str(error)
    return None
