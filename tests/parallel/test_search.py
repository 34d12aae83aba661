"""Exact search over the devices of a mesh finds what one device finds, bit for bit, and moves no keys."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.errors import ConfigError
from raserec_jax.retrieval import fresh_rows, growing, layout
from raserec_jax.retrieval.eligibility import Queries, audit
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.growing import GrowingIndex, roomy
from raserec_jax.retrieval.layout import Layout, layout_of
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.searcher import make_searcher, recall_against_exact
from raserec_jax.retrieval.sharded_search import search_parts
from tests.parallel.meshes import mesh_of

DIM, K = 6, 7
SMALL = {"tile_rows": 16, "bank_chunk": 32, "query_chunk": 8}


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a device's few dozens of rows go through every level of the search."""
    monkeypatch.setattr(layout, "BLOCK_ROWS", 4)
    monkeypatch.setattr(layout, "GROUP_BLOCKS", 2)


def bank_of(rows, kind="normal", seed=0):
    draw = np.random.default_rng(seed)
    keys = draw.normal(size=(rows, DIM)).astype(np.float32)
    if kind == "duplicates":  # on all devices
        keys = keys[draw.integers(0, 3, rows)]
    if kind == "zeros":
        keys *= draw.integers(0, 2, (rows, 1))
    return MemoryBank(
        keys,
        draw.integers(1, 50, rows),
        draw.integers(0, 5, rows),
        draw.integers(1, 9, rows),
        draw.integers(0, 20, rows),
    )


def queries_of(count, seed=1):
    draw = np.random.default_rng(seed)
    columns = draw.integers(0, 5, count), draw.integers(1, 9, count), draw.integers(0, 21, count)
    vectors = draw.normal(size=(count, DIM)).astype(np.float32)
    vectors[0] = 0.0
    return Queries(vectors, *columns)


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "rule"),
    [((2, 1), "before"), ((1, 4), "own_earlier"), ((8, 1), "own_earlier"), ((2, 4), "all")],
)
def test_finds_what_one_device_finds(shape, rule):
    """Banks that do not divide evenly, ties across devices, queries that may see hardly a row."""
    asked = queries_of(11)  # in chunks of 8: the last is ragged
    for rows, kind in ((390, "normal"), (397, "duplicates"), (391, "zeros")):
        # Keys of either type; one each, as a type compiles anew.
        keys = "bfloat16" if rule == "before" else "float32"
        bank = bank_of(rows, kind, seed=rows).with_keys_as(keys)
        index = ExactIndex(bank, eligibility=rule, mesh=mesh_of(*shape), **SMALL)
        found = index.search(asked, K)
        assert_equal(found, ExactIndex(bank, eligibility=rule, **SMALL).search(asked, K))
        assert not len(audit(found.ids, bank, asked, rule))
        ids = np.asarray(found.ids)
        assert (
            ids.max() < rows
            and (np.sort(ids[0][ids[0] >= 0]) == np.unique(ids[0][ids[0] >= 0])).all()
        )
    few = asked._replace(times=np.minimum(asked.times, 1))
    if rule == "before":
        found = index.search(few, K)
        assert_equal(found, ExactIndex(bank, eligibility=rule, **SMALL).search(few, K))
        assert 0 < np.asarray(found.mask).sum() and not np.asarray(found.mask)[few.times == 0].any()


@pytest.mark.usefixtures("small_blocks")
def test_fewer_rows_than_devices_and_than_are_asked_for():
    bank, asked, mesh = bank_of(5), queries_of(3), mesh_of(4, 2)
    index = ExactIndex(bank, eligibility="all", mesh=mesh, **SMALL)
    found = index.search(asked, 5)
    assert_equal(found, ExactIndex(bank, eligibility="all", **SMALL).search(asked, 5))
    assert sorted(np.asarray(found.ids)[1]) == [0, 1, 2, 3, 4]
    assert index.search(queries_of(1)._replace(vectors=np.zeros((1, DIM))), 5).ids.shape == (1, 5)
    hidden = index.hiding(np.array([True, False, True, True, True]))
    assert np.asarray(hidden.search(asked, 5).ids)[1].tolist() == [1, -1, -1, -1, -1]


@given(
    rows=st.integers(0, 900),
    parts=st.sampled_from([1, 2, 3, 8]),
    tile_rows=st.sampled_from([256, 512]),
    bank_chunk=st.sampled_from([64, 300, 2**20]),
    capacity=st.sampled_from([0, 500]),
)
def test_every_row_has_one_place_and_parts_are_balanced(
    rows, parts, tile_rows, bank_chunk, capacity
):
    like = layout_of(-(-rows // parts), tile_rows, bank_chunk, None, -(-capacity // parts))
    found = like._replace(rows=rows, parts=parts)
    held = np.diff(found.starts)
    assert held.sum() == rows and held.max() - held.min() <= 1
    slots = found.filled(np.arange(1, rows + 1)).reshape(len(found.first_rows()), -1)
    ids = found.first_rows()[:, None] + np.arange(slots.shape[1])[None]
    assert (ids[slots > 0] == slots[slots > 0] - 1).all() and (slots > 0).sum() == rows
    per_part = (slots > 0).reshape(parts, -1).sum(axis=1)
    np.testing.assert_array_equal(per_part, held)
    assert isinstance(found, Layout)


def test_no_score_matrix_and_no_keys_are_exchanged():
    rows, asked, k, devices = 16_384, 64, 5, 8
    mesh, bank = mesh_of(2, 4), bank_of(rows)
    index = ExactIndex(bank, eligibility="own_earlier", mesh=mesh, tile_rows=256)
    queries = Queries(*(column[:asked] for column in queries_of(asked)))
    options = {"mesh": mesh, "chunk": asked, "k": k, "rule": "own_earlier"}
    text = search_parts.lower(index.shelves, queries, asked, **options).compile().as_text()
    sizes = [
        (np.prod([int(size) for size in shape.split(",")]), line)
        for line in text.splitlines()
        for shape in re.findall(r"\b(?:f32|s32|pred|bf16)\[([\d,]+)\]", line.split("(")[0])
    ]
    # Not even those of a device's own rows.
    assert max(size for size, _ in sizes) < asked * rows / devices
    exchanged = [size for size, line in sizes if re.search(r"= .*all-(gather|to-all|reduce)", line)]
    assert exchanged and max(exchanged) <= asked * k * devices < rows / devices * DIM


def test_appended_rows_are_spread_and_do_not_compile_anew(monkeypatch):
    monkeypatch.setattr(fresh_rows, "_LEAST_CAPACITY", 64)
    monkeypatch.setattr(growing, "FRESH_ROWS", 60)
    bank, asked, mesh = bank_of(420), queries_of(8), mesh_of(4, 2)
    index = GrowingIndex("exact", bank.select(slice(300)), np.ones(300, bool), mesh=mesh)
    compiled = []
    draw = np.random.default_rng(0)
    for rows in (300, 303, 340, 359, 420):
        alive = draw.random(rows) > 0.1
        part = bank.select(slice(rows))
        index = index.following(part, alive)
        kept = np.flatnonzero(alive)
        expected = ExactIndex(part.select(kept)).search(asked, K)
        ids = np.where(expected.mask, kept[np.asarray(expected.ids)], -1)
        found = index.search(asked, K)
        np.testing.assert_array_equal(found.ids, ids)
        np.testing.assert_array_equal(found.mask, expected.mask)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        compiled.append(search_parts._cache_size())
        for exists in (
            one.shelves.exists
            for one in (index._built, getattr(index._fresh, "_index", index._built))
        ):
            held = [int(np.asarray(piece.data).sum()) for piece in exists.addressable_shards]
            assert len(held) == 8 and max(held) - min(held) <= 1
    # With the first fresh rows once; neither with more of them nor as the engine absorbs them.
    assert compiled[1:] == [compiled[1]] * 4
    assert index.absorbed == 420


def test_roomy_sizes_are_few():
    sizes = [roomy(rows) for rows in range(1, 5000)]
    assert all(rows <= room <= rows * 1.25 for rows, room in enumerate(sizes, 1))
    assert len(set(sizes)) < 60


def test_approximate_search_is_measured_against_exact():
    """A CPU sorts all, so nothing is missed here; on a TPU the recall tells what is."""
    bank, asked, mesh = bank_of(300), queries_of(32), mesh_of(2, 2)
    index = make_searcher("exact", bank, approx_recall=0.9, mesh=mesh)
    found, expected = index.search(asked, K), ExactIndex(bank, mesh=mesh).search(asked, K)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    told = recall_against_exact(index, bank, asked, K, "own_earlier", mesh=mesh)
    assert told["recall"] == 1.0 and told["queries"] == 32


def test_a_share_of_one_is_refused():
    with pytest.raises(
        ConfigError, match="approx_recall=1.5 is no share below 1; set config.memory"
    ):
        ExactIndex(bank_of(3), approx_recall=1.5)
