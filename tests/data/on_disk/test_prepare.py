"""Preparation on the disk makes the very bytes of preparation in memory; its parts; what fails leaves nothing."""

import os
import pathlib
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.data import preparation, read_interactions
from raserec_jax.data.filters import Filters
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.known_sets import locate
from raserec_jax.data.on_disk.labels import LabelSet, all_integers, num_characters
from raserec_jax.data.on_disk.pieces import add_piece, pieces
from raserec_jax.data.on_disk.prepare import prepare_on_disk
from raserec_jax.errors import ConfigError, DataError

KEEP_ALL = Filters(min_interactions=1)


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same(path, filters, folder, rows_at_once, **columns):
    """Both ways end alike: in the same files, or in the same error and no files."""
    one, other = folder / "memory", folder / "disk"

    def in_memory():
        log = read_interactions(path, min_rating=filters.min_rating, **columns)
        log = filters.apply(log)
        log.save(one)
        return log.statistics(), log.fingerprint()

    def on_disk():
        found = prepare_on_disk(path, other, filters=filters, rows_at_once=rows_at_once, **columns)
        return found.log, found.fingerprint

    found = []
    for prepare in (in_memory, on_disk):
        try:
            found.append(prepare())
        except (DataError, ConfigError) as error:
            found.append(str(error))
    assert found[0] == found[1]
    left = {"memory", "disk"} & set(os.listdir(folder))
    assert set(os.listdir(folder)) - left <= {path.name}, "something was left over"
    if isinstance(found[0], str):
        assert not left
        return None
    assert written(one) == written(other)
    return InteractionLog.load(other)


def write_table(path, rows, names=("user_id", "item_id", "timestamp", "rating")):
    lines = ["\t".join(names), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


ids = st.one_of(
    st.integers(-3, 30).map(str),
    st.sampled_from(["007", "a", "é", "日本", "-9223372036854775808", "x" * 30, "10", "9"]),
)
number = st.one_of(st.integers(-5, 5), st.sampled_from([0.5, 2.0, 1e9, 1.4e9, 4.1e8]))
all_filters = st.builds(
    Filters,
    min_rating=st.sampled_from([None, 2, 9]),
    from_date=st.sampled_from([None, -2, "1990-01-01"]),
    to_date=st.sampled_from([None, 3]),
    duplicates=st.sampled_from(["all", "first", "last"]),
    min_history=st.integers(1, 3),
    max_history=st.sampled_from([0, 4]),
    min_interactions=st.integers(1, 3),
)


@settings(max_examples=120)
@given(
    st.lists(st.tuples(ids, ids, number, st.integers(1, 5)), min_size=1, max_size=40),
    all_filters,
    st.sampled_from([1, 3, 100]),
    st.booleans(),
)
def test_the_bytes_are_those_of_the_ordinary_way(tmp_path_factory, rows, filters, at_once, times):
    folder = tmp_path_factory.mktemp("both")
    names = ["user_id", "item_id", "timestamp" if times else "position", "rating"]
    assert_same(write_table(folder / "log.tsv", rows, names), filters, folder, at_once)


@pytest.mark.parametrize("rows_at_once", [1500, 10**6])
def test_a_large_log_of_many_pieces(tmp_path, rows_at_once, monkeypatch):
    monkeypatch.setattr("raserec_jax.data.sources.BLOCK_BYTES", 2**13)
    draw = np.random.default_rng(1)
    users = draw.integers(0, 700, 12_000) ** 2 % 997
    items = (draw.pareto(1.0, 12_000) * 20).astype(int) % 900
    times = draw.integers(10**9, 10**9 + 4000, 12_000)
    rows = zip((f"u{user}" for user in users), items, times, strict=True)
    path = write_table(tmp_path / "log.tsv", rows, ("user_id", "item_id", "timestamp"))
    log = assert_same(path, Filters(min_interactions=9), tmp_path, rows_at_once)
    assert 0 < log.num_interactions < 12_000  # several rounds of the core
    dates = Filters(
        from_date="2001-09-09T01:50:00", to_date="2001-09-09T02:40:00", duplicates="last"
    )
    assert_same(path, dates, tmp_path, rows_at_once)


def test_a_real_log(tmp_path):
    path = locate("movielens_100k").interactions
    log = assert_same(pathlib.Path(path), Filters(min_rating=3), tmp_path, 20_000)
    assert log.num_interactions > 50_000


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (Filters(from_date="2020-01-01"), "its times run from"),
        (Filters(min_history=50), "no user is left with min_history=50"),
        (Filters(min_interactions=50), "no user left with at least 50"),
        (Filters(min_rating=9), "no rating reaches min_rating=9"),
    ],
)
def test_nothing_left_is_told_alike(tmp_path, filters, words):
    rows = [(f"u{n % 5}", n % 3, 10**9 + n, 4) for n in range(40)]
    path = write_table(tmp_path / "log.tsv", rows)
    assert assert_same(path, filters, tmp_path, 10) is None
    with pytest.raises(DataError, match=words):
        prepare_on_disk(path, tmp_path / "out", filters=filters)


def test_prepare_goes_to_the_disk_by_size_or_when_asked(tmp_path, monkeypatch):
    rows = [(f"u{n % 5}", n % 3, 10**9 + n, 4) for n in range(60)]
    path = write_table(tmp_path / "log.tsv", rows)
    items = write_table(tmp_path / "items.tsv", [(1, "one"), (7, "x")], ("item_id", "title"))
    shown = []

    class Bar:
        def __init__(self, total, desc, unit):
            shown.append((desc, total))
            self.left = total

        def __enter__(self):
            return self

        def __exit__(self, *_):
            assert self.left in (0, None)

        def update(self, n=1):
            self.left = None if self.left is None else self.left - n

    def run(name, **how):
        shown.clear()
        told = preparation.prepare(
            interactions=path, items=items, output=tmp_path / name, progress=Bar, **how
        )
        return told.replace(name, "")

    expected = run("plain")
    assert not shown
    assert run("asked", on_disk="yes") == expected
    assert dict(shown) == {
        "read": 1,
        "divide": 60,
        "order": 1,
        "core": None,
        "write": 5,
    }
    monkeypatch.setattr(preparation, "LARGE_BYTES", 100)
    assert run("large") == expected and shown
    assert run("small", on_disk="no") == expected and not shown
    assert written(tmp_path / "plain") == written(tmp_path / "asked")
    assert written(tmp_path / "large").keys() == written(tmp_path / "asked").keys()
    without_output = preparation.prepare(interactions=path, on_disk="yes")
    assert without_output.splitlines()[:7] == expected.splitlines()[:7]
    with pytest.raises(ConfigError, match="on_disk='maybe' is unknown"):
        preparation.prepare(interactions=path, on_disk="maybe")
    with pytest.raises(ConfigError, match="on_disk=yes is for files"):
        preparation.prepare(interactions=tmp_path / "plain", on_disk="yes")


def test_a_full_disk_leaves_what_was_there(tmp_path):
    rows = [(f"user{n % 500}", n % 97, 10**9 + n, 4) for n in range(20_000)]
    path, out = write_table(tmp_path / "log.tsv", rows), tmp_path / "out"
    InteractionLog.from_columns([1], [2]).save(out)
    before = written(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (3_000, 60_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(DataError, match="out: cannot be written .*free space"):
                prepare_on_disk(path, out, rows_at_once=1000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert written(out) == before
        assert sorted(os.listdir(tmp_path)) == ["log.tsv", "out"]
    prepare_on_disk(path, out, rows_at_once=1000)
    assert InteractionLog.load(out).num_interactions == 20_000


def test_a_folder_of_other_files_is_kept(tmp_path):
    path = write_table(tmp_path / "log.tsv", [(1, 2, 3, 4)])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds 'thesis.txt', which saving would delete"):
        prepare_on_disk(path, tmp_path / "mine", filters=KEEP_ALL)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_pieces_come_back_in_order(tmp_path):
    path = tmp_path / "pieces"
    assert not list(pieces(path, 2))
    groups = [(np.arange(3), None), (np.array([b"a", b"bc"]), np.array([0.5]))]
    for group in groups:
        add_piece(path, group)
    for found, expected in zip(pieces(path, 2), groups, strict=True):
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one, other) and getattr(one, "dtype", 0) == getattr(
                other, "dtype", 0
            )


def test_labels_in_pieces():
    found = LabelSet()
    for labels in ([3, 1], [7, 3]):
        found.add(np.array(labels))
    found.add(np.array([b"12", b"-4"]))
    np.testing.assert_array_equal(found.finish(), [-4, 1, 3, 7, 12])
    found.add(np.array([3, 1]))
    found.add(np.array([b"a", b"007"]))
    assert found.finish().tolist() == [b"007", b"1", b"3", b"a"]
    assert all_integers(np.array([b"1", b"-20"])) and not all_integers(np.array([b"1", b"02"]))
    assert num_characters(np.strings.encode(np.array(["日本é", "ab"]), "utf-8")) == 3
    assert num_characters(np.array([-100, 7])) == 4
