"""Rows about the memory: building the bank, searching it exactly and with ScaNN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.contest import Contestant, Line
from raserec_jax.benchmarks.counting import FLOAT_BYTES, encoder_work, search_work
from raserec_jax.benchmarks.generated import clustered_vectors
from raserec_jax.benchmarks.machine import free_bytes
from raserec_jax.encoding import (
    ROWS_PER_BLOCK,
    encode_blocks,
    example_encoder,
    example_rows,
)
from raserec_jax.errors import ConfigError
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.exact import QUERY_CHUNK, TILE_ROWS, ExactIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.scann_index import ScannIndex, import_scann
from raserec_jax.retrieval.searcher import recall_against_exact
from raserec_jax.training.pretraining import make_encoder
from raserec_jax.training.remembering import build_bank, example_queries

_SCANN_COPIES = 7
"""Of the keys, at most: the bank's, exact search's two and those it is made from, ScaNN's."""


def encoded(bench: Bench):
    """(config, params, vectors of all training prefixes, the examples) of an encoder that was not trained."""
    config = bench.config()
    encoder = make_encoder(config, bench.split.log.num_items)
    params = jax.jit(encoder.init)(jax.random.key(bench.seed), jnp.ones((1, 2), jnp.int32))
    long_history = config.pretrain.batching.long_history
    encode, examples = example_encoder(encoder, bench.split, long_history=long_history)
    return config, params["params"], encode, examples


def bank(bench: Bench) -> list[Line]:
    """Every training prefix encoded in one pass over users, and the bank on the host."""
    config, params, encode, examples = encoded(bench)
    encoder, sizes = make_encoder(config, bench.split.log.num_items), config.encoder
    rows = example_rows(
        bench.split,
        examples,
        max_len=sizes.max_len,
        long_history=config.pretrain.batching.long_history,
    )
    count, seq = rows.token_places.shape
    block = min(ROWS_PER_BLOCK, count)
    work = encoder_work(
        rows=block,
        seq=seq,
        dim=sizes.dim,
        inner_dim=sizes.inner_dim,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
    ).times(count / block)
    placed = jax.tree.map(jnp.asarray, (bench.split.log.item_ids, rows))
    temp = (
        encode_blocks.lower(encoder, params, *placed, rows_per_block=ROWS_PER_BLOCK)
        .compile()
        .memory_analysis()
    )
    entries = len(examples.lengths)
    contestants = [
        Contestant(
            "one pass over users",
            lambda: build_bank(config, bench.split, encode(params), examples).keys,
            entries,
            work,
            temp and int(temp.temp_size_in_bytes),
            "packed before; copied to the host and checked",
        )
    ]
    lines = bench.measure(
        "bank", f"{bench.size_words()}, {entries:,} entries", "entries", contestants
    )
    return [line._replace(whole_s=line.seconds) for line in lines]


def search_bank(bench: Bench) -> list[Line]:
    """The data's bank against itself, each query seeing what it may."""
    config, params, encode, examples = encoded(bench)
    query = encode(params)
    own = build_bank(config, bench.split, query, examples)
    queries = example_queries(query, examples, bench.split)
    asked = bench.sizes.bank_queries or own.rows
    lines = _search(
        bench, "search_bank", own, queries, min(asked, own.rows), config.memory.top_k, "own_earlier"
    )
    return [line._replace(whole_s=own.rows / line.rate) for line in lines]


def search_large(bench: Bench) -> list[Line]:
    """Exact search of a large generated bank."""
    sizes, dim = bench.sizes, bench.config().encoder.dim
    large, queries = generated_bank(sizes.large_bank, dim, sizes.large_queries, bench.seed)
    top_k = bench.config().memory.top_k
    return _search(bench, "search_large", large, queries, sizes.large_queries, top_k, "all")


def _search(bench, row, own, queries, asked, top_k, rule) -> list[Line]:
    index = ExactIndex(own, eligibility=rule)
    size = f"{asked:,} queries, {own.rows:,} x {own.dim}, top {top_k}"
    few = min(bench.sizes.plain_queries, asked)
    keys, vectors = jnp.asarray(own.keys), jnp.asarray(queries.vectors[:few])
    contestants = [
        exact_contestant(index, queries, asked, top_k),
        Contestant(
            "one product and lax.top_k",
            lambda: _plain_search(keys, vectors, k=top_k),
            few,
            search_work(queries=few, bank=own.rows, dim=own.dim, tile=own.rows, query_chunk=few),
            note="no eligibility; holds [queries, bank]",
        ),
    ]
    return bench.measure(row, size, "queries", contestants)


@functools.partial(jax.jit, static_argnames="k")
def _plain_search(keys, vectors, *, k):
    scores = jnp.matmul(vectors, keys.T, precision=lax.Precision.HIGHEST)
    return lax.top_k(scores, k)


def exact_contestant(index: ExactIndex, queries: Queries, asked: int, top_k: int) -> Contestant:
    """Exact search of the first `asked` queries, from host to host."""
    part = Queries(*(None if column is None else np.asarray(column)[:asked] for column in queries))
    backend = "cpu" if jax.default_backend() == "cpu" else "other"
    tile, chunk = TILE_ROWS[backend], QUERY_CHUNK[backend]
    rows, dim = index.bank.rows, index.bank.dim
    work = search_work(queries=asked, bank=rows, dim=dim, tile=tile, query_chunk=chunk)
    return Contestant("exact", lambda: index.search(part, top_k), asked, work)


def scann_point(bench: Bench, rows: int) -> list[Line]:
    """ScaNN by recall target in a generated bank, exact search beside it."""
    try:
        import_scann()
    except ConfigError as error:
        raise Skipped("ScaNN is not installed or does not load here") from error
    top_k, dim = bench.config().memory.top_k, bench.config().encoder.dim
    asked, free = bench.sizes.large_queries, free_bytes()
    if free is not None and free < _SCANN_COPIES * rows * dim * FLOAT_BYTES:
        raise Skipped(f"{free / 2**30:.1f} GiB of memory are free: too little for {rows:,} rows")
    own, queries = generated_bank(rows, dim, asked, bench.seed)
    exact = ExactIndex(own, eligibility="all")
    contestants = [exact_contestant(exact, queries, asked, top_k)]
    # Built once: at ten million rows a second one would not fit beside it.
    first, *others = bench.sizes.recall_targets
    index = ScannIndex(own, eligibility="all", recall_target=first, top_k=top_k, exact=exact)
    built = f"built and tuned in {index.build_s:.1f} s"
    for target in (first, *others):
        tuned = index if target == first else index.tuned_to(target, top_k=top_k)
        few = min(asked, 1000)
        told = recall_against_exact(tuned, own, queries, top_k, "all", sample=few, exact=exact)
        settings = ", ".join(f"{name} {value}" for name, value in tuned.settings.items())
        note = f"recall@{top_k} {told['recall']:.3f}; {built}: {settings}"
        search = functools.partial(tuned.search, queries, top_k)
        contestants.append(Contestant(f"scann, target {target}", search, asked, note=note))
        built = "the same index"
    size = f"{asked:,} queries, {rows:,} x {dim}, top {top_k}"
    return bench.measure("", size, "queries", contestants)


def generated_bank(rows: int, dim: int, asked: int, seed: int) -> tuple[MemoryBank, Queries]:
    """Clustered keys, and queries from the same clusters."""
    vectors = clustered_vectors(rows + asked, dim, seed)
    zeros, users = np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32)
    own = MemoryBank(vectors[:rows], zeros + 1, users, zeros + 1)
    others = rows + np.arange(asked, dtype=np.int32)
    return own, Queries(vectors[rows:], others, np.ones(asked, np.int32))
