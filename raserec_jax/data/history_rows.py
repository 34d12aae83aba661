"""HistoryRow: a user's history as a file gives it, and what every format checks of it."""

import json
from typing import Any, NamedTuple

from raserec_jax.data.columns import MAX_ID_BYTES
from raserec_jax.data.sources import shown
from raserec_jax.errors import DataError


class HistoryRow(NamedTuple):
    """One user's history.

    line: of the file, or row of a Parquet file, from 1.  user_id: original id.  items: original item ids, oldest
    first, at least one.
    """

    line: int
    user_id: int | str
    items: list[int | str]


def checked_row(place: str, line: int, user_id: Any, items: Any) -> HistoryRow:
    """The row, if it is one; `place` is how messages name it.

    Raises:
      DataError: ids that are neither integers nor strings, empty or too long, or no items.
    """
    if not isinstance(items, list) or not all(map(_is_id, items)):
        raise DataError(
            f"{place}: history is {shown(_told(items))}, expected a list of item ids, integers or strings"
        )
    if not _is_id(user_id):
        raise DataError(
            f"{place}: user_id is {shown(_told(user_id))}, expected an integer or a string"
        )
    if user_id == "":
        raise DataError(f"{place}: empty user_id; fill it in or drop the row")
    try:
        str(user_id).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: user_id {user_id!r:.80} is no valid text; repair or drop the line"
        ) from None
    if not items:
        raise DataError(
            f"{place}: empty history of user {shown(str(user_id))}, expected at least one item id; drop the row"
        )
    longest = max(map(str, [user_id, *items]), key=len)
    if len(longest) > MAX_ID_BYTES:
        raise DataError(
            f"{place}: found the id {shown(longest)}, expected at most {MAX_ID_BYTES} characters; are the items "
            "separated by spaces?"
        )
    return HistoryRow(line, user_id, items)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _told(value: Any) -> str:
    """As JSON has it, where it has it."""
    return json.dumps(value, default=str)
