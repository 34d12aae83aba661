"""Arrays as the memory takes them: int32 and float32, checked instead of wrapped around or rounded away."""

from typing import Any

import numpy as np

from raserec_jax.errors import DataError


def as_int32(values: Any, what: str, *, lowest: int = -(2**31)) -> np.ndarray:
    """[rows] integers of any width as int32, checked instead of wrapped around.

    Raises:
      DataError: not one axis of integers, or a value outside lowest..2**31 - 1.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; give one axis of integers"
        )
    if array.size and not (lowest <= array.min() and array.max() < 2**31):
        bad = int(np.flatnonzero((array < lowest) | (array >= 2**31))[0])
        raise DataError(
            f"{what}[{bad}] is {array[bad]}; expected an integer in {lowest}..{2**31 - 1}"
        )
    return np.ascontiguousarray(array, np.int32)


def as_vectors(values: Any, what: str) -> np.ndarray:
    """[rows, dim] finite numbers as float32.

    Raises:
      DataError: not two axes of floats, no dimensions, or a value that is not finite in float32.
    """
    array = np.asarray(values)
    # Not `kind == "f"`: bfloat16 is no NumPy kind of its own.
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind in "biucOSU":
        raise DataError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; give [rows, dim] floats"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{what} row {int(np.argmin(finite))} is not finite; "
            "check the encoder's parameters and what it was given for that row"
        )
    return array
