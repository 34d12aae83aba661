"""Every format by name, and the choice of one by content."""

import itertools
from collections.abc import Callable, Iterator, Mapping

from raserec_jax.constants import FORMATS
from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.formats.delimited import (
    read_amazon_ratings,
    read_item_first,
    read_recbole,
    read_table,
    read_user_first,
)
from raserec_jax.data.formats.json_lines import read_json_lines
from raserec_jax.data.formats.parquet import read_parquet
from raserec_jax.data.formats.sequences import read_pairs, read_sequences
from raserec_jax.data.formats.sniffing import sniff
from raserec_jax.data.parquet_files import is_parquet
from raserec_jax.data.records.interactions import is_tfds, read_tfds
from raserec_jax.data.roles import nearest
from raserec_jax.data.sources import PathLike, TextBlock, text_blocks
from raserec_jax.errors import ConfigError

AUTO = "auto"
PARQUET = "parquet"
TFDS = "tfds"
_TEXT: dict[str, Callable[[PathLike, Iterator[TextBlock], Mapping[str, str]], Iterator[Chunk]]] = {
    "table": read_table,
    "recbole": read_recbole,
    "sequences": read_sequences,
    "pairs": read_pairs,
    "movielens_dat": read_user_first,
    "amazon_ratings": read_amazon_ratings,
    "ratings_user_item": read_user_first,
    "ratings_item_user": read_item_first,
    "json_lines": read_json_lines,
}


def check_format(name: str) -> None:
    """Checks the name of a format.

    Raises:
      ConfigError: there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(
            f"format {name!r:.80} is unknown; use {', '.join(FORMATS)}{nearest(name, FORMATS)}"
        )


def chunks_of(
    path: PathLike,
    format: str,
    columns: Mapping[str, str],
    tell: Callable[[int], object] | None = None,
) -> Iterator[Chunk]:
    """Reads a file of interactions piece by piece.

    Args:
      path: the file.
      format: of FORMATS.
      columns: role -> the file's name of it.
      tell: as `sources.text_blocks`; not called for Parquet and TFDS.

    Returns:
      An iterator over chunks of at least one row, one chunk or more, all with the same roles.

    Raises:
      DataError: what is wrong with the file; on the way.
    """
    if format == PARQUET or (format == AUTO and is_parquet(path)):
        yield from read_parquet(path, columns)
        return
    if format == TFDS or (format == AUTO and is_tfds(path)):
        yield from read_tfds(path, columns)
        return
    blocks = text_blocks(path, tell=tell)
    if format == AUTO:
        first = next(blocks)
        format = sniff(path, first, columns)
        blocks = itertools.chain([first], blocks)
    yield from _TEXT[format](path, blocks, columns)
