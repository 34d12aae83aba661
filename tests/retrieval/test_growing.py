"""GrowingIndex: what was appended is found at once, what was removed never; as exact search over what is there."""

import jax
import numpy as np
import pytest

from raserec_jax.retrieval import fresh_rows, growing
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.growing import GrowingIndex
from raserec_jax.retrieval.memory_bank import MemoryBank

DIM = 8


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def bank_of(rows, seed=0):
    draw = np.random.default_rng(seed)
    return MemoryBank(
        draw.normal(size=(rows, DIM)).astype(np.float32),
        draw.integers(1, 50, rows),
        draw.integers(0, 9, rows),
        draw.integers(1, 20, rows),
        draw.integers(0, 99, rows),
    )


def first_rows(bank, rows):
    columns = (bank.keys, bank.target_ids, bank.user_ids, bank.lengths, bank.times)
    return MemoryBank(*(column[:rows] for column in columns))


def queries_of(count, seed=1):
    draw = np.random.default_rng(seed)
    columns = (draw.integers(0, 9, count), draw.integers(1, 20, count), draw.integers(0, 99, count))
    return Queries(draw.normal(size=(count, DIM)).astype(np.float32), *columns)


@pytest.mark.parametrize("engine", ["exact", "scann"])
def test_a_vector_that_was_just_appended_is_found_first(engine):
    bank = bank_of(300)
    index = GrowingIndex(engine, first_rows(bank, 299), np.ones(299, bool), eligibility="all")
    later = index.following(bank, np.ones(300, bool))
    asked = queries_of(1)._replace(vectors=2.5 * bank.keys[-1:])
    assert np.asarray(later.search(asked, 5).ids)[0, 0] == 299
    assert later.absorbed == 299  # beside the engine, not in it
    assert 299 not in np.asarray(index.search(asked, 5).ids)  # the version before is as it was
    alive = np.ones(300, bool)
    alive[299] = False
    assert 299 not in np.asarray(later.following(bank, alive).search(asked, 300).ids)


@pytest.mark.parametrize("engine", ["exact", "scann"])
@pytest.mark.parametrize("rule", ["own_earlier", "before", "all"])
def test_finds_what_exact_search_over_the_rows_that_are_there_finds(engine, rule):
    draw = np.random.default_rng(3)
    bank, asked = bank_of(400), queries_of(12)
    alive = np.ones(250, bool)
    index = GrowingIndex(engine, first_rows(bank, 250), alive, eligibility=rule)
    for rows, share in ((250, 0.3), (260, 0.0), (400, 0.5), (400, 0.97)):
        part = first_rows(bank, rows)
        alive = np.pad(alive, (0, rows - len(alive)), constant_values=True)
        alive = alive & (draw.random(rows) >= share)  # what was removed stays removed
        index = index.following(part, alive)
        found = index.search(asked, 10)
        kept = np.flatnonzero(alive)
        columns = (part.keys, part.target_ids, part.user_ids, part.lengths, part.times)
        truth = ExactIndex(MemoryBank(*(c[kept] for c in columns)), eligibility=rule)
        expected = truth.search(asked, min(10, len(kept)))
        mask = np.asarray(expected.mask)
        width = mask.shape[1]
        np.testing.assert_array_equal(np.asarray(found.mask)[:, :width], mask)
        assert not np.asarray(found.mask)[:, width:].any()
        ids = np.where(mask, kept[np.asarray(expected.ids)], -1)
        np.testing.assert_array_equal(np.asarray(found.ids)[:, :width], ids)
        scores = np.asarray(found.scores)[:, :width]
        np.testing.assert_allclose(scores, np.asarray(expected.scores), atol=1e-5)


def test_the_engine_absorbs_fresh_rows_when_they_are_many(monkeypatch):
    monkeypatch.setattr(growing, "FRESH_ROWS", 20)
    bank = bank_of(200)
    index = GrowingIndex("exact", first_rows(bank, 150), np.ones(150, bool))
    assert index.following(first_rows(bank, 170), np.ones(170, bool)).absorbed == 150
    assert index.following(first_rows(bank, 171), np.ones(171, bool)).absorbed == 171


def test_no_queries_and_chunks_of_queries(monkeypatch):
    bank = bank_of(60)
    index = GrowingIndex("exact", first_rows(bank, 50), np.ones(50, bool))
    index = index.following(bank, np.ones(60, bool))
    assert index.search(queries_of(0), 3).ids.shape == (0, 3)
    whole = index.search(queries_of(9), 4)
    monkeypatch.setattr(fresh_rows, "_SCORES_AT_ONCE", 20)  # two queries at a time
    for one, other in zip(index.search(queries_of(9), 4), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scann_takes_fresh_rows_in_and_is_built_anew_without_the_dead(monkeypatch):
    monkeypatch.setattr(growing, "FRESH_ROWS", 20)
    bank = bank_of(300)
    index = GrowingIndex("scann", first_rows(bank, 200), np.ones(200, bool), eligibility="all")
    later = index.following(first_rows(bank, 250), np.ones(250, bool))
    assert later.absorbed == 250 and later._built._rows is index._built._rows
    alive = np.arange(300) % 3 == 0
    truth = ExactIndex(bank, eligibility="all").hiding(~alive).search(queries_of(9), 7)
    meanwhile = later.following(bank, alive)
    fewer = meanwhile.settled()
    assert fewer._built.bank.rows == 100 and fewer.absorbed == 300
    assert (
        meanwhile.following(bank, alive)._built is fewer._built
    )  # the next version goes on from it
    for one in (meanwhile, fewer):
        np.testing.assert_array_equal(one.search(queries_of(9), 7).ids, truth.ids)


def test_a_training_that_fails_leaves_the_old_index_and_is_tried_again(monkeypatch, caplog):
    bank = bank_of(300)
    index = GrowingIndex("scann", bank, np.ones(300, bool), eligibility="all")
    alive = np.arange(300) % 3 == 0
    truth = ExactIndex(bank, eligibility="all").hiding(~alive).search(queries_of(9), 7)

    def failing(*arguments, **options):
        raise MemoryError("no more\nmemory")

    with monkeypatch.context() as patch:
        patch.setattr(growing, "make_searcher", failing)
        index = index.following(bank, alive)
        with pytest.raises(MemoryError):
            index.settled()
    later = index.following(bank, alive)
    assert "could not be trained anew (no more memory)" in caplog.text
    for one in (later, later.settled()):
        np.testing.assert_array_equal(one.search(queries_of(9), 7).ids, truth.ids)
    assert later.settled()._built.bank.rows == 100


def test_equal_scores_go_to_the_earlier_row():
    draw = np.random.default_rng(0)
    bank = bank_of(90)
    few = bank.keys[draw.integers(0, 5, 90)]
    bank = MemoryBank(few, bank.target_ids, bank.user_ids, bank.lengths, bank.times)
    index = GrowingIndex(
        "exact", first_rows(bank, 10), np.ones(10, bool), eligibility="own_earlier"
    )
    found = index.following(bank, np.ones(90, bool)).search(queries_of(20), 12)
    truth = ExactIndex(bank, eligibility="own_earlier").search(queries_of(20), 12)
    np.testing.assert_allclose(found.scores, truth.scores, atol=1e-6)
    for row in range(20):  # within equal cosines by row
        scores, ids = np.asarray(found.scores)[row], np.asarray(found.ids)[row]
        same = np.flatnonzero(np.diff(scores) == 0)
        assert (np.diff(ids)[same] > 0).all()
