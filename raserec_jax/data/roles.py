"""What the columns of a file are for: the names that known sources give them, and those that the caller gives."""

import difflib
from collections.abc import Mapping, Sequence

from raserec_jax.data.sources import PathLike, at_line
from raserec_jax.data.tables import HEADER, column_place
from raserec_jax.errors import ConfigError, DataError

REQUIRED = ("user_id", "item_id")
ROLES = (*REQUIRED, "position", "timestamp", "rating")
# Ours (and Amazon 2023, whose item is parent_asin), Amazon 2014 and 2018, MovieLens, TFDS's MovieLens; the first that a
# file has counts.
KNOWN_NAMES = {
    "user_id": ("user_id", "reviewerID", "userId"),
    "item_id": ("item_id", "parent_asin", "asin", "movieId", "movie_id"),
    "position": ("position",),
    "timestamp": ("timestamp", "unixReviewTime"),
    "rating": ("rating", "overall", "user_rating"),
}


def find_roles(
    path: PathLike,
    names: Sequence[str],
    columns: Mapping[str, str],
    source: tuple[str, str] = HEADER,
) -> dict[str, int]:
    """Which column serves as what.

    Args:
      path, source: for messages, as `tables.column_place`.
      names: the file's columns.
      columns: role -> column, where the caller names it.

    Returns:
      Role -> place in `names`; optional roles that the file does not have are absent.

    Raises:
      DataError: no column for a required role or one that the caller names; or one occurs twice.
    """
    names = tuple(names)
    places = {}
    for role in ROLES:
        known = next((name for name in KNOWN_NAMES[role] if name in names), None)
        if role in columns or known or role in REQUIRED:
            wanted = columns.get(role, known or role)
            places[role] = column_place(path, names, wanted, role, source)
    return places


def refuse_header(path: PathLike, line: int, fields: Sequence[str]) -> None:
    """Refuses a first line that names columns, where a format has no header.

    Raises:
      DataError: one of the fields is the known name of a column.
    """
    names = {name for known in KNOWN_NAMES.values() for name in known}
    found = next((field for field in fields if field.strip() in names), None)
    if found is not None:
        raise DataError(
            f"{at_line(path, line)}: {found!r} names a column, but this format has no header; drop the line, or "
            "separate columns by tabs or commas, as a table"
        )


def checked_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """The caller's names of columns.

    Raises:
      ConfigError: a role that there is not.
    """
    for role in columns or {}:
        if role not in ROLES:
            raise ConfigError(
                f"columns: {role!r} is not one of {', '.join(ROLES)}{nearest(role, ROLES)}; "
                "map the library's name to the file's, as in {'item_id': 'asin'}"
            )
    return dict(columns or {})


def parse_columns(text: str) -> dict[str, str]:
    """Columns as a flag gives them: "user_id=who,timestamp=when"; "" is none.

    Raises:
      ConfigError: not of that form, or a role that there is not.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(role.strip() and name.strip() for role, _, name in pairs):
        raise ConfigError(
            f"columns {text!r:.80} is not usable; write role=column pairs such as "
            "user_id=reviewer,timestamp=when"
        )
    return checked_columns({role.strip(): name.strip() for role, _, name in pairs})


def nearest(word: str, known: Sequence[str]) -> str:
    """What follows a name that there is not, in a message."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
