"""The formats of files of interactions: from text blocks to `Chunk`s of columns; `sniffing` chooses by content."""

from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.formats.registry import AUTO, PARQUET, check_format, chunks_of

__all__ = ["AUTO", "PARQUET", "Chunk", "check_format", "chunks_of"]
