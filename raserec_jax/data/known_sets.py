"""Data sets known by name, and where their files are looked for; none is part of this package."""

import difflib
import os
import pathlib
from typing import NamedTuple

from raserec_jax.data.embedded import movielens_100k_files
from raserec_jax.errors import ConfigError, DataError

DATA_DIR = "RASEREC_DATA_DIR"
EMBEDDED = "movielens_100k"
IN_DATA_DIR = (
    "amazon_beauty",
    "amazon_sports",
    "amazon_clothing",
    "amazon_video_games",
    "ml_latest_small",
    "wikipedia_edits",
)
KNOWN_SETS = (EMBEDDED, *IN_DATA_DIR)


class DataFiles(NamedTuple):
    """Where a set lies: interactions, and item text or None."""

    interactions: pathlib.Path
    items: pathlib.Path | None


def locate(name: str) -> DataFiles:
    """Finds the files of a known set.

    movielens_100k comes with an installed package; the others are looked for as
    RASEREC_DATA_DIR/NAME/interactions.tsv.gz and items.tsv.gz.

    Raises:
      ConfigError: the name is unknown; gives the nearest.
      DataError: the files are not there; says where they were looked for.
    """
    if name not in KNOWN_SETS:
        close = difflib.get_close_matches(name, KNOWN_SETS, n=1)
        nearest = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(
            f"data set {name!r:.80} is unknown{nearest}; use {', '.join(KNOWN_SETS)}, "
            "or give your own file"
        )
    if name == EMBEDDED:
        return DataFiles(*movielens_100k_files())
    root = os.environ.get(DATA_DIR)
    if not root:
        raise DataError(
            f"{name}: {DATA_DIR} is not set; set it to the folder that holds "
            f"{name}/interactions.tsv.gz"
        )
    interactions = pathlib.Path(root, name, "interactions.tsv.gz")
    if not interactions.is_file():
        raise DataError(
            f"{interactions}: no such file; put {name} there, or set {DATA_DIR} to where it lies"
        )
    items = interactions.with_name("items.tsv.gz")
    return DataFiles(interactions, items if items.is_file() else None)
