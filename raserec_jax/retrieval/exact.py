"""ExactIndex: the best rows by cosine, found by scoring all of them; the truth that other engines are measured by.

Sorting is what costs: `lax.top_k` over a bank's width takes several times the matmul. So the bank is cut into
blocks of BLOCK_ROWS rows and a query chunk is searched in three steps:

1. tile by tile: matmul, eligibility as a mask, and the best score of each block (fused; a tile stays in the cache);
2. the k best blocks, level by level: the best groups of groups of blocks, the best groups within these, the blocks;
3. top-k over the rows of those k blocks, scored again.

This is exact: a row outside the k best blocks has k rows before it, one in each of these; so has a block outside the
k best groups. Blocks hold rows that follow one another and every top-k prefers the lower index, so rows of equal score
come in the order of the bank.
Memory is query_chunk * bank_chunk / BLOCK_ROWS scores and one tile, never [queries, bank].

The keys of a bfloat16 bank stay in bfloat16, at half the bytes: a tile is widened when it is scored, so products and
sums are float32. Dividing by their lengths would round them again, so the scores are multiplied by one over it.

`search_chunk` is a pure function of a `_Shelves`, whose leading axis is made of independent pieces of the bank
(row ids are global): a mesh can hold a piece per device and merge with `_merge`.
"""

import copy
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from raserec_jax.constants import NO_ROW
from raserec_jax.retrieval.eligibility import Queries, check_times, checked_queries, may_see
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, masked

BLOCK_ROWS = 16
GROUP_BLOCKS = 16
# Rows per tile and queries per chunk: on a CPU, scores of a tile (1 MiB) that stay in the second-level cache;
# elsewhere, few large calls.
TILE_ROWS = {"cpu": 512, "other": 32_768}
QUERY_CHUNK = {"cpu": 512, "other": 2048}
_BANK_CHUNK = 2**20
# Chunks of queries in one device call.
_CALL_CHUNKS = 16
_SMALLEST_CHUNK = 8
_ROW_COLUMNS = ("user_ids", "lengths", "times", "exists", "scales")


class _Shelves(NamedTuple):
    """The bank as the search walks it: pieces > tiles > blocks > rows. Rows past the bank's end are not `exists`.

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


class ExactIndex:
    """Exact cosine search over one version of a bank.

    Attributes:
      bank: what is searched.
      eligibility: rule of `eligibility.RULES`, applied inside the search.
      build_s: seconds that building took.
    """

    def __init__(
        self,
        bank: MemoryBank,
        *,
        eligibility: str = "own_earlier",
        query_chunk: int | None = None,
        bank_chunk: int = _BANK_CHUNK,
        tile_rows: int | None = None,
    ):
        """Normalises the keys once and puts them on the device.

        Args:
          bank: any size.
          eligibility: which rows a query may see.
          query_chunk: queries per device call; default by backend.
          bank_chunk: rows between merges of the running top-k; bounds memory.
          tile_rows: rows scored at a time; default by backend.

        Raises:
          ConfigError: an unknown rule, or `before` for a bank without times.
        """
        check_times(eligibility, bank)
        start = time.perf_counter()
        backend = "cpu" if jax.default_backend() == "cpu" else "other"
        self.bank = bank
        self.eligibility = eligibility
        self._query_chunk = query_chunk or QUERY_CHUNK[backend]
        self._shelves = jax.block_until_ready(
            _shelve(bank, tile_rows or TILE_ROWS[backend], bank_chunk)
        )
        self.build_s = time.perf_counter() - start

    @property
    def shelves(self) -> _Shelves:
        """The bank as `search_chunk` takes it."""
        return self._shelves

    def hiding(self, hidden: Bool[np.ndarray, " rows"]) -> "ExactIndex":
        """The same index without the rows that are set; this one stays as it is, and shares the keys."""
        pieces, tiles, block_rows, blocks = self._shelves.exists.shape
        exists = _fill(~hidden, (pieces, tiles, blocks, block_rows)).swapaxes(2, 3)
        index = copy.copy(self)
        index._shelves = self._shelves._replace(exists=jnp.asarray(exists))
        return index

    def search(self, queries: Queries, k: int) -> Retrieved:
        """The k best rows that each query may see.

        Args:
          queries: any number, also none.
          k: 1..bank rows.

        Returns:
          Retrieved, [queries, k]; a shorter masked list where fewer rows may be seen.

        Raises:
          ConfigError: k outside 1..bank rows, or `before` for queries without times.
          DataError: queries of another dim, not finite, or of columns that disagree.
        """
        queries = checked_queries(self.eligibility, self.bank, queries, k)
        count = len(queries.vectors)
        queries = queries._replace(vectors=unit_rows(queries.vectors))
        chunk = _chunk_size(count, self._query_chunk)
        step = chunk * (1 if count <= chunk else _CALL_CHUNKS)
        found = [
            search_chunks(
                self._shelves,
                _padded(queries, start, step),
                min(step, count - start),
                chunk=chunk,
                k=k,
                rule=self.eligibility,
            )
            for start in range(0, count, step)
        ]
        if not found:
            found = [(np.zeros((0, k), np.float32), np.zeros((0, k), np.int32))]
        scores = np.concatenate([np.asarray(scores) for scores, _ in found])[:count]
        ids = np.concatenate([np.asarray(ids) for _, ids in found])[:count]
        return masked(ids, scores, ids != NO_ROW)


def unit_rows(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """[rows, dim] float32 scaled to length 1; zero vectors stay zero, so their cosine with anything is 0."""
    vectors = np.asarray(vectors, np.float32)
    # The largest entry first: squares of very large or small entries leave float32.
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = vectors / np.where(largest > 0, largest, 1)
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return scaled / np.where(lengths > 0, lengths, 1)


@functools.partial(jax.jit, static_argnames=("chunk", "k", "rule"))
def search_chunks(
    shelves: _Shelves, queries: Queries, count: int | Array, *, chunk: int, k: int, rule: str
) -> tuple[Float[Array, "queries top_k"], Int[Array, "queries top_k"]]:
    """`search_chunk` of the first `count` queries, `chunk` at a time; a multiple of it are given. One call for many
    chunks makes the scores' memory once: page faults of a call's own took a tenth of a large search on a CPU."""
    size = queries.vectors.shape[0]
    chunks = jax.tree.map(lambda column: column.reshape(-1, chunk, *column.shape[1:]), queries)

    def step(at, found):
        part = jax.tree.map(lambda column: column[at], chunks)
        best = search_chunk(shelves, part, k=k, rule=rule)
        return tuple(all_.at[at].set(one) for all_, one in zip(found, best, strict=True))

    shape = size // chunk, chunk, k
    nothing = jnp.zeros(shape), jnp.full(shape, NO_ROW, jnp.int32)
    found = lax.fori_loop(0, -(-count // chunk), step, nothing)
    return tuple(values.reshape(size, k) for values in found)


@functools.partial(jax.jit, static_argnames=("k", "rule"))
def search_chunk(
    shelves: _Shelves, queries: Queries, *, k: int, rule: str
) -> tuple[Float[Array, "queries top_k"], Int[Array, "queries top_k"]]:
    """The k best rows over all pieces: scores [queries, k] (-inf where none), ids [queries, k] (-1 where none)."""
    count = queries.vectors.shape[0]
    nothing = (jnp.full((count, k), -jnp.inf), jnp.full((count, k), NO_ROW, jnp.int32))

    def step(best, piece):
        return _merge(best, _search_piece(piece, queries, k, rule), k), None

    return lax.scan(step, nothing, shelves)[0]


def _merge(best: tuple[Array, Array], more: tuple[Array, Array], k: int) -> tuple[Array, Array]:
    """Top-k of two lists, the rows of `best` before those of `more`."""
    scores, ids = (jnp.concatenate(pair, axis=1) for pair in zip(best, more, strict=True))
    scores, slots = lax.top_k(scores, k)
    return scores, _pick(ids, slots)


def _search_piece(piece: _Shelves, queries: Queries, k: int, rule: str) -> tuple[Array, Array]:
    maxima = _block_maxima(piece, queries, rule)  # [blocks, queries]
    blocks = _best_blocks(maxima, k)  # [queries, best blocks], ascending
    scores = _block_scores(piece, queries, blocks, rule)  # [queries, best blocks, BLOCK_ROWS]
    count = scores.shape[0]
    scores, slots = lax.top_k(scores.reshape(count, -1), min(k, scores.shape[1] * BLOCK_ROWS))
    first = _pick(blocks, slots // BLOCK_ROWS) * BLOCK_ROWS
    ids = jnp.where(scores > -jnp.inf, piece.first_rows + first + slots % BLOCK_ROWS, NO_ROW)
    return scores, ids


def _block_maxima(piece: _Shelves, queries: Queries, rule: str) -> Array:
    """[blocks, queries]: the best score of each block among the rows that the query may see, -inf if none."""
    across = queries.vectors.T  # [dim, queries]

    def step(_, tile):
        _, tile_blocks, dim = tile.tile_keys.shape
        keys = tile.tile_keys.reshape(-1, dim).astype(across.dtype)
        scores = jnp.matmul(keys, across, precision=lax.Precision.HIGHEST)
        scores = scores.reshape(BLOCK_ROWS, tile_blocks, -1)
        if tile.scales is not None:
            scores *= tile.scales[..., None]
        # Unrolled: XLA's CPU backend vectorises this, but not one reduction over masked scores
        # (measured: the whole search 3 times slower).
        best = jnp.full(scores.shape[1:], -jnp.inf)
        for row in range(BLOCK_ROWS):
            best = _larger(best, jnp.where(_seen(rule, tile, row, queries), scores[row], -jnp.inf))
        return None, _without_negative_zero(best)

    tiles = piece._replace(block_keys=None, first_rows=None)
    maxima = lax.scan(step, None, tiles)[1]  # [tiles, tile blocks, queries]
    return maxima.reshape(-1, maxima.shape[-1])


def _group_maxima(values: Array) -> Array:
    """[many, queries] -> [many / GROUP_BLOCKS, queries]."""
    values = values.reshape(-1, GROUP_BLOCKS, values.shape[-1])
    return functools.reduce(_larger, (values[:, one] for one in range(GROUP_BLOCKS)))


def _larger(values: Array, others: Array) -> Array:
    """The larger of each two. No score is NaN; `jnp.maximum`, which passes NaN on, takes several instructions more."""
    return jnp.where(others > values, others, values)


def _best_blocks(maxima: Array, k: int) -> Array:
    """[queries, min(k, blocks)]: the blocks with the best maxima (on ties the first), in ascending order."""
    levels = [maxima]
    while len(levels[-1]) > k * GROUP_BLOCKS:
        missing = -len(levels[-1]) % GROUP_BLOCKS
        padded = jnp.pad(levels[-1], ((0, missing), (0, 0)), constant_values=-jnp.inf)
        levels.append(_group_maxima(padded))
    members = jnp.arange(GROUP_BLOCKS, dtype=jnp.int32)
    # From the highest level down: what is best lies in the groups that are best.
    count = maxima.shape[1]
    best = jnp.broadcast_to(jnp.arange(len(levels[-1]), dtype=jnp.int32), (count, len(levels[-1])))
    for level in reversed(levels):
        if level is not levels[-1]:
            best = best[:, :, None] * GROUP_BLOCKS + members[None, None]
            best = best.reshape(count, -1)
        if best.shape[1] > k:
            scores = level.at[best, jnp.arange(count)[:, None]].get(
                mode="fill", fill_value=-jnp.inf
            )
            best = jnp.sort(_pick(best, lax.top_k(scores, k)[1]), axis=1)
    return best


def _block_scores(piece: _Shelves, queries: Queries, blocks: Array, rule: str) -> Array:
    """[queries, best blocks, BLOCK_ROWS]: the rows of each query's best blocks scored again, -inf if not seen."""
    columns = {name: getattr(piece, name) for name in _ROW_COLUMNS}
    # [tiles, BLOCK_ROWS, tile blocks] -> [blocks, BLOCK_ROWS]
    by_block = {
        name: None if column is None else column.swapaxes(1, 2).reshape(-1, BLOCK_ROWS)
        for name, column in columns.items()
    }

    def step(_, block):  # [queries]: a block for each query
        keys = jnp.take(piece.block_keys, block, axis=0, mode="clip")  # [queries, dim, BLOCK_ROWS]
        scores = (keys.astype(queries.vectors.dtype) * queries.vectors[:, :, None]).sum(axis=1)
        rows = {
            name: None if column is None else jnp.take(column, block, axis=0, mode="clip")
            for name, column in by_block.items()
        }
        scales = rows.pop("scales")
        scores = scores if scales is None else scores * scales
        asking = (None if column is None else column[:, None] for column in queries[1:])
        seen = rows.pop("exists") & may_see(rule, *rows.values(), *asking)
        return None, jnp.where(seen, scores, -jnp.inf)

    scores = lax.scan(step, None, blocks.T)[1]
    return _without_negative_zero(scores.swapaxes(0, 1))


def _pick(values: Array, slots: Array) -> Array:
    """Row by row, the values at the slots; all slots exist."""
    return jnp.take_along_axis(values, slots, axis=1, mode="promise_in_bounds")


def _without_negative_zero(scores: Array) -> Array:
    """top_k puts -0.0 after 0.0, which would break the tie rule."""
    return jnp.where(scores == 0, 0.0, scores)


def _seen(rule: str, tile: _Shelves, row: int, queries: Queries) -> Array:
    """[tile blocks, queries]: may each query see that row of each block of the tile?"""
    columns = (tile.user_ids, tile.lengths, tile.times)
    columns = (None if column is None else column[row][:, None] for column in columns)
    asking = (None if column is None else column[None, :] for column in queries[1:])
    return tile.exists[row][:, None] & may_see(rule, *columns, *asking)


def _shelve(bank: MemoryBank, tile_rows: int, bank_chunk: int) -> _Shelves:
    """Cuts the bank into pieces of at most about `bank_chunk` rows, all alike; normalises the keys."""
    tiles = max(1, -(-bank.rows // tile_rows))
    pieces = min(tiles, max(1, -(-bank.rows // bank_chunk)))
    tiles = -(-tiles // pieces)
    # Just as many blocks per tile as the rows need, in whole groups: hardly any padding is scored.
    group_rows = BLOCK_ROWS * GROUP_BLOCKS
    tile_blocks = -(-max(bank.rows, 1) // (pieces * tiles * group_rows)) * GROUP_BLOCKS
    shape = (pieces, tiles, tile_blocks, BLOCK_ROWS)
    rows = int(np.prod(shape))
    keys, scales = _scaled_keys(bank.keys)
    keys = _fill(keys, shape)
    exists = (np.arange(rows) < bank.rows).reshape(shape)
    columns = dict.fromkeys(_ROW_COLUMNS)
    for name in ("user_ids", "lengths", "times"):
        if getattr(bank, name) is not None:
            columns[name] = jnp.asarray(_fill(getattr(bank, name), shape).swapaxes(2, 3))
    columns["exists"] = jnp.asarray(exists.swapaxes(2, 3))
    if scales is not None:
        columns["scales"] = jnp.asarray(_fill(scales, shape).swapaxes(2, 3))
    return _Shelves(
        tile_keys=jnp.asarray(keys.swapaxes(2, 3)),
        block_keys=jnp.asarray(keys.reshape(pieces, -1, BLOCK_ROWS, bank.dim).swapaxes(2, 3)),
        **columns,
        first_rows=jnp.asarray(np.arange(pieces) * (rows // pieces), jnp.int32),
    )


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


def _fill(column: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[rows, ...] -> [*shape, ...], zeros after the last row."""
    filled = np.zeros((int(np.prod(shape)), *column.shape[1:]), column.dtype)
    filled[: len(column)] = column
    return filled.reshape(*shape, *column.shape[1:])


def _chunk_size(count: int, largest: int) -> int:
    """Queries per device call: a power of 4 times the smallest that takes them all, so few sizes are compiled."""
    size = min(_SMALLEST_CHUNK, largest)
    while size < min(count, largest):
        size = min(size * 4, largest)
    return size


def _padded(queries: Queries, start: int, chunk: int) -> Queries:
    """`chunk` queries from `start`, filled up with zeros."""

    def cut(column):
        padded = np.zeros((chunk, *column.shape[1:]), column.dtype)
        part = column[start : start + chunk]
        padded[: len(part)] = part
        return padded

    return Queries(*(None if column is None else cut(column) for column in queries))
