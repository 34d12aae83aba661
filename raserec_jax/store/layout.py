"""What a store's segments hold: the columns, their types, and what its manifest must say of them.

| column | rows | meaning |
|---|---|---|
| `keys` | entries | [dim] float32, or bfloat16 as its bits: the representation of a history |
| `target_ids`, `user_ids`, `lengths` | entries | int32: the item that followed, whose history, its items |
| `times` | entries | when the item followed; int64 or float64, none if the log has no times |
| `event_user_ids`, `event_item_ids`, `event_times` | events | what was taken since training, so that histories grow |
| `dead_rows`, `dead_events` | | int32: entries and events that were removed; their rows go with the next compaction |
| `emptied_events` | | int32: events whose item was removed; their place in the history stays |
| `label_user_ids`, `label_lengths`, `label_bytes` | | users that the log does not have: id, and UTF-8 text |
| `forgotten_user_ids`, `forgotten_item_ids` | | int32: what of the log is no longer to be used |

An entry's row counts through the segments, dead ones included; a compaction numbers anew and begins an epoch.
"""

from typing import Any

import ml_dtypes
import numpy as np

from raserec_jax.errors import CheckpointError
from raserec_jax.store.files import Kind

ENTRIES = ("keys", "target_ids", "user_ids", "lengths", "times")
EVENTS = ("event_user_ids", "event_item_ids", "event_times")
LABELS = ("label_user_ids", "label_lengths", "label_bytes")
LISTS = (
    "dead_rows",
    "dead_events",
    "emptied_events",
    "forgotten_user_ids",
    "forgotten_item_ids",
)
COLUMNS = (*ENTRIES, *EVENTS, *LISTS, *LABELS)
STORE = Kind(
    "raserec_jax memory store 1", COLUMNS, "memory store", "restore the folder from a copy"
)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
KEY_DTYPES = ("float32", "bfloat16")
TIME_DTYPES = (None, "int64", "float64")
_TYPES = {
    "version": int,
    "epoch": int,
    "encoder_fingerprint": str,
    "log_fingerprint": str,
    "dim": int,
    "key_dtype": str,
    "num_users": int,
    "num_items": int,
    "next_user_id": int,
    "next_segment": int,
    "segments": list,
    "history": list,
}


def dtype_of(name: str, manifest: dict) -> np.dtype:
    """The type of a column in the files."""
    if name == "keys":
        return np.dtype(np.uint16 if manifest["key_dtype"] == "bfloat16" else np.float32)
    if name in ("times", "event_times"):
        return np.dtype(manifest["time_dtype"])
    return np.dtype(np.uint8 if name == "label_bytes" else np.int32)


def nothing(name: str, manifest: dict) -> np.ndarray | None:
    """A column without rows; None for times where there are none."""
    if name in ("times", "event_times") and manifest["time_dtype"] is None:
        return None
    shape = (0, manifest["dim"]) if name == "keys" else (0,)
    return np.zeros(shape, dtype_of(name, manifest))


def check_manifest(folder: Any, manifest: dict) -> dict:
    """The manifest, if it can be that of a store.

    Raises:
      CheckpointError: a field is missing or of another type or range, or a column cannot be one.
    """
    problem = manifest_problem(manifest)
    if problem:
        raise CheckpointError(f"{folder}/manifest.json: {problem}; {STORE.way_out}")
    return manifest


def manifest_problem(manifest: dict) -> str | None:
    """What keeps a manifest from being that of a store, None if nothing does."""
    for name, kind in _TYPES.items():
        value = manifest.get(name)
        if type(value) is not kind or (kind is int and not 0 <= value < 2**31):
            expected = f"an int in 0..{2**31 - 1}" if kind is int else f"a {kind.__name__}"
            return f"{name} is {value!r:.80}, expected {expected}"
    if manifest["key_dtype"] not in KEY_DTYPES or manifest.get("time_dtype") not in TIME_DTYPES:
        return "key_dtype or time_dtype is none of this release"
    if manifest["dim"] < 1:
        return "dim is 0, expected at least 1"
    if manifest["next_user_id"] < manifest["num_users"]:
        return f"next_user_id is {manifest['next_user_id']}, expected at least num_users, {manifest['num_users']}"
    lines = manifest["history"]
    if not lines or not all(isinstance(one, dict) and "version" in one for one in lines):
        return "history is empty, or holds what is no line of it"
    if not all(type(one["version"]) is int for one in lines):
        return "history names a version that is no int"
    plain = {name: nothing(name, manifest) for name in COLUMNS}
    plain = {name: column for name, column in plain.items() if column is not None}
    for segment in manifest["segments"]:
        problem = _segment_problem(segment, plain)
        if problem:
            return problem
        name = segment.get("name")
        if isinstance(name, str) and name.isdecimal() and int(name) >= manifest["next_segment"]:
            return f"next_segment is {manifest['next_segment']}, expected more than segment {name}"
    return None


def _segment_problem(segment: Any, plain: dict[str, np.ndarray]) -> str | None:
    if not isinstance(segment, dict) or not isinstance(segment.get("files"), dict):
        return f"{segment!r:.80} describes no segment"
    rows = {}
    for file_name, entry in segment["files"].items():
        name = file_name.removesuffix(".npy")
        if name not in plain or not isinstance(entry, dict):
            return f"{file_name!r:.80} is not a file of a segment"
        shape, dtype = entry.get("shape"), plain[name].dtype.str
        ints = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
        if not ints or [0, *shape[1:]] != list(plain[name].shape):
            return f"{file_name} has shape {shape!r:.80}"
        if entry.get("dtype") != dtype or not isinstance(entry.get("sha256"), str):
            return f"{file_name} has dtype {entry.get('dtype')!r:.80}, expected {dtype}"
        rows[name] = shape[0]
    for group in (ENTRIES, EVENTS, LABELS[:2]):
        if len({rows.get(name, 0) for name in group if name in plain}) > 1:
            return f"the columns {', '.join(group)} of segment {segment.get('name')!r:.20} differ in length"
    return None
