"""Rows about stage 2 and the evaluation."""

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.benchmarks.bench import Bench
from raserec_jax.benchmarks.contest import Contestant, Line
from raserec_jax.benchmarks.counting import (
    FLOAT_BYTES,
    Product,
    Work,
    rank_work,
    reader_work,
    total,
)
from raserec_jax.benchmarks.memory_rows import encoded
from raserec_jax.benchmarks.stepping import Stepper
from raserec_jax.encoding import encode_rows, evaluation_set
from raserec_jax.evaluation.histories import seen_items
from raserec_jax.evaluation.item_scores import ITEM_CHUNK, Scores, default_user_chunk
from raserec_jax.losses import default_chunk_items
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.training.finetune_objective import MemoryConstants, finetune_task
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.pretraining import make_encoder, query_ranks
from raserec_jax.training.reading import make_reader
from raserec_jax.training.remembering import build_bank, example_queries


def stage_2(bench: Bench) -> list[Line]:
    """An epoch from cached neighbours against a search at every step, as the published code does."""
    config, params, encode, examples = encoded(bench)
    query = encode(params)
    own = build_bank(config, bench.split, query, examples)
    top_k, count = config.memory.top_k, len(examples.lengths)
    draw = np.random.default_rng(bench.seed)
    found = draw.integers(0, own.rows, (count, top_k)).astype(np.int32)
    constants = MemoryConstants(
        {"item_table": params["item_table"]},
        None,
        query,
        jnp.asarray(examples.target_ids),
        jnp.asarray(own.keys),
        jnp.asarray(own.target_ids),
        jnp.asarray(found),
    )
    cached = _stepper(config, constants, bench.sizes.steps)
    size = min(config.finetune.batch_size, count)
    one = constants._replace(
        queries=query[:size],
        target_ids=constants.target_ids[:size],
        retrieved_ids=constants.retrieved_ids[:size],
    )
    searched = _stepper(config, one, 1)
    index = ExactIndex(own, eligibility=config.memory.eligibility)
    asked = example_queries(query, examples, bench.split)
    order = draw.permutation(count)
    few = max(1, min(bench.sizes.slow_steps // 4, count // size))

    def searching():
        """Batch after batch: search, then one step on what was found."""
        for step in range(few):
            rows = order[step * size : (step + 1) * size]
            part = Queries(*(None if column is None else column[rows] for column in asked))
            ids = index.search(part, top_k).ids
            at = jnp.asarray(rows)
            searched.constants = searched.constants._replace(
                queries=query[at], target_ids=constants.target_ids[at], retrieved_ids=ids
            )
            losses = searched.run(1)
        return losses

    work = _stage_2_work(config, size, bench.split.log.num_items, top_k)
    contestants = [
        Contestant(
            "cached neighbours, many steps per call",
            lambda: cached.run(cached.most),
            size * cached.most,
            work.times(cached.most),
            cached.temp_bytes,
            "neighbours are drawn: a gather from all over the bank",
        ),
        Contestant("exact search at each step", searching, size * few, note="search not counted"),
    ]
    words = f"{bench.size_words()}, {count:,} prefixes, {size} a step, top {top_k}"
    lines = bench.measure("stage_2", words, "prefixes", contestants)
    return [line._replace(whole_s=count / line.rate) for line in lines]


def _stepper(config, constants: MemoryConstants, most: int) -> Stepper:
    reader, settings = make_reader(config), config.finetune
    dim = constants.queries.shape[1]
    shapes = jnp.zeros((1, dim)), jnp.zeros((1, 1, dim)), jnp.zeros((1, 1, dim))
    params = jax.jit(reader.init)(jax.random.key(0), *shapes)["params"]
    task = finetune_task(
        reader,
        constants,
        batch_size=settings.batch_size,
        include_padding_class=settings.include_padding_class,
        chunk_items=settings.chunk_items,
    )
    return Stepper(task, make_optimizer(total_steps=10_000, **settings.optimizer), params, most)


def _stage_2_work(config, batch: int, items: int, top_k: int) -> Work:
    """Reader forward and backward; of the softmax only the query's gradient is needed, the table is frozen."""
    dim, reader = config.encoder.dim, config.reader
    chunk = min(config.finetune.chunk_items or default_chunk_items(batch, items + 1), items)
    pieces = items / chunk
    logits, gradient = Product(batch, dim, chunk, pieces), Product(batch, chunk, dim, pieces)
    softmax = Work((logits, gradient), (), 1.0 * batch * items, items * dim * FLOAT_BYTES)
    reading = reader_work(
        batch=batch,
        top_k=top_k,
        dim=dim,
        inner_dim=reader.inner_dim,
        num_heads=reader.num_heads,
    )
    return total([softmax, reading])


def evaluation(bench: Bench) -> list[Line]:
    """Both ranks of every test user's target, counted on the device, against a sort of all scores on the host."""
    config, params, _, _ = encoded(bench)
    encoder, split = make_encoder(config, bench.split.log.num_items), bench.split
    queries = evaluation_set(split, "test", max_len=encoder.max_len)
    item_ids = jnp.asarray(split.log.item_ids)
    rows = jax.tree.map(jnp.asarray, queries.rows)
    vectors = encode_rows(encoder, params, item_ids, rows)
    users, items = len(queries.user_ids), split.log.num_items
    work = rank_work(
        users=users,
        items=items,
        dim=encoder.dim,
        user_chunk=default_user_chunk(),
        item_chunk=ITEM_CHUNK,
    )
    few = min(bench.sizes.argsort_users, users)
    host = np.asarray(vectors)[:few], np.asarray(params["item_table"])
    bias = repeat_bias(params)
    seen = seen_items(
        split.log.offsets, split.log.item_ids, queries.end_positions[:few], queries.user_ids[:few]
    )
    contestants = [
        Contestant(
            "ranks counted on the device",
            lambda: query_ranks(Scores(vectors), params, split, queries),
            users,
            work,
        ),
        Contestant(
            "encoding and ranks",
            lambda: query_ranks(
                Scores(encode_rows(encoder, params, item_ids, rows)), params, split, queries
            ),
            users,
            note="work of the encoder not counted",
        ),
        Contestant(
            "NumPy argsort on the host",
            lambda: sorted_ranks(*host, queries.target_ids[:few], seen, bias),
            few,
        ),
    ]
    lines = bench.measure(
        "evaluation", f"{bench.size_words()}, {users:,} test users", "users", contestants
    )
    return [line._replace(whole_s=users / line.rate) for line in lines]


def sorted_ranks(query, table, target_ids, seen, bias=None) -> tuple[np.ndarray, np.ndarray]:
    """(unfiltered, filtered) ranks the usual way: all scores, sorted twice; ties as the sort leaves them."""
    scores = query @ table.T
    users = np.arange(len(query))
    if bias is not None:
        scores[users[:, None], seen] += np.float32(bias)
    scores[:, 0] = -np.inf
    of_target = scores[users, target_ids]
    found = []
    for filtered in (False, True):
        if filtered:
            scores[users[:, None], seen] = -np.inf
            scores[users, target_ids] = of_target
        order = np.argsort(-scores, axis=1)
        found.append(np.argmax(order == target_ids[:, None], axis=1))
    return found[0], found[1]
