"""Files that list original ids, one per line."""

import itertools

from raserec_jax.data.sources import PathLike, text_blocks


def read_ids(path: PathLike) -> list[str]:
    """The ids of a text file, gzipped or not, in its order, without blanks around them; empty lines are skipped.

    Raises:
      DataError: the file is missing, empty, or no text.
    """
    blocks = text_blocks(path, expected="one id per line; leave the list out if there is none")
    lines = (block.content.decode("utf-8").split("\n") for block in blocks)
    return [line.strip() for line in itertools.chain.from_iterable(lines) if line.strip()]
