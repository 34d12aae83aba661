"""The reader of a configuration, and what it makes of queries and their neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from raserec_jax.mesh import MEMORY_ROWS, REPLICATED, placed, put_everywhere, put_made
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.finetune_objective import read_memories
from raserec_jax.training.remembering import Part

# Queries that are read together; a device of a mesh takes as many, as products of other shapes may round otherwise.
_BLOCK = 1024


def make_reader(config) -> MemoryReader:
    """The reader that `config.reader` describes."""
    return MemoryReader(**config.reader)


def augmented_query(
    reader: MemoryReader,
    params: dict,
    part: Part,
    bank: MemoryBank,
    item_table,
    top_k: int,
    mesh: Mesh | None = None,
) -> jax.Array | np.ndarray:
    """User vectors of a part after reading their memories, in blocks; [queries, dim].

    Args:
      mesh: the queries lie over all its devices, with the same vectors, on the host; None = one device. Memories are
        then looked up on the host, of each process those of its own queries: neither bank nor items go to a device.
    """
    ids = part.retrieved.ids[:, :top_k]
    if mesh is not None:
        return _read_over(mesh, reader, params, part.query, ids, bank, item_table)
    return _read_blocks(
        reader,
        params,
        part.query,
        ids,
        jnp.asarray(bank.keys),
        jnp.asarray(bank.target_ids),
        item_table,
    )


def looked_up(bank: MemoryBank, item_table: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, ...]:
    """(keys [..., dim], vectors of what followed [..., dim], mask) of rows of the bank, on the host; -1 = none."""
    rows = np.maximum(ids, 0)
    return bank.keys[rows], item_table[bank.target_ids[rows]], ids >= 0


def _read_blocks(reader, params, query, ids, keys, target_ids, item_table, block: int = _BLOCK):
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


def _read_over(mesh: Mesh, reader, params, query, ids, bank: MemoryBank, item_table) -> np.ndarray:
    query, ids, item_table = (np.asarray(one) for one in (query, ids, item_table))
    count, step, params = len(query), _BLOCK * mesh.size, put_everywhere(mesh, params)
    read = np.empty_like(query)
    for start in range(0, count, step):
        own = slice(start, min(start + step, count))
        missing = step - (own.stop - start)
        vectors = np.pad(query[own], ((0, missing), (0, 0)))
        rows = np.pad(ids[own], ((0, missing), (0, 0)), constant_values=-1)

        def of_device(some, vectors=vectors, rows=rows):
            return vectors[some], *looked_up(bank, item_table, rows[some])

        given = put_made(mesh, MEMORY_ROWS, step, of_device)
        read[own] = np.asarray(_read_parts(reader, params, given, mesh=mesh))[: count - start]
    return read


@functools.partial(jax.jit, static_argnames=("reader", "mesh"))
def _read_parts(reader, params, given, *, mesh):
    """[queries, dim] on every device, of what `looked_up` gives each device."""

    def of_device(params, query, keys, values, mask):
        return reader.apply({"params": params}, query, keys, values, mask)

    # check_vma off: Flax's modules begin with constants, which are alike everywhere.
    read = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(REPLICATED, *(MEMORY_ROWS for _ in given)),
        out_specs=MEMORY_ROWS,
        check_vma=False,
    )(params, *given)
    return lax.with_sharding_constraint(read, placed(mesh, REPLICATED))


def reader_shapes(reader: MemoryReader, dim: int) -> dict:
    """Shapes of the reader's parameters; {} for one without any (the plain mean)."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, dim), (1, 1, dim), (1, 1, dim))]
    return jax.eval_shape(lambda *x: reader.init(jax.random.key(0), *x), *shapes).get("params", {})
