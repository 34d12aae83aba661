"""What is given to a store and what it tells: events to append, what was removed, checks of what comes from outside."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from raserec_jax.errors import DataError
from raserec_jax.store.arrays import as_int32

LONGEST_LABEL = 1000  # characters


class Events(NamedTuple):
    """Interactions in the order in which they came.

    user_ids, item_ids: [events] int32, dense ids.
    times: [events] of the store's type, None if it has none.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    times: np.ndarray | None = None


class Removed(NamedTuple):
    """entries, events: how many are gone.  version: from which on."""

    entries: int
    events: int
    version: int


def checked_ids(values: Any, what: str, lowest: int, end: int) -> np.ndarray:
    """[rows] int32 ids in lowest..end - 1.

    Raises:
      DataError: others, or not one axis of integers.
    """
    ids = as_int32(values, what, lowest=lowest)
    if ids.size and ids.max() >= end:
        bad = int(np.argmax(ids))
        raise DataError(
            f"{what}[{bad}] is {ids[bad]} but the store knows {lowest}..{end - 1}; "
            "give ids of the log that it belongs to"
        )
    return ids


def whole_numbers(values: Iterable, what: str) -> set[int]:
    """Integers of any size as Python's.

    Raises:
      DataError: something else: 1.7 is not 1.
    """
    found = set()
    for place, value in enumerate(values):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise DataError(f"{what}[{place}] is {value!r:.80}; give the dense ids, integers")
        found.add(int(value))
    return found


def checked_times(times: Any, dtype: np.dtype | None, rows: int, what: str) -> np.ndarray | None:
    """[rows] times of the store's type.

    Raises:
      DataError: missing or not asked for, not one per row, not finite, or not of the type without loss.
    """
    if (times is None) != (dtype is None):
        has = "times" if times is None else "no times"
        raise DataError(f"{what}: the store has {has}; give times if, and only if, it has them")
    if dtype is None:
        return None
    given = np.asarray(times)
    if given.shape != (rows,) or given.dtype.kind not in "iuf":
        raise DataError(
            f"{what} has shape {given.shape} and dtype {given.dtype}; give one number per row ({rows})"
        )
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        bad = int(np.argmin(np.isfinite(given)))
        raise DataError(f"{what}[{bad}] is {given[bad]}; expected a finite number")
    if given.size and not (-(2.0**62) < given.min() and given.max() < 2.0**62):
        raise DataError(f"{what} goes beyond 2^62; give them in the unit of the log")
    converted = given.astype(dtype)
    if (converted != given).any():
        bad = int(np.argmax(converted != given))
        raise DataError(
            f"{what}[{bad}] is {given[bad]} but the store's times are {dtype.name}; round it to a whole number"
        )
    return np.ascontiguousarray(converted)


def checked_labels(labels: Mapping[int, str], next_user_id: int) -> dict[int, str]:
    """Labels of new users: ids that follow the last one, each with a text.

    Raises:
      DataError: other ids, or a label that is empty or too long.
    """
    expected = list(range(next_user_id, next_user_id + len(labels)))
    if sorted(labels) != expected:
        raise DataError(
            f"new users have the ids {sorted(labels)[:3]}... but the next one is {next_user_id}; count on from there"
        )
    return {user_id: checked_label(labels[user_id], "user") for user_id in expected}


def checked_label(label: Any, what: str) -> str:
    """An original id as text: 7 and "7" are the same.

    Raises:
      DataError: neither an integer nor a string, empty, or of more than LONGEST_LABEL characters.
    """
    if isinstance(label, (bool, np.bool_)) or not isinstance(label, (int, np.integer, str)):
        raise DataError(f"{what} id {label!r:.80} is no integer or string; convert it first")
    if isinstance(label, str) and len(label) > LONGEST_LABEL:
        raise DataError(
            f"{what} id {label[:60]!r}... has {len(label):,} characters; give one of at most {LONGEST_LABEL:,}"
        )
    # Python makes no text of an integer of more than 4,300 digits.
    long = isinstance(label, int) and abs(label) >= 10**LONGEST_LABEL
    text = "" if long else str(label)
    if not text or len(text) > LONGEST_LABEL:
        raise DataError(f"{what} id {text[:60]!r} is empty or too long; give the original id")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{what} id {text[:60]!r} is not valid text; give UTF-8") from None
    return text
