"""Parquet: every type that can be an id or a time, and what cannot be read in one sentence."""

import datetime
import decimal
import subprocess
import sys

import numpy as np
import pytest

from raserec_jax.data import parquet_files
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import read_item_text
from raserec_jax.data.readers import read_interactions
from raserec_jax.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow, an optional extra, is not installed")
pq = pytest.importorskip("pyarrow.parquet")

USERS, ITEMS, TIMES = ["u", "é", "u"], [7, 8, 9], [30, 20, 10]
EXPECTED = InteractionLog.from_columns(USERS, ITEMS, timestamp=TIMES).fingerprint()


def written(tmp_path, columns, **options):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    "users",
    [
        pa.array(USERS),
        pa.array(USERS, pa.large_string()),
        pa.array(USERS).dictionary_encode(),
        pa.array(user.encode() for user in USERS),
        pa.array(["x", *USERS, "y"])[1:4],
    ],
    ids=["string", "large", "dictionary", "binary", "slice"],
)
@pytest.mark.parametrize(
    "items",
    [pa.array(ITEMS), pa.array(ITEMS, pa.uint8()), pa.array(map(str, ITEMS))],
    ids=["int64", "uint8", "string"],
)
@pytest.mark.parametrize(
    "times",
    [
        pa.array(TIMES),
        pa.array(TIMES, pa.float32()),
        pa.array(TIMES, pa.timestamp("us")),
        pa.array(TIMES, pa.timestamp("ms", tz="Europe/Paris")),
        pa.array(map(str, TIMES)),
        pa.array(map(decimal.Decimal, TIMES), pa.decimal128(5, 2)),
    ],
    ids=["int64", "float32", "timestamp", "zone", "string", "decimal"],
)
def test_types(tmp_path, users, items, times):
    columns = {"rating": ["x"] * 3, "user_id": users, "parent_asin": items, "timestamp": times}
    path = written(tmp_path, columns)
    assert read_interactions(path).fingerprint() == EXPECTED
    assert read_interactions(path, format="parquet").name == "log"


def test_dates_are_seconds_and_huge_ids_are_names(tmp_path):
    day = datetime.date(1970, 1, 3)
    columns = {"user_id": np.array([2**63], np.uint64), "item_id": [1], "timestamp": [day]}
    log = read_interactions(written(tmp_path, columns))
    assert (log.timestamps.tolist(), log.user_labels.tolist()) == ([172_800], [str(2**63)])


def test_batches_columns_and_threshold(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "_ROWS_AT_ONCE", 2)
    columns = {"who": USERS, "what": ITEMS, "stars": [5.0, 1.0, 4.0], "when": TIMES}
    path = written(tmp_path, columns, row_group_size=2)
    names = {"user_id": "who", "item_id": "what", "rating": "stars", "timestamp": "when"}
    assert read_interactions(path, columns=names).fingerprint() == EXPECTED
    log = read_interactions(path, columns=names, min_rating=4)
    kept = InteractionLog.from_columns(["u", "u"], [7, 9], timestamp=[30, 10])
    assert log.fingerprint() == kept.fingerprint()


GOOD = {"user_id": USERS, "item_id": ITEMS}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": USERS, "item_id": ITEMS}, r"schema: no column 'user_id' among 'user', 'item_id' \(did you mean"),
        ({"user_id": ["a", None, "b"], "item_id": ITEMS}, r"row 2, column 'user_id': found 'None' in a column of"),
        ({"user_id": ["a", "", "b"], "item_id": ITEMS}, r"row 2, column 'user_id': found '', expected an id; fill"),
        ({"user_id": ["a", "b", "c\0"], "item_id": ITEMS}, r"row 3, column 'user_id': found 'c\\x00' .* without NUL"),
        ({"user_id": [b"a", b"\xff", b"b"], "item_id": ITEMS}, r"cannot read \(Invalid UTF8"),
        ({"user_id": [1.5, 2, 3], "item_id": ITEMS}, r"row 1, column 'user_id': found '1.5' in a column of 'double'"),
        ({"user_id": [[1], [2], [3]], "item_id": ITEMS}, r"row 1, column 'user_id': found '\[1\]' in a column of"),
        ({**GOOD, "timestamp": [1.0, float("nan"), 2.0]}, r"row 2, column 'timestamp': found 'nan' .* a finite number"),
        ({**GOOD, "timestamp": [1, None, 2]}, r"row 2, column 'timestamp': found 'None' .* expected a value; fill"),
        ({**GOOD, "timestamp": ["1", "x", "2"]}, r"row 2, column 'timestamp': found 'x', expected a number"),
        ({**GOOD, "timestamp": [True, True, False]}, r"found 'True' in a column of 'bool', expected numbers or times"),
        ({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}, r"parquet: no rows in it"),
    ],
)  # fmt: skip
def test_refused_in_one_sentence(tmp_path, columns, message):
    path = written(tmp_path, columns)
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_and_paths(tmp_path):
    path = written(tmp_path, GOOD)
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b"PAR1", b"PAR1" + bytes(99)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="log.parquet: damaged Parquet file, or of a kind"):
            read_interactions(path)
    with pytest.raises(DataError, match=r"absent: cannot be read \(No such file or directory\)"):
        read_interactions(tmp_path / "absent", format="parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions("a\0b", format="parquet")
    (tmp_path / "log.tsv").write_text("user_id\titem_id\n1\t2\n")
    with pytest.raises(DataError, match="log.tsv: damaged Parquet file"):
        read_interactions(tmp_path / "log.tsv", format="parquet")


def test_item_text(tmp_path):
    when = datetime.datetime(2014, 7, 23, 1, 2)
    columns = {"title": ["A", None, "C"], "parent_asin": ["b", "a", "b"], "price": [1.5, 2, 3]}
    columns |= {"tags": [["x", "y"], [], None], "seen": [when] * 3, "more": [{"a": 1}] * 3}
    text = read_item_text(written(tmp_path, columns))
    assert text.labels.tolist() == ["b", "a"]
    assert text.columns["title"] == ["A", ""]
    assert text.columns["price"] == ["1.5", "2.0"]
    assert text.columns["tags"] == ["x|y", ""]
    assert text.columns["seen"] == ["2014-07-23 01:02:00"] * 2
    assert text.columns["more"] == ['{"a": 1}'] * 2


def test_without_pyarrow_the_command_that_installs_it(tmp_path):
    path = written(tmp_path, GOOD)
    code = f"""
import sys
sys.modules["pyarrow"] = None  # as if it were not installed
from raserec_jax.data import read_interactions
from raserec_jax.errors import ConfigError
try:
    read_interactions({str(path)!r})
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "Parquet needs pyarrow, which is not installed; run: pip install 'raserec_jax[parquet]'"
    )
