"""What a computation needs: products, exponentials, bytes. Counted by hand, from shapes; nothing is measured here.

| what | products, FLOP = 2 m k n each | exponentials | bytes at least |
|---|---|---|---|
| encoder, P places in rows of L, per layer | P d (4 d + 2 inner) + 2 P L d | P (heads L + inner) | activations |
| the same, forward and backward | 3 x | 2 x | activations written and read |
| full softmax, B targets, V items | forward B d V, backward 2 B d V | 2 B V | table and its gradient |
| ... recomputed in the backward pass | B d V | | |
| sampled softmax, N negatives | 3 B d N | 2 B N | 6 d for each row touched: it and two moments, read and written |
| Adam on p parameters | | | 8 p values: parameter, gradient, two moments |
| exact search, Q queries, M rows | Q d M | | keys once per chunk of queries |
| ranks, U users, V items | U d V, twice if the catalogue takes several chunks | | scores compared once, in a pass |
| memory reader, B queries, K memories | below | B heads K x 4 | memories gathered: 2 B K d |

The last block of a pass works on the places that are read only, behind its attention. LayerNorm, dropout, gathers and
sorting are not counted: what they take shows as a share that is missing. An erf (GELU) counts as an exponential.
"""

from collections.abc import Sequence
from typing import NamedTuple

FLOAT_BYTES = 4


class Product(NamedTuple):
    """`times` products [batch, m, k] x [batch, k, n]; exact: all bits of float32, also where a device would round."""

    m: int
    k: int
    n: int
    times: float = 1.0
    batch: int = 1
    exact: bool = False

    @property
    def flops(self) -> float:
        return 2.0 * self.batch * self.m * self.k * self.n * self.times

    @property
    def shape(self) -> tuple[int, int, int, int, bool]:
        return self.batch, self.m, self.k, self.n, self.exact


class Pass(NamedTuple):
    """`times` passes over [rows, columns] that come between products.

    what: "compare" counts, row by row, the scores not below a threshold; "softmax" and "layer_norm" are those of the
    rows, "gelu" of the entries.
    """

    what: str
    rows: int
    columns: int
    times: float = 1.0

    @property
    def count(self) -> float:
        return self.rows * self.columns * self.times

    @property
    def shape(self) -> tuple[str, int, int]:
        return self.what, self.rows, self.columns


class Work(NamedTuple):
    """products: that any implementation must do.  recomputed: done again to save memory.  exps: exponentials.
    bytes: that must come from or go to memory.  passes: between products; they hold exponentials that are counted too.
    """

    products: tuple[Product, ...] = ()
    recomputed: tuple[Product, ...] = ()
    exps: float = 0.0
    bytes: float = 0.0
    passes: tuple[Pass, ...] = ()

    @property
    def flops(self) -> float:
        return sum(one.flops for one in self.products)

    def times(self, factor: int | float) -> "Work":
        """So many times this work."""

        def more(many):
            return tuple(one._replace(times=one.times * factor) for one in many)

        return Work(
            more(self.products),
            more(self.recomputed),
            self.exps * factor,
            self.bytes * factor,
            more(self.passes),
        )


def total(works: Sequence[Work]) -> Work:
    """All of them, one after the other."""
    return Work(
        tuple(one for work in works for one in work.products),
        tuple(one for work in works for one in work.recomputed),
        sum(work.exps for work in works),
        sum(work.bytes for work in works),
        tuple(one for work in works for one in work.passes),
    )


def encoder_work(
    *,
    rows: int,
    seq: int,
    dim: int,
    inner_dim: int,
    num_layers: int,
    num_heads: int,
    reads: int | None = None,
    backward: bool = False,
) -> Work:
    """A pass over [rows, seq] places of which `reads` are returned (None: all).

    Softmax, GELU and LayerNorm are given as passes forward only: backward they are other ones.
    """
    places, head_dim = rows * seq, dim // num_heads
    factor = 3 if backward else 1
    products, exps, activations = [], 0.0, 0.0
    between = [Pass("layer_norm", places, dim)]
    for layer in range(num_layers):
        behind = places if reads is None or layer < num_layers - 1 else reads
        products += [
            Product(places, dim, dim, 3 * factor),
            Product(seq, head_dim, seq, factor, rows * num_heads),
            Product(seq, seq, head_dim, factor, rows * num_heads),
            Product(places, dim, dim, factor * behind / places),
            Product(places, dim, inner_dim, factor * behind / places),
            Product(places, inner_dim, dim, factor * behind / places),
        ]
        between += [
            Pass("softmax", places * num_heads, seq),
            Pass("gelu", places, inner_dim, behind / places),
            Pass("layer_norm", places, dim, 2 * behind / places),
        ]
        exps += places * num_heads * seq + behind * inner_dim
        # query, key, value, weights; behind: sum, norm, inner twice, sum, norm
        activations += places * (3 * dim + num_heads * seq) + behind * (4 * dim + 2 * inner_dim)
    passes = 3 if backward else 1  # written; read and the gradient of it written
    return Work(
        tuple(products),
        (),
        exps * (2 if backward else 1),
        FLOAT_BYTES * activations * passes,
        () if backward else tuple(between),
    )


def full_softmax_work(
    *, targets: int, items: int, dim: int, chunk: int, kept: bool = False
) -> Work:
    """Loss and gradient of the cross-entropy over the catalogue, in chunks of items; kept: no logits made again."""
    pieces = items / chunk
    logits = Product(targets, dim, chunk, pieces)
    backward = (Product(targets, chunk, dim, pieces), Product(dim, targets, chunk, pieces))
    # The table is read forward and backward, its gradient written.
    again = () if kept else (logits,)
    return Work((logits, *backward), again, 2.0 * targets * items, 3.0 * items * dim * FLOAT_BYTES)


def sampled_softmax_work(*, targets: int, negatives: int, touched: int, dim: int) -> Work:
    """Loss and gradient of a sampled softmax, and the sparse update of the rows that the step touches."""
    products = (
        Product(targets, dim, negatives),
        Product(targets, negatives, dim),
        Product(dim, targets, negatives),
    )
    return Work(products, (), 2.0 * targets * negatives, 6.0 * touched * dim * FLOAT_BYTES)


def adam_work(parameters: int) -> Work:
    """A dense update."""
    return Work(bytes=8.0 * parameters * FLOAT_BYTES)


def search_work(*, queries: int, bank: int, dim: int, tile: int, query_chunk: int) -> Work:
    """Every query against every row, in tiles of rows and chunks of queries."""
    query_chunk, tile = min(query_chunk, queries), min(tile, bank)
    chunks = queries / query_chunk
    product = Product(tile, dim, query_chunk, chunks * bank / tile, exact=True)
    return Work((product,), bytes=chunks * bank * dim * FLOAT_BYTES)


def rank_work(*, users: int, items: int, dim: int, user_chunk: int, item_chunk: int) -> Work:
    """The rank of every user's target, counted."""
    passes = 1 if items + 1 <= item_chunk else 2
    width, user_chunk = min(items, item_chunk), min(users, user_chunk)
    times = (users / user_chunk) * (items / width)
    product = Product(user_chunk, dim, width, passes * times, exact=True)
    return Work((product,), passes=(Pass("compare", user_chunk, width, times),))


def reader_work(
    *, batch: int, top_k: int, dim: int, inner_dim: int, num_heads: int, backward: bool = True
) -> Work:
    """The memory reader: two channels, each attends, goes through a feed-forward layer and attends again."""
    factor, channels, attends = 3 if backward else 1, 2, 2
    head_dim = dim // num_heads
    each = factor * channels * attends
    products = (
        Product(batch, dim, dim, 2 * each),  # query and output
        Product(batch, head_dim, dim, 2 * each * num_heads),  # key side and value side
        Product(num_heads, dim, top_k, each, batch),
        Product(num_heads, top_k, dim, each, batch),
        Product(batch, dim, inner_dim, factor * channels),
        Product(batch, inner_dim, dim, factor * channels),
    )
    exps = channels * batch * (attends * num_heads * top_k + inner_dim)
    gathered = 2.0 * batch * top_k * dim * FLOAT_BYTES
    return Work(products, (), exps * (2 if backward else 1), gathered * (2 if backward else 1))
