"""How users score items, block by block: [user_chunk, item_chunk] scores at a time, never [users, items].

`ranking` counts in these blocks, `top_items` lists the best of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from raserec_jax.constants import PAD_ID

# Users and items of a block of scores. A catalogue that fits into one chunk needs its matmul only once. On a CPU twice
# as many users take a third longer, and half as many gain nothing.
USER_CHUNK = {"cpu": 256, "other": 512}
ITEM_CHUNK = 16_384
ITEM_MULTIPLE = 128  # whole multiples, so that every column goes through the same inner kernel
_USER_MULTIPLE = 8


class Scores(NamedTuple):
    """How each user scores every item, without the scores themselves.

    Without `mix`: score of item i = query . item_table[i].
    With `repeat_bias`: that much more for the items in repeat_ids.
    With `mix`: (1 - mix) * softmax over items 1..V (that score)_i + mix * (sum of
    sparse_mass where sparse_ids == i). In float32, so items whose probability underflows tie.

    Fields:
      query: [users, dim] float.
      sparse_ids: [users, entries] int, item ids; 0 and -1 are no entry; ids may repeat in a row.
      sparse_mass: [users, entries] float, >= 0.
      mix: weight of the sparse part in [0, 1]; a traced value is fine, so that a grid compiles
        once.
      repeat_ids: [users, entries] int, items of the history, distinct in a row; 0 and -1 are no entry.
      repeat_bias: scalar; None = no bias.
    """

    query: Array | np.ndarray
    sparse_ids: Array | np.ndarray | None = None
    sparse_mass: Array | np.ndarray | None = None
    mix: float | Array | np.ndarray | None = None
    repeat_ids: Array | np.ndarray | None = None
    repeat_bias: float | Array | np.ndarray | None = None

    def by_user(self) -> "Scores":
        """Without the scalars: every field left has a row per user."""
        return self._replace(mix=None, repeat_bias=None)


class Catalogue(NamedTuple):
    """The items to score: all of them, or the consecutive ones that a device of a mesh has.

    chunks: [chunks, width, dim] float32 rows of the item table.  rows: how many of them count; what fills the last
    chunk does not.  first_id: of the first row.  num_items: of the whole catalogue.
    axis: of the mesh, over which the rest of it lies; None = all is here.
    """

    chunks: Array
    rows: int
    first_id: int | Array
    num_items: int
    axis: str | None

    @property
    def numbers(self) -> Array:
        """Of the chunks, to scan over."""
        return jnp.arange(self.chunks.shape[0], dtype=jnp.int32)

    @property
    def width(self) -> int:
        """Columns of a chunk."""
        return self.chunks.shape[1]

    def is_item(self, chunk: Array) -> Array:
        """[width] bool: which columns of a chunk are items 1..V: not row 0, nor what fills the last."""
        rows = chunk * self.width + jnp.arange(self.width)
        item_ids = self.first_id + rows
        return (item_ids != PAD_ID) & (item_ids <= self.num_items) & (rows < self.rows)

    def columns(self, item_ids: Array, chunk: Array) -> Array:
        """The column of each item in a chunk, of any shape; the width itself where it is no item of that chunk."""
        rows = item_ids - self.first_id
        column = rows - chunk * self.width
        inside = (item_ids > PAD_ID) & (rows >= 0) & (rows < self.rows)
        inside &= (column >= 0) & (column < self.width)
        return jnp.where(inside, column, self.width)


def catalogue_of(
    item_table: Float[Array | np.ndarray, "rows dim"],
    item_chunk: int,
    *,
    first_id: int | Array = 0,
    num_items: int | None = None,
    axis: str | None = None,
) -> Catalogue:
    """Rows of the item table in float32, padded with zero rows and cut into chunks of equal width.

    Args:
      first_id, num_items, axis: of a device's part, as in Catalogue; default: the table is all there is.
    """
    table = jnp.asarray(item_table, jnp.float32)
    rows = table.shape[0]
    width = _round_up(min(item_chunk, rows), ITEM_MULTIPLE)
    chunks = _pad_rows(table, width).reshape(-1, width, table.shape[1])
    return Catalogue(chunks, rows, first_id, rows - 1 if num_items is None else num_items, axis)


def block_scorer(
    scores: Scores, catalogue: Catalogue, *, items_first: bool = False
) -> Callable[[Array], Array]:
    """chunk -> its [users, width] float32 scores; columns that are no item hold anything.

    With `items_first` they come as [width, users]: to count over items is twice as fast that way on a CPU, whose
    vectors then hold users.

    Equal calls give equal bits: the barriers keep the compiler from fusing the matmul (or the
    softmax) with what follows, which may be one thing in the first pass and another in the second.
    """
    query = jnp.asarray(scores.query, jnp.float32)
    users = jnp.arange(query.shape[0])

    def add_at(block, item_ids, values, chunk):
        """Values added at [users, entries] items; those of other chunks are dropped."""
        columns = catalogue.columns(item_ids, chunk)
        places = (columns, users[:, None]) if items_first else (users[:, None], columns)
        return block.at[places].add(values, mode="drop")

    def logits_of(chunk):
        # HIGHEST: accelerators would round float32 inputs to bfloat16 or TF32 and make ties.
        rows = catalogue.chunks[chunk]
        one, other = (rows, query) if items_first else (query, rows)
        logits = jnp.einsum("ad,bd->ab", one, other, precision=lax.Precision.HIGHEST)
        if scores.repeat_bias is not None:
            logits = add_at(logits, scores.repeat_ids, scores.repeat_bias, chunk)
        return lax.optimization_barrier(logits)

    if scores.mix is None:
        return logits_of
    # The sum of the exponentials has an order, and so last bits, of its own in every cut of the catalogue.
    assert catalogue.axis is None, "mixed scores need the whole catalogue"
    mix = jnp.asarray(scores.mix, jnp.float32)
    item_axis = 0 if items_first else 1
    log_norm = jnp.expand_dims(
        _log_norm(logits_of, catalogue, query.shape[0], item_axis), item_axis
    )

    def mixed_of(chunk):
        block = (1.0 - mix) * jnp.exp(logits_of(chunk) - log_norm)
        mixed = add_at(block, scores.sparse_ids, mix * scores.sparse_mass, chunk)
        return lax.optimization_barrier(mixed)

    return mixed_of


def _log_norm(logits_of, catalogue, num_users, axis):
    """log sum exp of the logits over items 1..V, which lie along `axis`, chunk by chunk with a running maximum."""

    def step(carry, chunk):
        high, total = carry
        is_item = jnp.expand_dims(catalogue.is_item(chunk), 1 - axis)
        block = jnp.where(is_item, logits_of(chunk), -jnp.inf)
        new_high = jnp.maximum(high, jnp.max(block, axis=axis))
        sums = jnp.sum(jnp.exp(block - jnp.expand_dims(new_high, axis)), axis=axis)
        return (new_high, total * jnp.exp(high - new_high) + sums), None

    # A finite start: -inf minus -inf would be NaN in a chunk that holds no item.
    start = (jnp.full(num_users, jnp.finfo(jnp.float32).min), jnp.zeros(num_users))
    (high, total), _ = lax.scan(step, start, catalogue.numbers)
    return high + jnp.log(total)


def default_user_chunk() -> int:
    """Users of a block of scores on this backend."""
    return USER_CHUNK["cpu" if jax.default_backend() == "cpu" else "other"]


def map_users(fn, scores: Scores, extra, user_chunk: int | None):
    """fn((Scores, extra) of a chunk) -> arrays by user; chunk after chunk, results joined.

    Args:
      user_chunk: None = by the backend.
    """
    num_users = scores.query.shape[0]
    chunk = min(user_chunk or default_user_chunk(), _round_up(num_users, _USER_MULTIPLE))

    def cut(array):
        array = jnp.asarray(array)
        return _pad_rows(array, chunk).reshape(-1, chunk, *array.shape[1:])

    scalars = {"mix": scores.mix, "repeat_bias": scores.repeat_bias}
    rows = jax.tree.map(cut, (scores.by_user(), extra))
    results = lax.map(lambda row: fn((row[0]._replace(**scalars), row[1])), rows)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num_users], results)


def check_scores(scores: Scores, item_table: Array | np.ndarray) -> None:
    """Raises ValueError where the parts of `scores` do not fit one another or the table."""
    users, dim = scores.query.shape
    if item_table.shape[1] != dim or item_table.shape[0] < 2:
        raise ValueError(
            f"item_table has shape {item_table.shape} and the queries have width {dim}; expected "
            f"(items + 1, {dim}) with at least one item"
        )
    if (scores.repeat_bias is None) != (scores.repeat_ids is None):
        raise ValueError("repeat_ids and repeat_bias belong together; give both or neither")
    if scores.repeat_ids is not None and scores.repeat_ids.shape[:-1] != (users,):
        raise ValueError(
            f"repeat_ids has shape {scores.repeat_ids.shape}; expected ({users}, entries)"
        )
    shapes = [getattr(part, "shape", None) for part in (scores.sparse_ids, scores.sparse_mass)]
    if scores.mix is None:
        if shapes != [None, None]:
            raise ValueError("sparse_ids or sparse_mass without mix would be ignored; give mix too")
    elif shapes[0] != shapes[1] or shapes[0] is None or shapes[0][:-1] != (users,):
        raise ValueError(
            f"mix needs sparse_ids and sparse_mass of one shape ({users}, entries); got "
            f"{shapes[0]} and {shapes[1]}"
        )


def _pad_rows(array, multiple: int):
    short = -array.shape[0] % multiple
    return jnp.pad(array, [(0, short)] + [(0, 0)] * (array.ndim - 1))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
