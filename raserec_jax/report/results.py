"""results.json and other small JSON files of a workdir: written whole or not at all.

The same results give the same bytes: keys have a fixed order and floats a fixed number of digits,
so that the last bits, in which machines differ, do not show.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from raserec_jax.durable import flush_path
from raserec_jax.errors import CheckpointError

RESULTS_FILE = "results.json"
_DIGITS = 8  # significant
# Keys in the order in which a person reads them, at whatever depth; others follow, sorted.
_READING_ORDER = (
    *("protocol", "seed", "devices", "stages", "baselines", "groups", "versions", "config"),
    *("pretrain", "control", "memory", "mixing", "finetune", "combined", "gain"),
    *("best_epoch", "valid", "test", "test_train_bank"),
    *("unfiltered", "filtered", "HR", "NDCG", "MRR"),
)


def write_results(workdir: str | os.PathLike, results: Mapping[str, Any]) -> pathlib.Path:
    """Writes workdir/results.json and returns its path.

    Args:
      workdir: folder of the run, made if absent.
      results: protocol, seed, stages and so on, partial where a stage did not run. NumPy scalars
        and arrays are fine; NaN and infinities become null.

    Raises:
      TypeError: something that JSON cannot hold.
    """
    path = pathlib.Path(workdir) / RESULTS_FILE
    write_json_atomic(path, _in_order(_plain(results)))
    return path


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
      CheckpointError: the file is absent or damaged.
    """
    path = pathlib.Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; expected the workdir of a run that got so far: run "
            "launch/train.py with this --workdir"
        ) from None
    except ValueError as error:
        raise CheckpointError(
            f"{path} is no JSON ({error}); remove it and run launch/train.py again: finished "
            "stages are reused"
        ) from None


def write_json_atomic(path: str | os.PathLike, value: Any) -> None:
    """Writes indented JSON, keys in the order given, in place of what `path` held before.

    Raises:
      TypeError: something that JSON cannot hold; the old file stays.
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes_atomic(path, (text + "\n").encode())


def write_bytes_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Replaces `path`: whoever reads sees the old content or the new, also after a crash."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    flush_path(path.parent)


def _plain(value: Any) -> Any:
    """The same in the types JSON has."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__jax_array__"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r:.80} ({type(value).__name__}) cannot go into JSON; convert it first")


def _in_order(value: Any) -> Any:
    """Keys sorted, floats rounded, but for large ones: an instant in seconds has ten digits before the point."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value, key=_place)}
    if isinstance(value, list):
        return [_in_order(part) for part in value]
    if isinstance(value, float) and abs(value) < 10.0 ** (_DIGITS - 1):
        return float(f"{value:.{_DIGITS}g}")
    return value


def _place(name: str) -> tuple:
    """Sorts HR@5 before HR@10 before NDCG@5."""
    head = name.partition("@")[0]
    known = _READING_ORDER.index(head) if head in _READING_ORDER else len(_READING_ORDER)
    parts = re.split(r"([0-9]+)", name)
    return known, [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]
