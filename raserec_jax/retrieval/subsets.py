"""Which pairs enter the memory bank: all, or those of some lengths, ages or users."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from raserec_jax.errors import DataError


class Subset(NamedTuple):
    """What is kept; the defaults keep everything.

    min_length, max_length: bounds, both included, on the items of a stored history (its true count); max_length 0 =
      no upper bound.
    outside_lengths: keep what lies outside these bounds instead, as the paper's partition does.
    newest_share: share of the entries, in (0, 1], that are kept by the time of their target, the newest.
    user_share: share of the users, in (0, 1], whose entries are kept.
    """

    min_length: int = 0
    max_length: int = 0
    outside_lengths: bool = False
    newest_share: float = 1.0
    user_share: float = 1.0


def kept_users(num_users: int, share: float, seed: int) -> Bool[np.ndarray, " users"]:
    """round(share * num_users) users, at least 1, drawn without replacement; all for share 1."""
    kept = np.ones(num_users, bool)
    if share < 1.0:
        count = max(1, round(share * num_users))
        kept[np.random.default_rng([seed, 5]).permutation(num_users)[count:]] = False
    return kept


def kept_entries(
    subset: Subset,
    lengths: Int[np.ndarray, " rows"],
    user_ids: Int[np.ndarray, " rows"],
    times: Int[np.ndarray, " rows"] | None,
    users: Bool[np.ndarray, " users"],
) -> Bool[np.ndarray, " rows"]:
    """Which pairs enter the bank. Age is looked at last: a share of what length and user leave.

    Args:
      lengths, user_ids, times: of the pairs, as in MemoryBank.
      users: as `kept_users` draws them.

    Returns:
      bool per pair. Of `newest_share` it keeps ceil(share * rows) pairs; on equal times the later rows.

    Raises:
      DataError: the newest are asked of a log without times, or nothing is left.
    """
    inside = lengths >= subset.min_length
    if subset.max_length:
        inside &= lengths <= subset.max_length
    kept = (inside != subset.outside_lengths) & users[user_ids]
    if subset.newest_share < 1.0:
        if times is None:
            raise DataError(
                f"config.memory.newest_share={subset.newest_share} needs times but the log has none; "
                "give it a timestamp column or set config.memory.newest_share=1"
            )
        rows = np.flatnonzero(kept)
        oldest_first = rows[np.argsort(times[rows], kind="stable")]
        kept[oldest_first[: len(rows) - int(np.ceil(subset.newest_share * len(rows)))]] = False
    if not kept.any():
        raise DataError(
            f"the memory bank is empty: of {len(lengths)} histories none is left by {_told(subset)}; "
            "widen config.memory or give more interactions"
        )
    return kept


def _told(subset: Subset) -> str:
    """The settings that are not those that keep everything."""
    given = [
        f"config.memory.{name}={value}"
        for name, value in subset._asdict().items()
        if value != Subset._field_defaults[name]
    ]
    return ", ".join(given) or "the split"
