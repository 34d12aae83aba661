"""Histories in Parquet: the same rows as in text, and every mistake in one sentence."""

import pytest

from raserec_jax.data import history_parquet
from raserec_jax.data.histories import place_of, read_histories
from raserec_jax.data.history_rows import HistoryRow
from raserec_jax.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow, an optional extra, is not installed")
pq = pytest.importorskip("pyarrow.parquet")


def written(tmp_path, **columns):
    path = tmp_path / "histories"
    pq.write_table(pa.table(columns), path)
    return path


def test_lists_and_strings_of_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(history_parquet, "_ROWS_AT_ONCE", 2)
    expected = [
        HistoryRow(1, "a", ["x", "y"]),
        HistoryRow(2, "b", ["x"]),
        HistoryRow(3, "c", ["z"]),
    ]
    users, lists = ["a", "b", "c"], [["x", "y"], ["x"], ["z"]]
    path = written(tmp_path, history=lists, other=[1, 2, 3], user_id=users)
    assert list(read_histories(path)) == expected
    assert place_of(path, expected[1]) == f"{path}, row 2"
    path = written(tmp_path, user_id=users, history=["x y", " x ", "z"])
    assert list(read_histories(path)) == expected
    path = written(tmp_path, user_id=pa.array(users).dictionary_encode(), history=lists)
    assert list(read_histories(path)) == expected


def test_integers_stay_integers(tmp_path):
    path = written(tmp_path, user_id=[7, 8], history=[[1, 2], [3]])
    assert list(read_histories(path)) == [HistoryRow(1, 7, [1, 2]), HistoryRow(2, 8, [3])]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["a"], "history": [["x"]]}, "expected one column 'user_id' in its schema, found 'user', 'hist"),
        ({"user_id": ["a"]}, "expected one column 'history' in its schema"),
        ({"user_id": ["a", None], "history": [["x"], ["x"]]}, "row 2: user_id is 'null', expected an integer"),
        ({"user_id": ["a"], "history": [None]}, "row 1: history is 'null', expected a list of item ids"),
        ({"user_id": ["a"], "history": [[]]}, "row 1: empty history of user 'a'"),
        ({"user_id": ["a"], "history": [["x", None]]}, "row 1: history is .* expected a list of item ids"),
        ({"user_id": ["a"], "history": [[1.5]]}, r"row 1: history is '\[1\.5\]', expected a list"),
        ({"user_id": ["a"], "history": [[b"x"]]}, "row 1: history is .* expected a list of item ids"),
        ({"user_id": [""], "history": [["x"]]}, "row 1: empty user_id"),
        ({"user_id": ["a"], "history": [["x" * 300]]}, "row 1: found the id 'xxx.*at most 256"),
    ],
)  # fmt: skip
def test_unusable_tables(tmp_path, columns, message):
    with pytest.raises(DataError, match=message) as caught:
        list(read_histories(written(tmp_path, **columns)))
    assert len(str(caught.value).splitlines()) == 1


def test_damage(tmp_path):
    path = written(tmp_path, user_id=["a"] * 99, history=[["x"]] * 99)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged Parquet file"):
        list(read_histories(path))
