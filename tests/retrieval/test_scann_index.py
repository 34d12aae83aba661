"""ScannIndex: never a row too many, the best K where it looks at all rows, and good recall where it does not."""

import builtins
import sys
import threading

import numpy as np
import pytest

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.retrieval import scann_index
from raserec_jax.retrieval.eligibility import RULES, Queries, audit
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.layout import unit_rows
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.scann_index import ScannIndex, import_scann
from raserec_jax.retrieval.searcher import recall_against_exact

try:
    import_scann()
except ConfigError as error:
    pytest.skip(f"ScaNN is not here: {error}", allow_module_level=True)


def make_bank(rows, dim, seed=0, users=50, clusters=40):
    """Clustered, as representations of histories are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    keys = centres[rng.integers(0, clusters, rows)] + 0.3 * rng.normal(size=(rows, dim))
    return MemoryBank(
        keys=keys.astype(np.float32),
        target_ids=np.ones(rows, int),
        user_ids=rng.integers(0, users, rows),
        lengths=rng.integers(1, 20, rows),
        times=rng.integers(0, 1000, rows),
    )


def some_queries(bank, count, seed=1):
    rng = np.random.default_rng(seed)
    rows = rng.choice(bank.rows, count)
    vectors = bank.keys[rows] + 0.1 * rng.normal(size=(count, bank.dim)).astype(np.float32)
    return Queries(vectors, bank.user_ids[rows], bank.lengths[rows], bank.times[rows])


def assert_same(found, truth):
    """The same rows; where cosines are equal to rounding, either order."""
    np.testing.assert_array_equal(found.mask, truth.mask)
    np.testing.assert_allclose(found.scores, truth.scores, atol=2e-6)
    np.testing.assert_array_equal(np.sort(found.ids, axis=1), np.sort(truth.ids, axis=1))


@pytest.mark.parametrize("rule", RULES)
def test_brute_force_sized_banks_give_what_exact_search_gives(rule):
    bank = make_bank(1200, 8)  # sizes and top_k as in the next test: compiled once
    queries = some_queries(bank, 8)
    index = ScannIndex(bank, eligibility=rule)
    assert index.settings == {"kind": "brute_force"}
    assert_same(index.search(queries, 8), ExactIndex(bank, eligibility=rule).search(queries, 8))


@pytest.mark.parametrize("rule", ["own_earlier", "before"])
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"brute_force_below": 16, "tree_from": 10_000},
        {"brute_force_below": 16, "tree_from": 16},
    ],
)
def test_most_rows_ineligible(monkeypatch, rule, limits):
    """What a query sees are its worst rows, from none to more than k: fetching must grow, and end."""
    monkeypatch.setattr(scann_index, "_LARGEST_FETCH", 128)
    rng = np.random.default_rng(3)
    rows, k, dim = 1200, 8, 8
    query = rng.normal(size=dim)
    keys = query + 0.05 * rng.normal(size=(rows, dim))
    user_ids, times = np.zeros(rows, int), np.full(rows, 500)
    visible = rng.choice(rows, 30, replace=False)
    keys[visible] = -query + rng.normal(size=(30, dim))
    user_ids[visible] = np.arange(30) % 3 + 1
    times[visible] = np.arange(30)
    bank = MemoryBank(keys, np.ones(rows, int), user_ids, np.full(rows, 5), times)
    ends = np.array([0, 1, 5, 8, 9, 30, 500, 501])
    queries = Queries(
        np.tile(query, (8, 1)).astype(np.float32), np.arange(8) % 4, np.full(8, 5), ends
    )
    index = ScannIndex(bank, eligibility=rule, **limits)
    found = index.search(queries, k)
    truth = ExactIndex(bank, eligibility=rule).search(queries, k)
    assert not len(audit(found.ids, bank, queries, rule))
    np.testing.assert_array_equal(found.mask, truth.mask)
    if rule == "before":
        np.testing.assert_array_equal(
            np.asarray(found.mask).sum(axis=1),
            np.minimum(ends, k) * (ends < 501) + k * (ends > 500),
        )
    if index.settings["kind"] == "brute_force":
        assert_same(found, truth)
    short = np.asarray(found.mask).sum(axis=1) < k
    assert index.exact_queries >= short.sum()
    assert_same(*(type(found)(*(value[short] for value in result)) for result in (found, truth)))


def test_brute_force_that_has_looked_at_every_row_needs_no_exact_search():
    bank = make_bank(40, 4, users=1)
    queries = some_queries(bank, 5)._replace(lengths=np.zeros(5, int))
    index = ScannIndex(bank)
    found = index.search(queries, 10)
    assert not np.asarray(found.mask).any()
    assert (np.asarray(found.ids) == -1).all() and (np.asarray(found.scores) == 0).all()
    assert index.exact_queries == 0


class DryTree:
    """Answers as ScaNN's tree does when its leaves run dry: row 0 with distance NaN at the end."""

    def search_batched_parallel(self, vectors, final_num_neighbors, **limits):
        ids = np.zeros((len(vectors), final_num_neighbors), np.uint32)
        scores = np.full(ids.shape, np.nan, np.float32)
        ids[:, :2], scores[:, :2] = [7, 3], [0.9, 0.9]
        return ids, scores


def test_padding_of_a_dry_tree_is_not_row_0():
    bank = make_bank(1200, 8)
    index = ScannIndex(bank, eligibility="all")
    index._rows._searcher = DryTree()
    index.settings = {"kind": "tree", "reorder_factor": 2, "leaves": 8, "leaves_to_search": 1}
    queries = some_queries(bank, 5)
    two = index.search(queries, 2)
    np.testing.assert_array_equal(two.ids, [[3, 7]] * 5)  # the lower row first
    assert index.exact_queries == 0
    assert_same(index.search(queries, 8), ExactIndex(bank, eligibility="all").search(queries, 8))
    assert index.exact_queries == 5


def test_the_kind_of_index_follows_the_size_of_the_bank():
    kinds = [
        scann_index._kind(rows, scann_index.BRUTE_FORCE_BELOW, scann_index.TREE_FROM)
        for rows in (0, 19_999, 20_000, 99_999, 100_000, 10**7)
    ]
    assert kinds == ["brute_force", "brute_force", "hashing", "hashing", "tree", "tree"]


@pytest.mark.parametrize(("rows", "kind"), [(6000, "hashing"), (12_000, "tree")])
def test_recall_of_larger_banks(rows, kind):
    bank = make_bank(rows, 8, users=700)
    index = ScannIndex(bank, brute_force_below=5000, tree_from=10_000)
    assert index.settings["kind"] == kind
    assert index.settings["tuning_recall"] >= 0.97
    report = recall_against_exact(index, bank, some_queries(bank, 128), 20, "own_earlier")
    assert report["recall"] > 0.9
    assert report["queries_per_s"] > 0 and report["build_s"] == index.build_s > 0


def test_a_higher_target_searches_more_leaves():
    bank = make_bank(3000, 16, clusters=1)
    leaves = []
    for target in (0.3, 1.0):
        index = ScannIndex(bank, recall_target=target, brute_force_below=100, tree_from=100)
        assert index.settings["kind"] == "tree" and index.settings["leaves"] == 55
        leaves.append(index.settings["leaves_to_search"])
    assert leaves[0] < leaves[1]


def test_an_index_is_tuned_to_another_target_without_being_built_again():
    """And with an exact index of the same bank no other is made, for the truth or for what is short."""
    bank = make_bank(3000, 16, clusters=1)
    exact = ExactIndex(bank, eligibility="all")
    size = {"brute_force_below": 100, "tree_from": 100}
    index = ScannIndex(bank, eligibility="all", recall_target=0.3, exact=exact, **size)
    before = dict(index.settings)
    higher = index.tuned_to(1.0)
    assert index.settings == before and higher.settings["leaves"] == before["leaves"]
    assert higher.settings["leaves_to_search"] > before["leaves_to_search"]
    assert higher._rows is index._rows and higher._exact is exact
    recalls = [
        recall_against_exact(one, bank, some_queries(bank, 64), 20, "all", exact=exact)["recall"]
        for one in (index, higher)
    ]
    assert recalls[0] < recalls[1] and recalls[1] > 0.99


@pytest.mark.parametrize("rows", [0, 1, 2, 15])
def test_tiny_banks(rows):
    bank = make_bank(rows, 4)
    index = ScannIndex(bank, brute_force_below=0, tree_from=0)
    assert index.settings["kind"] == "brute_force"
    queries = Queries(np.ones((3, 4), np.float32), np.full(3, 99), np.ones(3, int))
    with pytest.raises(ConfigError, match=f"top_k={rows + 1} but the bank has {rows} rows"):
        index.search(queries, rows + 1)
    if rows:
        found = index.search(queries, rows)
        order = np.argsort(-(unit_rows(bank.keys) @ np.full(4, 0.5)))
        np.testing.assert_array_equal(found.ids, np.tile(order, (3, 1)))


def test_no_queries_and_zero_vectors():
    bank = make_bank(50, 4)
    bank = MemoryBank(
        bank.keys * (np.arange(50) % 2)[:, None], bank.target_ids, bank.user_ids, bank.lengths
    )
    index = ScannIndex(bank, eligibility="all")
    queries = Queries(np.zeros((2, 4), np.float32), np.zeros(2, int), np.ones(2, int))
    assert index.search(Queries(*(column[:0] for column in queries[:3])), 3).ids.shape == (0, 3)
    found = index.search(queries, 50)  # every cosine is 0: the order of the bank
    np.testing.assert_array_equal(found.ids, np.tile(np.arange(50), (2, 1)))
    assert (np.asarray(found.scores) == 0).all() and not np.signbit(found.scores).any()


@pytest.mark.parametrize("target", [0.0, 1.5])
def test_a_recall_target_that_cannot_be(target):
    with pytest.raises(ConfigError, match=rf"recall_target={target} must be above 0 and at most 1"):
        ScannIndex(make_bank(5, 4), recall_target=target)


def test_before_needs_times():
    bank = make_bank(5, 4)
    with pytest.raises(ConfigError, match="eligibility=before needs times but the bank has none"):
        ScannIndex(
            MemoryBank(bank.keys, bank.target_ids, bank.user_ids, bank.lengths),
            eligibility="before",
        )


def test_scann_is_imported_without_tensorflow_and_its_absence_named(monkeypatch):
    tensorflow = object()
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    import_scann()
    assert sys.modules["tensorflow"] is tensorflow
    monkeypatch.delitem(sys.modules, "tensorflow")
    seen = []
    imported = builtins.__import__

    def without_scann(name, *args, **kwargs):
        if name == "scann":
            seen.append(sys.modules["tensorflow"])
            raise ImportError("no scann")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(scann_index.importlib, "import_module", without_scann)
    with pytest.raises(
        ConfigError, match=r"engine=scann needs ScaNN, .*\(no scann\); install it with `pip install"
    ):
        ScannIndex(make_bank(5, 4))
    assert seen == [None] and "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "limits", [{}, {"brute_force_below": 16, "tree_from": 10_000}, {"tree_from": 16}]
)
def test_rows_are_taken_into_a_built_index(limits):
    """By ScaNN itself; whoever reads the index before does not see them."""
    bank = make_bank(1500, 8)
    first = bank.select(slice(0, 1200))
    limits = {"brute_force_below": 16} | limits if limits else {}
    index = ScannIndex(first, eligibility="all", **limits)
    later = index.following(bank)
    assert later.bank.rows == 1500 and later._rows is index._rows  # nothing was built anew
    asked = Queries(
        bank.keys[1200:1300], *(column[1200:1300] for column in (bank.user_ids, bank.lengths))
    )
    assert (np.asarray(later.search(asked, 5).ids)[:, 0] == np.arange(1200, 1300)).mean() >= 0.8
    recall = recall_against_exact(later, bank, some_queries(bank, 64), 8, "all")["recall"]
    assert recall >= 0.8
    before = index.search(asked, 5)
    assert np.asarray(before.mask).all() and np.asarray(before.ids).max() < 1200
    assert index.following(bank) is None  # another bank went on from it
    hidden = np.zeros(1500, bool)
    hidden[1200:] = True
    assert np.asarray(later.hiding(hidden).search(asked, 5).ids).max() < 1200


def test_an_index_that_has_doubled_wants_training():
    bank = make_bank(900, 8)
    index = ScannIndex(bank.select(slice(0, 400)), brute_force_below=16)
    index = index.following(bank.select(slice(0, 800)))
    assert not index.wants_training
    assert index.following(bank).wants_training


def test_what_scann_would_refuse_changes_nothing():
    bank = make_bank(100, 8)
    rows = ScannIndex(bank)._rows
    for vectors in (np.full((2, 8), np.nan), np.zeros((2, 7))):
        with pytest.raises(DataError, match="width 8"):
            rows.append(vectors, 100)
    assert rows.rows == 100 and rows.append(np.ones((2, 8)), 100) and rows.rows == 102


def test_readers_beside_a_writer():
    """Each finds rows of its own version only, with their own cosines, while rows are added."""
    bank = make_bank(4000, 8)
    first = bank.select(slice(0, 2000))
    index = ScannIndex(first, eligibility="all", brute_force_below=16)
    asked = some_queries(bank, 16)
    cosines = unit_rows(asked.vectors) @ unit_rows(first.keys).T
    wrong, reads, stop = [], [], threading.Event()

    def read():
        while not stop.is_set():
            ids, scores, mask = map(np.asarray, index.search(asked, 5))
            right = mask.all() and ids.max() < 2000
            if not right or np.abs(np.take_along_axis(cosines, ids, 1) - scores).max() > 1e-5:
                wrong.append(ids)
            reads.append(1)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    later = index
    for rows in range(2100, 4001, 100):
        later = later.following(bank.select(slice(0, rows)))
    stop.set()
    for reader in readers:
        reader.join()
    assert later.bank.rows == 4000 and reads and not wrong
