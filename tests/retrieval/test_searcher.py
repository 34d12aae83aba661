"""The choice of an engine, and a recall report that can be trusted."""

import jax
import numpy as np
import pytest

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.retrieval import searcher as searcher_module
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.searcher import (
    Searcher,
    engine_name,
    make_searcher,
    recall_against_exact,
)


def make_bank(rows, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(rows, dim)).astype(np.float32)
    return MemoryBank(keys, np.ones(rows, int), np.arange(rows) % 7, np.arange(rows) % 5 + 1)


def queries_of(bank, count):
    return Queries(bank.keys[:count], bank.user_ids[:count], bank.lengths[:count])


def no_scann():
    raise ConfigError("engine=scann needs ScaNN; install it with `pip install 'scann>=1.4.2'`")


@pytest.mark.parametrize(
    ("rows", "backend", "scann", "expected"),
    [
        (19_999, "cpu", True, "exact"),
        (20_000, "cpu", True, "scann"),
        (20_000, "cpu", False, "exact"),
        (10**7, "gpu", True, "exact"),
        (10**7, "tpu", True, "exact"),
    ],
)
def test_auto_is_exact_where_that_is_fast_enough(monkeypatch, rows, backend, scann, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(searcher_module, "import_scann", (lambda: None) if scann else no_scann)
    assert searcher_module._choose(rows) == expected


def test_engines_by_name(monkeypatch):
    bank = make_bank(30)
    for engine in ("exact", "auto"):
        index = make_searcher(engine, bank, eligibility="all")
        assert isinstance(index, ExactIndex) and isinstance(index, Searcher)
        assert index.eligibility == "all" and engine_name(index) == "exact"
    with pytest.raises(
        ConfigError,
        match="engine='faiss' is unknown; set config.memory.engine to one of auto, exact",
    ):
        make_searcher("faiss", bank)
    monkeypatch.setattr("raserec_jax.retrieval.scann_index.import_scann", no_scann)
    with pytest.raises(ConfigError, match="pip install 'scann"):
        make_searcher("scann", bank)


def test_scann_by_name():
    pytest.importorskip("scann", reason="ScaNN is not installed")
    index = make_searcher("scann", make_bank(30), eligibility="own_earlier", recall_target=0.5)
    assert isinstance(index, Searcher) and engine_name(index) == "scann"


class Worse:
    """Finds what exact search finds, but for the first `missed` of each query, which it replaces."""

    def __init__(self, bank, missed, replacement):
        self.bank, self.eligibility, self.build_s = bank, "all", 0.5
        self.missed, self.replacement = missed, replacement
        self.exact = ExactIndex(bank, eligibility="all")

    def search(self, queries, k):
        found = self.exact.search(queries, k)
        ids = np.array(found.ids)
        ids[:, : self.missed] = self.replacement
        mask = ids >= 0
        return found._replace(ids=jax.numpy.asarray(ids), mask=jax.numpy.asarray(mask))


@pytest.mark.parametrize(("missed", "recall"), [(0, 1.0), (1, 0.75), (4, 0.0)])
def test_recall_counts_what_is_missed(missed, recall):
    bank = make_bank(200)
    worst = np.asarray(ExactIndex(bank, eligibility="all").search(queries_of(bank, 8), 200).ids)[
        :, -1:
    ]
    for replacement in (-1, worst):
        index = Worse(bank, missed, replacement)
        report = recall_against_exact(index, bank, queries_of(bank, 8), 4, "all")
        assert report["recall"] == recall
        assert (report["build_s"], report["queries"]) == (0.5, 8)
        assert report["queries_per_s"] > 0


def test_any_of_equal_rows_is_right():
    bank = make_bank(40)
    columns = ("keys", "target_ids", "user_ids", "lengths")
    doubled = MemoryBank(*(np.concatenate([getattr(bank, name)] * 2) for name in columns))
    # Exact search takes the lower of two equal rows first, this one only the higher.
    truth = np.asarray(ExactIndex(doubled, eligibility="all").search(queries_of(bank, 8), 4).ids)
    index = Worse(doubled, 4, truth[:, [1, 1, 3, 3]])
    assert recall_against_exact(index, doubled, queries_of(bank, 8), 4, "all")["recall"] == 1


def test_recall_draws_a_sample_and_is_1_where_nothing_may_be_seen():
    bank = make_bank(60)
    index = ExactIndex(bank)
    report = recall_against_exact(index, bank, queries_of(bank, 60), 4, "own_earlier", sample=7)
    assert (report["queries"], report["recall"]) == (7, 1)
    lonely = MemoryBank(bank.keys, bank.target_ids, np.zeros(60, int), bank.lengths)
    queries = Queries(bank.keys[:8], np.zeros(8, int), np.zeros(8, int))
    report = recall_against_exact(ExactIndex(lonely), lonely, queries, 4, "own_earlier")
    assert report["recall"] == 1


def test_what_recall_refuses():
    bank = make_bank(60)
    index = ExactIndex(bank)
    with pytest.raises(DataError, match="recall needs queries but 0 were given"):
        recall_against_exact(index, bank, queries_of(bank, 0), 4, "own_earlier")
    with pytest.raises(ConfigError, match="top_k=61 but the bank has 60 rows"):
        recall_against_exact(index, bank, queries_of(bank, 5), 61, "own_earlier")
    # Rows 1, 8 and 15 are user 1's; so is query 1, which has no items yet.
    own = Queries(bank.keys[:3], bank.user_ids[:3], np.zeros(3, int))
    message = (
        "^3 rows that their queries must not see were retrieved, the first for query 1 of user 1;"
    )
    with pytest.raises(DataError, match=message):
        recall_against_exact(Worse(bank, 3, 3 * [[1, 8, 15]]), bank, own, 4, "own_earlier")
