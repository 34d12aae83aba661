"""A log that lies in records, as columns in blocks: what its fingerprint is made of."""

from collections.abc import Callable, Iterator

import numpy as np

from raserec_jax.data.on_disk.write import Columns
from raserec_jax.data.records.content import History
from raserec_jax.data.records.histories import RecordedHistories

_AT_ONCE = 4096  # users


def columns_of(
    users: RecordedHistories,
    rows: int,
    *,
    integer_users: bool,
    time_kind: np.dtype | None,
    item_labels: np.ndarray,
) -> Columns:
    """The columns of a log, each a pass over its records.

    Args:
      users: of the log.
      rows: interactions.
      integer_users, time_kind, item_labels: as `records.content.Histories`.
    """

    def blocks(of: Callable[[list[History], int], np.ndarray]) -> Callable:
        def each() -> Iterator[np.ndarray]:
            for first in range(0, len(users), _AT_ONCE):
                end = min(first + _AT_ONCE, len(users))
                yield of(users.take(range(first, end)), first)

        return each

    def user_ids(found: list[History], first: int) -> np.ndarray:
        numbers = np.arange(first, first + len(found), dtype=np.int32)
        return np.repeat(numbers, [len(one.item_ids) for one in found])

    def labels(found: list[History], first: int) -> np.ndarray:
        del first
        texts = np.array([one.label for one in found])
        return texts.astype(np.int64) if integer_users else texts

    columns: Columns = {
        "user_ids": (np.dtype(np.int32), rows, blocks(user_ids)),
        "item_ids": (
            np.dtype(np.int32),
            rows,
            blocks(lambda found, _: np.concatenate([one.item_ids for one in found])),
        ),
        "user_labels": (
            np.dtype(np.int64 if integer_users else np.str_),
            len(users),
            blocks(labels),
        ),
        "item_labels": (item_labels.dtype, len(item_labels), lambda: iter([item_labels])),
    }
    if time_kind is not None:
        columns["timestamps"] = (
            time_kind,
            rows,
            blocks(lambda found, _: np.concatenate([one.timestamps for one in found])),
        )
    return columns
