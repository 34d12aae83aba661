"""What of a version is there, without what was removed: the columns that a compaction or an export writes."""

import numpy as np

from raserec_jax.store.layout import BFLOAT16, ENTRIES, EVENTS
from raserec_jax.store.snapshot import Snapshot, label_columns


def live_columns(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """The columns of `layout` that say what the snapshot says, without the rows that are not there."""
    columns = {}
    for names, alive in ((ENTRIES, snapshot.alive), (EVENTS, snapshot.event_alive)):
        kept = slice(None) if alive.all() else alive
        for name in names:
            column = getattr(snapshot, name)
            if column is not None:
                columns[name] = plain(np.ascontiguousarray(column[kept]))
    columns |= label_columns(dict(snapshot.labels))
    for name in ("forgotten_user_ids", "forgotten_item_ids"):
        columns[name] = np.array(sorted(getattr(snapshot, name)), np.int32)
    return {name: column for name, column in columns.items() if len(column)}


def plain(keys: np.ndarray) -> np.ndarray:
    """The column as NumPy's files know it: bfloat16 as its bits."""
    return keys.view(np.uint16) if keys.dtype == BFLOAT16 else keys
