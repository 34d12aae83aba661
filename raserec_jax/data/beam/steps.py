"""What the workers do: rows of a file, histories of users, what a pass of the k-core leaves, numbers of users.

A history is (user, items, times): the ids as text, an integer in its one usual spelling, oldest first; times are
numbers, or None where the log has none.
"""

import bisect
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from raserec_jax.data.checks import as_numbers
from raserec_jax.data.formats import chunks_of
from raserec_jax.data.labels import decoded
from raserec_jax.data.on_disk.labels import all_integers, num_characters
from raserec_jax.data.readers import ratings_of
from raserec_jax.errors import DataError

History = (
    tuple  # Beam reads annotations, and what comes from lines of JSON has no narrower type for it
)


class Reading(NamedTuple):
    """How files are read: as `readers.read_interactions`."""

    format: str
    columns: Mapping[str, str]
    min_rating: float | None


class Row(NamedTuple):
    """One interaction of a user.

    key: what the user's are ordered by, or None.
    file, row: where it stands, for those that are equal in that.
    item, time: what and when.
    """

    key: int | float | None
    file: int
    row: int
    item: str
    time: int | float | None


class Facts(NamedTuple):
    """What is true of some rows of a source.

    integer_users, integer_items: whether all ids are usual spellings of integers.
    item_width: characters of the longest item id.
    position, timestamp: "i", "f" or "" where there is no such column.
    """

    integer_users: bool
    integer_items: bool
    item_width: int
    position: str
    timestamp: str


class Totals(NamedTuple):
    """Sums over histories: users, interactions, neighbours in a history and those of equal time; the shortest and the
    longest history."""

    users: int = 0
    interactions: int = 0
    neighbours: int = 0
    ties: int = 0
    shortest: int = 0
    longest: int = 0


def read_file(number: int, path: str, reading: Reading) -> Iterator[tuple[str, Row] | Facts]:
    """The rows of a file, (user, row) each, and facts of every so many of them.

    Raises:
      DataError: what is wrong with the file.
    """
    first = 0
    for chunk in chunks_of(path, reading.format, reading.columns):
        kept = slice(None)
        if reading.min_rating is not None:
            kept = ratings_of(path, chunk) >= reading.min_rating
        users, items = chunk.user_id.ids()[kept], chunk.item_id.ids()[kept]
        numbers = {
            role: None
            if getattr(chunk, role) is None
            else as_numbers(getattr(chunk, role).numbers()[kept], role)
            for role in ("position", "timestamp")
        }
        if len(users):
            kinds = ("" if one is None else one.dtype.kind for one in numbers.values())
            width = num_characters(items)
            yield Facts(_are_integers(users), _are_integers(items), width, *kinds)
        position, times = (
            [None] * len(users) if one is None else one.tolist() for one in numbers.values()
        )
        keys = times if numbers["position"] is None else position
        texts = zip(_texts(users, "user"), _texts(items, "item"), keys, times, strict=True)
        for row, (user, item, key, time) in enumerate(texts, first):
            yield user, Row(key, number, row, item, time)
        first += len(users)


def _are_integers(ids: np.ndarray) -> bool:
    return ids.dtype.kind == "i" or all_integers(ids)


def _texts(ids: np.ndarray, what: str) -> list[str]:
    texts = ids.astype(np.str_) if ids.dtype.kind == "i" else decoded(ids, what)
    if (texts == "").any():
        raise DataError(
            f"empty {what} id; every interaction needs a {what} and an item: drop the rows without"
        )
    return texts.tolist()


def merged_facts(found: Iterable[Facts]) -> Facts:
    """Of all rows.

    Raises:
      DataError: a column that some have and others have not.
    """
    found = list(found)
    kinds = []
    for role in ("position", "timestamp"):
        kind = {getattr(one, role) for one in found}
        if "" in kind and len(kind) > 1:
            raise DataError(
                f"some of the files have a column {role} and others have none; give files of one source"
            )
        kinds.append("f" if "f" in kind else min(kind))
    return Facts(
        all(one.integer_users for one in found),
        all(one.integer_items for one in found),
        max(one.item_width for one in found),
        *kinds,
    )


def history_of(user: str, rows: Iterable[Row]) -> History:
    """A user's rows, as `InteractionLog.from_columns` orders them."""
    ordered = sorted(rows, key=lambda row: (row.key or 0, row.file, row.row))
    times = [row.time for row in ordered]
    return user, [row.item for row in ordered], None if None in times else times


def without_duplicates(history: History, keep: str) -> History:
    """As `filters.without_duplicates`, of one user."""
    if keep == "all":
        return history
    items = history[1]
    places = {}
    for place, item in enumerate(items):
        if keep == "last" or item not in places:
            places[item] = place
    return _at(history, sorted(places.values()))


def core_of(history: History, rare: Mapping[str, object], per_user: int) -> Iterator[History]:
    """What a pass of the k-core leaves of a history: without rare items, and nothing if it is then too short."""
    if any(item in rare for item in history[1]):
        history = _at(history, [n for n, item in enumerate(history[1]) if item not in rare])
    if len(history[1]) >= max(per_user, 1):
        yield history


def _at(history: History, places: list[int]) -> History:
    user, items, times = history
    times = None if times is None else [times[place] for place in places]
    return user, [items[place] for place in places], times


def totals_of(history: History) -> Totals:
    """Of one user."""
    _, items, times = history
    count = len(items)
    ties = 0 if times is None else sum(a == b for a, b in zip(times, times[1:], strict=False))
    return Totals(1, count, count - 1, ties, count, count)


def merged_totals(found: Iterable[Totals]) -> Totals:
    """Of all of them."""
    found = [one for one in (Totals(*one) for one in found) if one.users]
    if not found:
        return Totals()
    sums = map(sum, zip(*(one[:4] for one in found), strict=True))
    return Totals(*sums, min(one.shortest for one in found), max(one.longest for one in found))


def to_line(value) -> str:
    """A tuple as a line of JSON."""
    return json.dumps(value)


def of_line(line: str) -> tuple:
    """What `to_line` was given."""
    return tuple(json.loads(line))


def part_of(user: str, bounds: list[int] | list[str]) -> int:
    """Which part holds a user: parts are ranges of ids, integers if the bounds are."""
    kind = int if bounds and isinstance(bounds[0], int) else str
    return bisect.bisect_right(bounds, kind(user))


def numbered(
    part: int,
    histories: Iterable[History],
    sizes: Mapping[int, int],
    ids: Mapping[str, int],
    *,
    integer_users: bool,
    time_kind: str,
) -> Iterator[tuple[int, dict]]:
    """The users of a part with their numbers in the log, as the data set's examples.

    Args:
      sizes: users of every part.
      ids: of items, 1..V.
    """
    first = sum(size for other, size in sizes.items() if other < part)
    kind = int if integer_users else str
    ordered = sorted(histories, key=lambda history: kind(history[0]))
    for number, (user, items, times) in enumerate(ordered, first):
        example = {"user_id": user, "item_ids": np.array([ids[one] for one in items], np.int32)}
        if times is not None:
            example["timestamps"] = np.array(times, np.float64 if time_kind == "f" else np.int64)
        yield number, example
