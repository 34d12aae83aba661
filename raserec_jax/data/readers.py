"""Files of interactions -> InteractionLog, streamed: what is kept of a file is a few integers per interaction.

The formats are in `formats`; a folder that `InteractionLog.save` wrote is read too.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from raserec_jax.data import storage
from raserec_jax.data.collecting import IdCollector, NumberCollector
from raserec_jax.data.formats import AUTO, check_format, chunks_of
from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import read_item_text
from raserec_jax.data.records.folder import is_record_folder, read_records
from raserec_jax.data.records.interactions import tfds_name
from raserec_jax.data.roles import checked_columns
from raserec_jax.data.sources import PathLike
from raserec_jax.errors import DataError

__all__ = ["read_interactions", "read_item_text"]


def read_interactions(
    path: PathLike,
    *,
    format: str = AUTO,
    columns: Mapping[str, str] | None = None,
    min_rating: int | float | None = None,
    name: str | None = None,
) -> InteractionLog:
    """Reads a file of interactions; order within a user as `InteractionLog.from_columns` says.

    | format | what it reads |
    |---|---|
    | `table` | TSV or CSV whose header names user_id and item_id, and, if known, position, timestamp and rating; MovieLens's (userId, movieId) and Amazon's names (user_id, parent_asin) are known too |
    | `recbole` | a RecBole .inter file |
    | `sequences` | no header, `user item item ...`, oldest first |
    | `pairs` | no header, `user item` |
    | `movielens_dat` | no header, `user::item::rating::timestamp` |
    | `ratings_user_item` | no header, user, item, rating, timestamp (Amazon 2014; with tabs MovieLens's u.data) |
    | `ratings_item_user` | no header, item, user, rating, timestamp (Amazon 2018) |
    | `amazon_ratings` | one of the last two: the item is the column where every row is a ten-character ASIN |
    | `json_lines` | one object per line, with the names of `table` or of Amazon's reviews (reviewerID, asin, ...) |
    | `parquet` | the names of `table`; needs pyarrow |
    | `tfds` | a TFDS data set, one example per interaction: `tfds:NAME/CONFIG[#SPLIT]`, or its folder; needs the extra |

    Args:
      path: the file, of text gzipped or not; or the folder of a saved log, of arrays or of records.
      format: of the above, or "auto": by content, as `formats.sniffing` says.
      columns: what the file calls a column, where it is none of the names above: {"item_id": "sku"}; where it has no
        header, its number from 1. Further columns of the file are ignored.
      min_rating: leave out what is rated lower. Ratings are not kept.
      name: what reports call the log; by default after the file.

    Raises:
      DataError: the file is missing, damaged, or not such a table; names file, line, column and what to do. Or no
        interaction has such a rating.
      ConfigError: an unknown format or column, or pyarrow is missing.
    """  # noqa: E501 - a table
    columns = checked_columns(columns)
    check_format(format)
    if storage.is_saved_folder(path):
        load = read_records if is_record_folder(path) else InteractionLog.load
        if min_rating is not None:
            raise DataError(
                f"{path}: a saved log has no ratings, so min_rating={min_rating:g} cannot be applied; give it when "
                "the log is made"
            )
        log = load(path)
        return log if name is None else dataclasses.replace(log, name=name)
    return _read_file(path, format, columns, min_rating, name or name_of(path))


def _read_file(
    path: PathLike,
    format: str,
    columns: Mapping[str, str],
    min_rating: int | float | None,
    name: str,
) -> InteractionLog:
    users, items = IdCollector("user"), IdCollector("item")
    numbers: dict[str, NumberCollector] = {}
    for chunk, rows in wanted_rows(path, format, columns, min_rating):
        users.add(chunk.user_id.ids()[rows])
        items.add(chunk.item_id.ids()[rows])
        for role in ("position", "timestamp"):
            column = getattr(chunk, role)
            if column is not None:
                numbers.setdefault(role, NumberCollector()).add(column.numbers()[rows])
    return InteractionLog.from_codes(
        users.finish(),
        items.finish(),
        **{role: collector.finish() for role, collector in numbers.items()},
        name=name,
    )


def wanted_rows(
    path: PathLike,
    format: str,
    columns: Mapping[str, str],
    min_rating: int | float | None,
    tell: Callable[[int], object] | None = None,
) -> Iterator[tuple[Chunk, np.ndarray | slice]]:
    """The pieces of a file of interactions, each with the rows of it that are rated high enough; at least one row
    in all.

    Args:
      path, format, columns, min_rating: as `read_interactions`.
      tell: as `formats.chunks_of`.

    Raises:
      DataError, ConfigError: as `read_interactions`; on the way.
    """
    highest, any_kept = -np.inf, min_rating is None
    for chunk in chunks_of(path, format, columns, tell):
        rows = slice(None)
        if min_rating is not None:
            ratings = ratings_of(path, chunk)
            rows, highest = ratings >= min_rating, max(highest, ratings.max())
            any_kept = any_kept or bool(rows.any())
        yield chunk, rows
    if not any_kept:
        raise DataError(
            f"{path}: no interaction is left: no rating reaches min_rating={min_rating:g} (the highest is "
            f"{highest:g}); lower it"
        )


def ratings_of(path: PathLike, chunk: Chunk) -> np.ndarray:
    """[rows] of a piece of a file.

    Raises:
      DataError: there are none.
    """
    if chunk.rating is None:
        raise DataError(
            f"{path}: min_rating is given but there is no column of ratings; name it "
            "(columns: rating=NAME), or leave min_rating out"
        )
    return chunk.rating.numbers()


def name_of(path: PathLike) -> str:
    """What a log is called: the folder's name for amazon_beauty/interactions.tsv.gz, else the file's, no extensions."""
    if name := tfds_name(path):
        return name
    path = pathlib.Path(path)
    stem = re.sub(rf"(\.({_EXTENSIONS}))+$", "", path.name, flags=re.IGNORECASE)
    if stem == "interactions":
        return path.resolve().parent.name or stem
    return stem or "log"


_EXTENSIONS = "gz|tsv|csv|txt|inter|dat|json|jsonl|ndjson|parquet"
