"""Periods after an instant, one behind the other, and what is asked in each: for studies of how a model ages."""

from typing import NamedTuple

import numpy as np

from raserec_jax.data.dates import units_per_second
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import Split, first_place_from
from raserec_jax.errors import ConfigError, DataError

_DAY_S = 86_400.0


class TimeWindow(NamedTuple):
    """[since, until) in the unit of the log's times; `days`: from the instant before all windows to its middle."""

    since: float
    until: float
    days: float


def windows_after(log: InteractionLog, cut: float, count: int) -> list[TimeWindow]:
    """The time after `cut` in windows of about equally many interactions.

    Args:
      log: with times.
      cut: an instant, in the log's unit.
      count: windows, at least 1.

    Returns:
      At most `count` windows, fewer where many interactions share an instant; the last one ends after the log does.

    Raises:
      ConfigError: count below 1.
      DataError: the log has no times, or none after the cut.
    """
    if count < 1:
        raise ConfigError(f"windows={count} should be at least 1")
    if log.timestamps is None:
        raise DataError(f"{log.name} has no times, so it has no windows; give a timestamp column")
    after = np.sort(log.timestamps[log.timestamps >= cut])
    if not len(after):
        raise DataError(
            f"{log.name} has no interaction at or after {cut:.17g}; take an earlier cut"
        )
    places = np.arange(1, count) * len(after) // count
    edges = np.unique([cut, *after[places].astype(float), np.nextafter(float(after[-1]), np.inf)])
    per_day = _DAY_S * units_per_second(float(np.median(np.abs(log.timestamps))))
    return [
        TimeWindow(since, until, ((since + until) / 2 - cut) / per_day)
        for since, until in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]


def window_split(split: Split, window: TimeWindow) -> Split:
    """The split with a window for its test: each user's first interaction in it, where a history precedes that.

    What training has seen stays; whatever is older than the window may join the memory.
    """
    log = split.log
    first = first_place_from(log, log.timestamps >= window.since)
    after = first_place_from(log, log.timestamps >= window.until)
    asked = (first < after) & (first > 0)
    return split._replace(
        test_position=np.where(asked, first, -1).astype(np.int32),
        memory_end=np.maximum(first, split.train_end).astype(np.int32),
        name="time_window",
        notes={"test_from": window.since, "test_until": window.until},
    )
