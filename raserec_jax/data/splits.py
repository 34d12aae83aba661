"""Which interactions of a log are for training, validation and test."""

from typing import NamedTuple

import numpy as np

from raserec_jax.data.interactions import InteractionLog


class Split(NamedTuple):
    """A log and what each user's places (0 = oldest) are for.

    Attributes:
      log: all interactions.
      train_end: [U] int32; items [0, train_end) are training history, targets are its places
        1..train_end-1.
      valid_position: [U] int32 place of the validation target, -1 = none.
      test_position: [U] int32 place of the test target, -1 = none.
      name: of the split, for reports.
    """

    log: InteractionLog
    train_end: np.ndarray
    valid_position: np.ndarray
    test_position: np.ndarray
    name: str


def leave_one_out(log: InteractionLog) -> Split:
    """A user's last item is for the test, the one before for validation; users of 1 or 2 items "
    "only train."""
    lengths = log.lengths.astype(np.int32)
    held_out = lengths >= 3
    return Split(
        log=log,
        train_end=np.where(held_out, lengths - 2, lengths),
        valid_position=np.where(held_out, lengths - 2, np.int32(-1)),
        test_position=np.where(held_out, lengths - 1, np.int32(-1)),
        name="leave_one_out",
    )
