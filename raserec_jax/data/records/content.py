"""What is written as records: the histories of a log, wherever they come from."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from raserec_jax.data.interactions import InteractionLog


class History(NamedTuple):
    """One user.

    label: the original id, int or str.
    item_ids: [n] int32, 1..V, oldest first.
    timestamps: [n] int64 or float64, or None.
    """

    label: int | str
    item_ids: np.ndarray
    timestamps: np.ndarray | None


class Histories(NamedTuple):
    """The histories of a log.

    name, fingerprint: of the log.
    users: how many.
    integer_users: whether the original user ids are integers.
    time_kind: the type of the times, or None.
    item_labels: [V + 1] original item ids, the padding's first.
    each: iterates over them, in the order of the log.
    examples: in place of that, a Beam transform that gives (number of the user, `builder.example_of` him).
    """

    name: str
    fingerprint: str
    users: int
    integer_users: bool
    time_kind: np.dtype | None
    item_labels: np.ndarray
    each: Callable[[], Iterator[History]]
    examples: Any = None


def histories_of(log: InteractionLog) -> Histories:
    """The histories of a log in memory."""

    def each() -> Iterator[History]:
        offsets, times = log.offsets.tolist(), log.timestamps
        for label, start, end in zip(
            log.user_labels.tolist(), offsets[:-1], offsets[1:], strict=True
        ):
            rows = slice(start, end)
            yield History(label, log.item_ids[rows], None if times is None else times[rows])

    return Histories(
        log.name,
        log.fingerprint(),
        log.num_users,
        log.user_labels.dtype.kind == "i",
        None if log.timestamps is None else log.timestamps.dtype,
        log.item_labels,
        each,
    )
