"""ExactIndex against brute force in float64, the published code's rule, ties, and banks with hardly a row to see."""

import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.retrieval import exact, layout
from raserec_jax.retrieval.chunked_search import search_chunk
from raserec_jax.retrieval.eligibility import RULES, Queries, audit, eligible
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.layout import unit_rows
from raserec_jax.retrieval.memory_bank import MemoryBank

GOLDEN = pathlib.Path(os.environ.get("RASEREC_GOLDEN_DIR", "tests/golden"))


def make_bank(keys, rng, users=5, longest=9):
    rows = len(keys)
    return MemoryBank(
        keys=keys.astype(np.float32),
        target_ids=np.ones(rows, int),
        user_ids=rng.integers(0, users, rows),
        lengths=rng.integers(1, longest + 1, rows),
        times=rng.integers(0, 20, rows),
    )


def make_queries(vectors, rng, users=5, longest=9):
    count = len(vectors)
    return Queries(
        vectors=vectors.astype(np.float32),
        user_ids=rng.integers(0, users, count),
        lengths=rng.integers(1, longest + 1, count),
        times=rng.integers(0, 21, count),
    )


def brute_force(bank, queries, k, rule):
    """ids, scores [queries, k] from the whole score matrix; a stable sort keeps the lower row first."""

    def unit(vectors):
        vectors = np.asarray(vectors, np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(lengths > 0, lengths, 1)

    # Row by row of the bank, so that equal keys have equal scores to the last bit.
    scores = np.stack([unit(queries.vectors) @ key for key in unit(bank.keys)], axis=1)
    memory = (bank.user_ids, bank.lengths, bank.times)
    seen = eligible(rule, *memory, queries.user_ids, queries.lengths, queries.times)
    scores = np.where(seen, scores, -np.inf)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(scores, ids, axis=1)
    return np.where(scores > -np.inf, ids, -1), np.where(scores > -np.inf, scores, 0)


def assert_found(found, ids, scores):
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.mask, ids >= 0)
    np.testing.assert_allclose(found.scores, scores, atol=2e-6)
    assert all(isinstance(value, np.ndarray) for value in found)
    assert (found.ids.dtype, found.scores.dtype, found.mask.dtype) == (
        jnp.int32,
        jnp.float32,
        jnp.bool_,
    )


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a bank of some dozens of rows goes through every level of the search."""
    monkeypatch.setattr(layout, "BLOCK_ROWS", 4)
    monkeypatch.setattr(layout, "GROUP_BLOCKS", 2)


def test_golden_retrieval_filter():
    golden = np.load(GOLDEN / "retrieval_filter.npz", allow_pickle=False)
    rows = len(golden["bank_seq"])
    bank = MemoryBank(
        golden["bank_seq"], np.ones(rows, int), golden["bank_user"], golden["bank_len"]
    )
    queries = Queries(golden["query"], golden["query_user"], golden["query_len"])
    found = ExactIndex(bank).search(queries, int(golden["top_k"]))
    np.testing.assert_array_equal(found.ids, golden["indices"])
    assert np.asarray(found.mask).all()


CHUNKED = {"tile_rows": 16, "bank_chunk": 32, "query_chunk": 4}
# Rows from, to, top_k, rules, chunks. With small blocks all sizes of a line compile to the same program.
SIZES = [
    (7, 8, 7, RULES[:1], {}),  # all rows or all but one, in one group of blocks
    (33, 40, 7, RULES[:1], {}),  # fewer groups than top_k, more blocks
    (97, 104, 7, RULES, {}),  # two levels
    (97, 104, 7, RULES[:1], CHUNKED),
    (97, 104, 1, RULES[:1], {}),  # five levels, of odd sizes too
]


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=70, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.sampled_from(SIZES),
    users=st.sampled_from([1, 5]),
    kind=st.sampled_from(["normal", "duplicates", "zeros"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_brute_force(size, users, kind, seed):
    lowest, highest, k, rules, chunks = size
    rng = np.random.default_rng(seed)
    rows = rng.integers(lowest, highest + 1)
    keys = rng.normal(size=(rows, 6))
    if kind == "duplicates":
        keys = keys[rng.integers(0, min(rows, 3), rows)]
    elif kind == "zeros":
        keys *= rng.integers(0, 2, (rows, 1))
    bank = make_bank(keys, rng, users)
    queries = make_queries(rng.normal(size=(8, 6)) * [[0], *[[1]] * 7], rng, users)
    rule = rng.choice(rules)
    found = ExactIndex(bank, eligibility=str(rule), **chunks).search(queries, k)
    assert_found(found, *brute_force(bank, queries, k, rule))
    assert not len(audit(found.ids, bank, queries, str(rule)))


def test_equals_brute_force_with_blocks_as_they_are():
    rng = np.random.default_rng(0)
    bank = make_bank(rng.normal(size=(5000, 16)), rng)
    queries = make_queries(rng.normal(size=(40, 16)), rng)
    found = ExactIndex(bank, tile_rows=1024, bank_chunk=3000, query_chunk=32).search(queries, 20)
    assert_found(found, *brute_force(bank, queries, 20, "own_earlier"))


# The next tests share a compiled program: up to 8 queries, 300 rows of 8, top_k 5.


@pytest.mark.parametrize("rule", ["own_earlier", "before"])
def test_a_bank_with_hardly_a_row_to_see(rule):
    """The best rows are all ineligible; the list is as long as there are rows to see, and in order."""
    rng = np.random.default_rng(1)
    rows, k = 300, 5
    query = rng.normal(size=(1, 8))
    keys = query + 0.1 * rng.normal(size=(rows, 8))
    for seen in (0, 1, 4, 5, 12):
        visible = np.sort(rng.choice(rows, seen, replace=False))
        user_ids, times = np.zeros(rows, int), np.full(rows, 50)
        user_ids[visible], times[visible] = 1, 49
        keys[visible] = -query + rng.normal(size=(seen, 8))
        bank = MemoryBank(keys, np.ones(rows, int), user_ids, np.full(rows, 5), times)
        queries = Queries(query.astype(np.float32), np.array([0]), np.array([5]), np.array([50]))
        found = ExactIndex(bank, eligibility=rule).search(queries, k)
        assert int(found.mask.sum()) == min(seen, k)
        assert_found(found, *brute_force(bank, queries, k, rule))


def test_the_order_of_the_bank_changes_nothing_but_ids():
    rng = np.random.default_rng(2)
    bank = make_bank(rng.normal(size=(300, 8)), rng)
    queries = make_queries(rng.normal(size=(8, 8)), rng)
    order = rng.permutation(300)
    columns = ("keys", "target_ids", "user_ids", "lengths", "times")
    shuffled = MemoryBank(*(getattr(bank, name)[order] for name in columns))
    found, again = (ExactIndex(which).search(queries, 5) for which in (bank, shuffled))
    np.testing.assert_array_equal(found.ids, order[np.asarray(again.ids)])
    np.testing.assert_array_equal(found.scores, again.scores)


def test_a_row_never_finds_itself_nor_its_users_later_ones():
    rng = np.random.default_rng(3)
    bank = make_bank(rng.normal(size=(300, 8)), rng)
    asked = Queries(bank.keys[:8], bank.user_ids[:8], bank.lengths[:8], bank.times[:8])
    ids = np.asarray(ExactIndex(bank).search(asked, 5).ids)
    own = bank.user_ids[ids] == bank.user_ids[:8, None]
    assert (bank.lengths[ids] < bank.lengths[:8, None])[own].all() and (ids >= 0).all()


def test_scale_of_vectors_does_not_matter():
    rng = np.random.default_rng(4)
    keys, vectors = rng.normal(size=(300, 8)), rng.normal(size=(4, 8))
    plain = make_bank(keys, np.random.default_rng(5))
    scaled = make_bank(keys * 10.0 ** rng.integers(-30, 30, (300, 1)), np.random.default_rng(5))
    queries = make_queries(vectors, rng)
    expected = ExactIndex(plain).search(queries, 5)
    for scale in (1e-30, 1e30):
        asked = queries._replace(vectors=(vectors * scale).astype(np.float32))
        found = ExactIndex(scaled).search(asked, 5)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.scores, expected.scores, atol=2e-6)


def test_unit_rows():
    vectors = np.array([[3, 4], [0, 0], [1e-38, 0], [-3e38, 3e38]], np.float32)
    half = np.sqrt(np.float32(0.5))
    np.testing.assert_allclose(
        unit_rows(vectors), [[0.6, 0.8], [0, 0], [1, 0], [-half, half]], rtol=1e-6
    )
    assert unit_rows(vectors[:0]).shape == (0, 2)


def test_no_queries_one_query_and_queries_on_the_device():
    rng = np.random.default_rng(6)
    bank = make_bank(rng.normal(size=(300, 8)), rng)
    index = ExactIndex(bank)
    queries = make_queries(rng.normal(size=(7, 8)), rng)
    none = index.search(Queries(*(column[:0] for column in queries)), 5)
    assert (none.ids.shape, none.scores.shape, none.mask.shape) == ((0, 5), (0, 5), (0, 5))
    assert (none.ids.dtype, none.scores.dtype, none.mask.dtype) == (
        jnp.int32,
        jnp.float32,
        jnp.bool_,
    )
    whole = index.search(Queries(*map(jnp.asarray, queries)), 5)
    one = index.search(Queries(*(column[4:5] for column in queries)), 5)
    np.testing.assert_array_equal(whole.ids[4:5], one.ids)
    assert index.build_s > 0


def test_what_cannot_be_searched():
    rng = np.random.default_rng(7)
    bank = make_bank(rng.normal(size=(12, 4)), rng)
    queries = make_queries(rng.normal(size=(3, 4)), rng)
    with pytest.raises(
        ConfigError, match="top_k=20 but the bank has 12 rows; lower config.memory.top_k"
    ):
        ExactIndex(bank).search(queries, 20)
    empty = MemoryBank(bank.keys[:0], *[np.zeros(0, int)] * 3)
    with pytest.raises(ConfigError, match="top_k=1 but the bank has 0 rows"):
        ExactIndex(empty).search(queries, 1)
    with pytest.raises(ConfigError, match="eligibility=before needs times but the bank has none"):
        ExactIndex(empty, eligibility="before")
    with pytest.raises(ConfigError, match="eligibility='none' is unknown"):
        ExactIndex(bank, eligibility="none")
    queries.vectors[1, 2] = np.nan
    with pytest.raises(DataError, match="query vectors row 1 is not finite"):
        ExactIndex(bank).search(queries, 2)


def test_memory_stays_far_below_the_score_matrix():
    rng = np.random.default_rng(8)
    bank = make_bank(rng.normal(size=(40_000, 4)), rng)
    index = ExactIndex(bank, tile_rows=1024, bank_chunk=8192)
    asked = exact._padded(
        Queries(unit_rows(bank.keys[:512]), bank.user_ids[:512], bank.lengths[:512]), 0, 512
    )
    compiled = search_chunk.lower(index._shelves, asked, k=5, rule="own_earlier").compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 512 * bank.rows * 4 / 4
