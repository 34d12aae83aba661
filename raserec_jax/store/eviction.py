"""Which entries to give up where a memory must stay small: by age, by user, by number; pure functions of columns."""

import numpy as np

from raserec_jax.errors import ConfigError
from raserec_jax.store.snapshot import Snapshot


def rows_to_evict(
    snapshot: Snapshot,
    *,
    older_than: int | float | None = None,
    per_user: int | None = None,
    total: int | None = None,
) -> np.ndarray:
    """[rows] int32, increasing: the live entries that a bound leaves no room for.

    The bounds apply one after another. Newer is the later time (where the store has times), then, among those of one
    user, the longer history, then the later row; `total` asks only for time and row.

    Args:
      older_than: entries before this time go.
      per_user: at most so many of each user stay, the newest; >= 1.
      total: at most so many in all stay, the newest; >= 0.

    Raises:
      ConfigError: no bound, one out of range, or `older_than` for a store without times.
    """
    if older_than is None and per_user is None and total is None:
        raise ConfigError("evict needs a bound; give older_than, per_user or total")
    if older_than is not None and snapshot.times is None:
        raise no_times(older_than)
    check_bounds(older_than, per_user, total)
    kept = np.flatnonzero(snapshot.alive)
    if older_than is not None:
        kept = kept[snapshot.times[kept] >= older_than]
    if per_user is not None:
        kept = kept[_age_in_user(snapshot, kept) < per_user]
    if total is not None and len(kept) > total:
        kept = kept[_oldest_first(snapshot, kept)[len(kept) - total :]]
    gone = snapshot.alive.copy()
    gone[kept] = False
    return np.flatnonzero(gone).astype(np.int32)


def no_times(older_than: int | float) -> ConfigError:
    """What to raise where there are no times to go by."""
    return ConfigError(
        f"older_than={older_than} but the store has no times; evict by per_user or total"
    )


def check_bounds(older_than: int | float | None, per_user: int | None, total: int | None) -> None:
    """Raises ConfigError for a bound that is out of range, whatever the store."""
    number = isinstance(older_than, (int, float, np.integer, np.floating))
    if older_than is not None and not (number and abs(older_than) < 2.0**62):  # which NaN is not
        raise ConfigError(f"older_than={older_than!r:.80}; give a time in the unit of the log")
    for name, value, least in (("per_user", per_user, 1), ("total", total, 0)):
        if value is None:
            continue
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ConfigError(f"{name}={value!r:.80} must be an integer of at least {least}")


def _oldest_first(snapshot: Snapshot, rows: np.ndarray) -> np.ndarray:
    if snapshot.times is None:
        return np.arange(len(rows))
    return np.argsort(snapshot.times[rows], kind="stable")


def _age_in_user(snapshot: Snapshot, rows: np.ndarray) -> np.ndarray:
    """[rows] how many entries of the same user are newer."""
    users = snapshot.user_ids[rows]
    by = [rows, snapshot.lengths[rows], users]
    if snapshot.times is not None:
        by.insert(2, snapshot.times[rows])
    order = np.lexsort(by)
    ends = np.searchsorted(users[order], users[order], side="right")
    age = np.empty(len(rows), np.int64)
    age[order] = ends - 1 - np.arange(len(rows))
    return age
