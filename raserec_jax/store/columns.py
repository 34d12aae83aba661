"""The columns of what is appended, checked against the version that they are added to."""

from typing import Any

import numpy as np

from raserec_jax.errors import DataError
from raserec_jax.store.arrays import as_vectors
from raserec_jax.store.changes import Events, checked_ids, checked_times
from raserec_jax.store.live import plain
from raserec_jax.store.snapshot import Snapshot


def entry_columns(
    now: Snapshot,
    keys: Any,
    target_ids: Any,
    user_ids: Any,
    lengths: Any,
    times: Any,
    *,
    num_users: int,
) -> dict[str, np.ndarray]:
    """Columns of entries as the files have them; arguments and errors as `MemoryStore.append`.

    Args:
      num_users: how many are known, with those that are new.
    """
    keys = as_vectors(keys, "keys")
    if keys.shape[1] != now.dim:
        raise DataError(
            f"keys have {keys.shape[1]} dimensions but the store's have {now.dim}; "
            "encode them with the encoder that the store was made with"
        )
    columns = {
        "keys": plain(keys.astype(now.keys.dtype)),
        "target_ids": checked_ids(target_ids, "target_ids", 1, now.num_items + 1),
        "user_ids": checked_ids(user_ids, "user_ids", 0, num_users),
        "lengths": checked_ids(lengths, "lengths", 0, 2**31),
    }
    dtype = None if now.times is None else now.times.dtype
    found = checked_times(times, dtype, len(keys), "times")
    return _same_length(columns if found is None else columns | {"times": found})


def event_columns(now: Snapshot, events: Events, *, num_users: int) -> dict[str, np.ndarray]:
    """Columns of events; as `entry_columns`."""
    item_ids = checked_ids(events.item_ids, "event item_ids", 1, now.num_items + 1)
    columns = {
        "event_user_ids": checked_ids(events.user_ids, "event user_ids", 0, num_users),
        "event_item_ids": item_ids,
    }
    dtype = None if now.event_times is None else now.event_times.dtype
    times = checked_times(events.times, dtype, len(columns["event_user_ids"]), "event times")
    return _same_length(columns if times is None else columns | {"event_times": times})


def _same_length(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"columns differ in length ({told}); give one value per row in each")
    return columns
