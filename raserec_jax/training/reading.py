"""The reader of a configuration, and what it makes of queries and their neighbours."""

import jax
import jax.numpy as jnp

from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.finetune_objective import read_memories
from raserec_jax.training.remembering import Part


def make_reader(config) -> MemoryReader:
    """The reader that `config.reader` describes."""
    return MemoryReader(**config.reader)


def augmented_query(
    reader: MemoryReader, params: dict, part: Part, bank: MemoryBank, item_table, top_k: int
) -> jax.Array:
    """User vectors of a part after reading their memories, in blocks; [queries, dim]."""
    return _read_blocks(
        reader,
        params,
        part.query,
        part.retrieved.ids[:, :top_k],
        jnp.asarray(bank.keys),
        jnp.asarray(bank.target_ids),
        item_table,
    )


def _read_blocks(reader, params, query, ids, keys, target_ids, item_table, block: int = 1024):
    count = query.shape[0]
    missing = -count % block

    def one(rows):
        return read_memories(reader, params, *rows, keys, target_ids, item_table)

    rows = (
        jnp.pad(query, ((0, missing), (0, 0))).reshape(-1, block, query.shape[1]),
        jnp.pad(ids, ((0, missing), (0, 0)), constant_values=-1).reshape(-1, block, ids.shape[1]),
    )
    return jax.lax.map(one, rows).reshape(-1, query.shape[1])[:count]


_read_blocks = jax.jit(_read_blocks, static_argnames=("reader", "block"))


def reader_shapes(reader: MemoryReader, dim: int) -> dict:
    """Shapes of the reader's parameters; {} for one without any (the plain mean)."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, dim), (1, 1, dim), (1, 1, dim))]
    return jax.eval_shape(lambda *x: reader.init(jax.random.key(0), *x), *shapes).get("params", {})
