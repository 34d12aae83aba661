"""What makes the arrays of a log valid, and numbers as the library keeps them."""

import numpy as np

from raserec_jax.errors import DataError

NUMBER_LIMIT = 2.0**63
_WHOLE = 2.0**53  # floats below hold whole numbers exactly


def as_numbers(values, what: str) -> np.ndarray:
    """A column of times or positions.

    Args:
      values: [N] integers or floats; any sequence or array.
      what: the column's name, for messages.

    Returns:
      [N] int64 where every value is whole, else float64.

    Raises:
      DataError: not one flat column of numbers, or one is not finite or not below 2**63.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.ndim != 1:
        raise DataError(
            f"{what}: expected one flat column of numbers, got {array.dtype} of shape "
            f"{array.shape}; convert dates to seconds"
        )
    if array.dtype.kind == "i":
        return array.astype(np.int64)
    bad = np.flatnonzero(~(np.abs(array.astype(np.float64)) < NUMBER_LIMIT))
    if bad.size:
        raise DataError(
            f"{what}: {array[bad[0]]} in row {bad[0]}, expected a finite number below 2**63; "
            "drop or repair such rows"
        )
    if array.dtype.kind == "u" or np.all((array == np.floor(array)) & (np.abs(array) < _WHOLE)):
        return array.astype(np.int64)
    return array.astype(np.float64) + 0.0  # -0.0 becomes 0.0: equal times have equal bytes


def check_log(
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    timestamps: np.ndarray | None,
    user_labels: np.ndarray,
    item_labels: np.ndarray,
) -> None:
    """Checks what `InteractionLog` promises about its arrays.

    Raises:
      DataError: they break a promise; says which.
    """
    rows = user_ids.shape
    flat = len(rows) == 1 and rows[0] > 0 and item_ids.shape == rows
    _require(flat, "user_ids and item_ids must be flat columns of one length, and not empty")
    flat = user_labels.ndim == item_labels.ndim == 1 and len(item_labels) > 0
    _require(flat, "user_labels and item_labels must be flat, the latter with one for padding")
    known = user_ids.dtype == item_ids.dtype == np.int32
    _require(known, "user_ids and item_ids must be int32")
    _check_labels(user_labels, "user_labels")
    _check_labels(item_labels[1:], "item_labels")
    is_sorted = np.all(user_ids[1:] >= user_ids[:-1])
    in_range = is_sorted and user_ids[0] >= 0 and user_ids[-1] < len(user_labels)
    _require(in_range, f"user_ids must be sorted and within 0..{len(user_labels) - 1}")
    in_range = item_ids.min() >= 1 and item_ids.max() < len(item_labels)
    _require(in_range, f"item_ids must be within 1..{len(item_labels) - 1}: 0 is padding")
    if timestamps is not None:
        known = timestamps.dtype in (np.int64, np.float64) and timestamps.shape == rows
        finite = known and np.all(np.isfinite(timestamps))
        _require(finite, "timestamps must be finite int64 or float64, one per row")


def _check_labels(labels: np.ndarray, what: str) -> None:
    known = labels.dtype == np.int64 or labels.dtype.kind == "U"
    increasing = known and np.all(labels[1:] > labels[:-1])
    _require(increasing, f"{what} must be increasing int64 or str")


def _require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise DataError(f"not a valid log: {message}; build it with InteractionLog.from_columns")
