"""Files of histories: both formats, and what is wrong with a file said in one sentence."""

import gzip

import pytest

from raserec_jax.data import histories
from raserec_jax.data.histories import read_histories
from raserec_jax.data.history_rows import HistoryRow
from raserec_jax.errors import DataError

TABLE = "user_id\thistory\nu1\ta b c\nu2\tb\n"
LINES = '{"user_id": "u1", "history": ["a", "b", "c"]}\n{"history": ["b"], "user_id": "u2"}\n'


def read(tmp_path, content, name="histories"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return list(read_histories(path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("content", "first_line"), [(TABLE, 2), (LINES, 1)])
def test_both_formats_are_told_by_their_content(tmp_path, content, first_line, packed):
    content = gzip.compress(content.encode()) if packed else content
    assert read(tmp_path, content) == [
        HistoryRow(first_line, "u1", ["a", "b", "c"]),
        HistoryRow(first_line + 1, "u2", ["b"]),
    ]


def test_table_may_have_other_columns_empty_lines_and_line_ends_of_any_kind(tmp_path):
    content = "\ufeffnote\thistory \tuser_id\r\nx\ta  b \tu1\r\n\r\n\t7\t8"
    assert read(tmp_path, content) == [HistoryRow(2, "u1", ["a", "b"]), HistoryRow(4, "8", ["7"])]


def test_json_keeps_ids_as_they_are(tmp_path):
    content = '\n{"user_id": 7, "history": [3, "a b", "ü"], "more": null}\n'
    assert read(tmp_path, content) == [HistoryRow(2, 7, [3, "a b", "ü"])]


def test_rows_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "histories"
    path.write_text(TABLE + "broken\n")
    rows = read_histories(path)
    assert [next(rows).user_id, next(rows).user_id] == ["u1", "u2"]
    with pytest.raises(
        DataError, match="line 4: 1 fields in 'broken', expected 2 as in the header"
    ):
        next(rows)


LONG = "a" * 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"empty file; expected a header line 'user_id<tab>history'"),
        ("\n\n", "empty file"),
        ("user_id\thistory\n", "no histories; expected one line per user"),
        ("user\thistory\nu\ta\n", r"line 1: no column 'user_id' among 'user', 'history' .did you mean 'user'"),
        ("user_id\titems\nu\ta\n", "line 1: no column 'history' among 'user_id', 'items'; the first line must"),
        ("user_id,history\nu,a\n", "line 1: no column 'user_id' among 'user_id,history'.*separated by a tab"),
        ("user_id\tuser_id\thistory\n", "line 1: column 'user_id' occurs twice"),
        ("user_id\thistory\nu\ta\tb\n", "line 2: 3 fields in .*expected 2 as in the header"),
        ("user_id\thistory\nu1\ta\nu2\t \n", "line 3: empty history of user 'u2', expected at least one item"),
        ("user_id\thistory\n\ta\n", "line 2: empty user_id; fill it in or drop the row"),
        (f"user_id\thistory\nu\t{LONG}\n", "line 2: found the id 'aaa.*at most 256 characters; are the items"),
        (LINES + '{"user_id": 1, "history": ["a"]\n', "line 3: not JSON .*in '{.user_id.*repair or drop"),
        ("[" * 100_000, "line 1: not JSON .nested too deeply"),
        ('[{"user_id": 1}]\n', "line 1: found .*expected one JSON object per line, such as"),
        ('{"user": 1, "history": [1]}', "line 1: no 'user_id' among 'user', 'history'; expected such as"),
        ('{"user_id": 1}', "line 1: no 'history' among 'user_id'"),
        ('{"user_id": 1, "history": []}', "line 1: empty history of user '1'"),
        ('{"user_id": 1, "history": "a b"}', "line 1: history is '.a b.', expected a list of item ids"),
        ('{"user_id": 1, "history": [1.5]}', r"line 1: history is '\[1\.5\]', expected a list of item ids"),
        ('{"user_id": 1, "history": [true]}', r"line 1: history is '\[true\]', expected a list"),
        ('{"user_id": null, "history": [1]}', "line 1: user_id is 'null', expected an integer or a string"),
        ('{"user_id": "\\ud800", "history": [1]}', "line 1: user_id .* is no valid text"),
        (b"user_id\thistory\nu\t\xff\xfe\n", r"line 2: bytes b'\\xff\\xfe\\n', expected UTF-8 text"),
        (b"user_id\thistory\nu\ta\0b\n", "line 2: a NUL byte, expected text; is this a binary file"),
        (gzip.compress(TABLE.encode())[:-9], "truncated gzip file, its end is missing"),
        (gzip.compress(TABLE.encode())[:-8] + b"\1" * 8, "damaged gzip file .*copy or make it again"),
    ],
)  # fmt: skip
def test_unusable_file_is_one_sentence(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "histories") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match="none: no such file; check the path"):
        read_histories(tmp_path / "none")
    with pytest.raises(DataError, match="is a folder; give the file of histories in it"):
        read_histories(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be read \(Not a directory\)"):
        read_histories(tmp_path / "file" / "inner")


def test_a_line_without_end_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(histories, "_LONGEST_LINE", 100)
    with pytest.raises(DataError, match="line 2: longer than 0 MiB, expected one user per line"):
        read(tmp_path, "user_id\thistory\n" + "a" * 500)
