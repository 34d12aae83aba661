"""What a memory did for a target: against leaving it out by hand, and an entry that was planted to do harm."""

import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.training.finetune_objective import MemoryConstants
from raserec_jax.training.memory_effects import memory_effects, usefulness
from tests.models.test_memory_reader import random_like, read, shapes_of
from tests.tiny_workdir import quick_compiles
from tests.training.repeat_bias_loss import loss_by_definition

BANK, TOP_K, DIM, ITEMS = 9, 3, 8, 11
EXAMPLES = 7


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_compiles():
        yield


def constants(with_bias):
    draw = np.random.default_rng(0)
    ids = np.stack([draw.permutation(BANK)[:TOP_K] for _ in range(EXAMPLES)]).astype(np.int32)
    ids[2], ids[3, 1:] = -1, -1
    lengths = np.array([3, 5, 1, 6, 2, 6, 4], np.int32)
    params = {"item_table": draw.normal(size=(ITEMS + 1, DIM)).astype(np.float32)}
    windows = None
    if with_bias:
        params["repeat_bias"] = np.float32(0.2)
        items = draw.integers(1, ITEMS + 1, lengths.sum()).astype(np.int32)
        windows = (items, (np.cumsum(lengths) - lengths).astype(np.int32), lengths)
    return MemoryConstants(
        params,
        windows,
        draw.normal(size=(EXAMPLES, DIM)).astype(np.float32),
        draw.integers(1, ITEMS + 1, EXAMPLES).astype(np.int32),
        draw.normal(size=(BANK, DIM)).astype(np.float32),
        draw.integers(1, ITEMS + 1, BANK).astype(np.int32),
        ids,
    )


def reader_and_params(**changes):
    reader = MemoryReader(num_heads=2, inner_dim=12, alpha=0.4, beta=0.6).clone(**changes)
    query, memories = np.zeros((1, DIM), np.float32), np.zeros((1, 1, DIM), np.float32)
    return reader, random_like(shapes_of(reader, query, memories, memories, np.ones((1, 1), bool)))


def device(known):
    windows = known.windows and tuple(map(jnp.asarray, known.windows))
    params = {name: jnp.asarray(one) for name, one in known.encoder_params.items()}
    rest = [jnp.asarray(one) for one in known[2:]]
    return MemoryConstants(params, windows, *rest)


def by_hand(reader, params, known, row, slots):
    """-log p(target) when the query reads the memories of these slots alone, which stand in a list of their own."""
    rows, table = known.retrieved_ids[row][slots], known.encoder_params["item_table"]
    vector = known.queries[row]
    if len(rows):
        keys, values = known.memory_keys[rows], table[known.memory_target_ids[rows]]
        memories = (keys[None], values[None], np.ones((1, len(rows)), bool))
        vector = np.asarray(read(reader, params, vector[None], *memories))[0]
    items = np.array([], np.int32)
    if known.windows is not None:
        flat, starts, lengths = known.windows
        items = flat[starts[row] : starts[row] + lengths[row]]
    return loss_by_definition(vector, known.encoder_params, items, known.target_ids[row])


@pytest.mark.parametrize("with_bias", [False, True])
def test_an_effect_is_what_leaving_the_memory_out_changes(with_bias):
    known = constants(with_bias)
    if not with_bias:
        known = known._replace(
            encoder_params=known.encoder_params | {"repeat_bias": np.float32(0.0)}
        )
    reader, params = reader_and_params(gate="query", null_memory=True)
    found = memory_effects(reader, params, device(known), max_len=6, exact=True, block=4)
    expected = np.zeros((EXAMPLES, TOP_K))
    for row in range(EXAMPLES):
        there = np.flatnonzero(known.retrieved_ids[row] >= 0)
        for slot in there:
            less = by_hand(reader, params, known, row, there[there != slot])
            expected[row, slot] = less - by_hand(reader, params, known, row, there)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_linear_effects_are_exact_ones_where_memory_counts_little():
    known = device(constants(False))
    reader, params = reader_and_params(alpha=0.999)
    linear, exact = (
        np.asarray(memory_effects(reader, params, known, max_len=6, exact=way))
        for way in (False, True)
    )
    assert np.abs(exact).max() > 1e-4
    np.testing.assert_allclose(linear, exact, rtol=0.05, atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_an_entry_planted_to_do_harm_is_the_least_useful(exact):
    """The reader takes the mean of what followed: every memory tells the target but the planted one."""
    draw = np.random.default_rng(4)
    table = draw.normal(size=(ITEMS + 1, DIM)).astype(np.float32)
    table[2] = -table[1]
    ids = np.stack([draw.permutation(BANK - 2)[:TOP_K] for _ in range(EXAMPLES)]).astype(np.int32)
    ids[::2, 1] = BANK - 2  # the planted one; nobody reads the last
    known = MemoryConstants(
        {"item_table": jnp.asarray(table)},
        None,
        jnp.asarray(draw.normal(size=(EXAMPLES, DIM)).astype(np.float32)),
        jnp.ones(EXAMPLES, jnp.int32),
        jnp.asarray(draw.normal(size=(BANK, DIM)).astype(np.float32)),
        jnp.asarray(np.array([1] * (BANK - 2) + [2, 2], np.int32)),
        jnp.asarray(ids),
    )
    reader = MemoryReader(pooling="mean", feed_forward=False, beta=1.0)
    effects = np.asarray(memory_effects(reader, {}, known, max_len=6, exact=exact))
    total, count = usefulness(effects, ids, BANK)
    assert count.sum() == EXAMPLES * TOP_K and count[BANK - 2] == len(ids[::2])
    assert total[BANK - 1] == 0 == count[BANK - 1]
    assert np.argmin(total) == BANK - 2 and total[BANK - 2] < 0
    assert total.sum() == pytest.approx(effects.sum(), abs=1e-5)
