"""How the keys of a bank lie on the devices for exact search: cut into parts, pieces, tiles and blocks.

A device holds a part: rows that follow one another, as many as every other device, give or take one. So the parts of
a mesh, one after the other, are the bank in its order, and a bank that has grown is balanced again when it is laid out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from raserec_jax.mesh import MEMORY_ROWS, put
from raserec_jax.retrieval.eligibility import Queries, may_see
from raserec_jax.retrieval.memory_bank import MemoryBank

BLOCK_ROWS = 16
GROUP_BLOCKS = 16
ROW_COLUMNS = ("user_ids", "lengths", "times", "exists", "scales")


class Shelves(NamedTuple):
    """The bank as the search walks it: pieces > tiles > blocks > rows. Rows past a part's end are not `exists`.

    tile_keys: [pieces, tiles, BLOCK_ROWS, tile blocks, dim] unit vectors, float32, or bfloat16 ones of any length:
    the rows of a block are a tile's blocks apart, so that the best of each block is an elementwise maximum over
    contiguous scores;
    block_keys: [pieces, blocks, dim, BLOCK_ROWS], the same, to be gathered by block;
    user_ids, lengths, times, exists, scales: [pieces, tiles, BLOCK_ROWS, tile blocks]; times None if the bank has
    none, scales (one over the key's length, 0 for a zero key) None for unit vectors;
    first_rows: [pieces], global id of each piece's first row.
    """

    tile_keys: Array
    block_keys: Array
    user_ids: Array
    lengths: Array
    times: Array | None
    exists: Array
    scales: Array | None
    first_rows: Array


class Layout(NamedTuple):
    """rows: of the bank.  parts: one for each device.  pieces: of a part; tiles: of a piece; blocks: of a tile.
    mesh: where the parts lie; None = the default device has all.
    """

    rows: int
    parts: int
    pieces: int
    tiles: int
    blocks: int
    mesh: Mesh | None

    @property
    def starts(self) -> np.ndarray:
        """[parts + 1] rows: where each part begins, and the end."""
        return np.arange(self.parts + 1) * self.rows // self.parts

    def placed(self, array: np.ndarray) -> Array:
        """[parts * pieces, ...] on its devices."""
        return jnp.asarray(array) if self.mesh is None else put(self.mesh, MEMORY_ROWS, array)

    def by_tile(self, column: np.ndarray) -> Array:
        """[rows] -> [pieces of all parts, tiles, BLOCK_ROWS, blocks] on their devices."""
        return self.placed(self.filled(column).swapaxes(2, 3))

    def filled(self, column: np.ndarray) -> np.ndarray:
        """[rows, ...] -> [pieces of all parts, tiles, blocks, BLOCK_ROWS, ...], zeros after the last row of a part."""
        part_rows = self.pieces * self.tiles * self.blocks * BLOCK_ROWS
        filled = np.zeros((self.parts, part_rows, *column.shape[1:]), column.dtype)
        starts = self.starts
        for part, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
            filled[part, : stop - start] = column[start:stop]
        shape = (self.parts * self.pieces, self.tiles, self.blocks, BLOCK_ROWS)
        return filled.reshape(*shape, *column.shape[1:])

    def first_rows(self) -> np.ndarray:
        """[pieces of all parts] int32, the row of the bank that each begins with."""
        piece_rows = self.tiles * self.blocks * BLOCK_ROWS
        within = np.arange(self.pieces) * piece_rows
        return (self.starts[:-1, None] + within[None]).reshape(-1).astype(np.int32)


def layout_of(
    rows: int, tile_rows: int, bank_chunk: int, mesh: Mesh | None = None, capacity: int = 0
) -> Layout:
    """The layout of a bank: pieces of at most about `bank_chunk` rows, tiles of about `tile_rows`, all alike.

    Args:
      capacity: sizes are chosen for so many rows where that is more, so that they stay while a bank grows.
    """
    parts = 1 if mesh is None else mesh.size
    part_rows = -(-max(rows, capacity, 1) // parts)
    tiles = -(-part_rows // tile_rows)
    pieces = min(tiles, -(-part_rows // bank_chunk))
    tiles = -(-tiles // pieces)
    # Just as many blocks per tile as the rows need, in whole groups: hardly any padding is scored.
    group_rows = BLOCK_ROWS * GROUP_BLOCKS
    blocks = -(-part_rows // (pieces * tiles * group_rows)) * GROUP_BLOCKS
    return Layout(rows, parts, pieces, tiles, blocks, mesh)


def shelve(bank: MemoryBank, layout: Layout) -> Shelves:
    """The bank on the devices, its keys normalised."""
    keys, scales = _scaled_keys(bank.keys)
    keys = layout.filled(keys)
    columns = {
        name: None if getattr(bank, name) is None else layout.by_tile(getattr(bank, name))
        for name in ("user_ids", "lengths", "times")
    }
    block_keys = keys.reshape(len(keys), -1, BLOCK_ROWS, bank.dim).swapaxes(2, 3)
    return jax.block_until_ready(
        Shelves(
            tile_keys=layout.placed(keys.swapaxes(2, 3)),
            block_keys=layout.placed(block_keys),
            **columns,
            exists=layout.by_tile(np.ones(bank.rows, bool)),
            scales=None if scales is None else layout.by_tile(scales),
            first_rows=layout.placed(layout.first_rows()),
        )
    )


def without(shelves: Shelves, layout: Layout, hidden: Bool[np.ndarray, " rows"]) -> Shelves:
    """The shelves without the rows that are set; the keys are shared."""
    return shelves._replace(exists=layout.by_tile(~hidden))


def seen_rows(rule: str, tile: Shelves, row: int | slice, queries: Queries) -> Array:
    """[..., tile blocks, queries] bool: may each query see that row (or those rows) of each block of the tile?"""
    columns = (tile.user_ids, tile.lengths, tile.times)
    columns = (None if column is None else column[row][..., None] for column in columns)
    exists = tile.exists[row][..., None]
    ahead = (None,) * (exists.ndim - 1)
    asking = (None if column is None else column[ahead] for column in queries[1:])
    return exists & may_see(rule, *columns, *asking)


def unit_rows(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """[rows, dim] float32 scaled to length 1; zero vectors stay zero, so their cosine with anything is 0."""
    vectors = np.asarray(vectors, np.float32)
    # The largest entry first: squares of very large or small entries leave float32.
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = vectors / np.where(largest > 0, largest, 1)
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return scaled / np.where(lengths > 0, lengths, 1)


def _scaled_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Unit float32 keys; or bfloat16 keys as they are but for a power of two, and one over the length of each."""
    if keys.dtype == np.float32:
        return unit_rows(keys), None
    exponents = np.frexp(np.abs(keys.astype(np.float32)).max(axis=1, initial=0))[1]
    scaled = np.ldexp(
        keys.astype(np.float32), -exponents[:, None]
    )  # entries below 1: no square overflows
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    return scaled.astype(keys.dtype), np.where(
        lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0
    )
