"""The formats of files of interactions: from text blocks to `Chunk`s of columns; `sniffing` chooses by content."""

from raserec_jax.data.formats.chunks import Chunk
from raserec_jax.data.formats.registry import AUTO, FORMATS, PARQUET, check_format, chunks_of

__all__ = ["AUTO", "FORMATS", "PARQUET", "Chunk", "check_format", "chunks_of"]
