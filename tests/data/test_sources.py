"""Text in blocks: the same lines whatever the size of the blocks, and every damage told with its place."""

import gzip
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data import sources
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.sources import text_blocks
from raserec_jax.errors import DataError


def read(path, **options):
    return list(text_blocks(path, **options))


lines = st.lists(st.text("ab\u00e9 \t\r\n", max_size=4), min_size=1, max_size=8)


@given(lines, st.booleans(), st.integers(1, 9))
def test_the_size_of_blocks_does_not_matter(tmp_path_factory, parts, packed, size):
    text = "x" + "".join(parts)
    content = ("\ufeff" + text).encode()
    path = tmp_path_factory.mktemp("blocks") / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", size)
        blocks = read(path)
    assert b"".join(block.content for block in blocks).decode() == (
        (text + "\n").replace("\r\n", "\n").rstrip("\n") + "\n"
    )
    line = 1
    for block in blocks:
        assert block.first_line == line
        assert block.content.endswith(b"\n")
        line += block.content.count(b"\n")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (b"a\0b\n", r"line 101, byte 2: a NUL byte"),
        (b"ab\xff\n", r"line 101, byte 3: bytes b'\\xff\\n', expected UTF-8"),
        (b"b" * 200, r"line 101: longer than 0 MiB, expected a row per line"),
    ],
)
def test_places_far_into_a_file(tmp_path, monkeypatch, rest, message):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 16)
    monkeypatch.setattr(sources, "LONGEST_LINE", 100)
    (tmp_path / "file").write_bytes(b"ab\n" * 100 + rest)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "file")


@pytest.mark.parametrize("blanks", [b"\n" * 50, b" \n" * 50, b"\r\n" * 50])
def test_blank_lines_at_the_end_of_blocks(tmp_path, monkeypatch, blanks):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 16)
    path = tmp_path / "file"
    path.write_bytes(blanks)
    with pytest.raises(DataError, match="empty file"):
        read(path)
    path.write_bytes(b"a,b\n1,2\n" + blanks)
    assert b"".join(block.content for block in read(path)).strip() == b"a,b\n1,2"
    path.write_bytes(b"a\n" + blanks + b"b\n")
    assert read(path)[-1].content == b"b\n" or read(path)[-1].content.endswith(b"\nb\n")
    assert sum(block.content.count(b"\n") for block in read(path)) == 52


def test_latin1_only_where_asked_for_and_only_with_double_colons(tmp_path):
    path = tmp_path / "movies.dat"
    path.write_bytes(b"73::Mis\xe9rables, Les::Drama\n")
    assert read(path, latin1_dat=True)[0].content.decode() == "73::Misérables, Les::Drama\n"
    with pytest.raises(DataError, match="expected UTF-8"):
        read(path)
    path.write_bytes(b"73\tMis\xe9rables\n")
    with pytest.raises(DataError, match="expected UTF-8"):
        read(path, latin1_dat=True)


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes(gzip.compress(b"user_id,item_id\n1,2\n"))
    )
    writer.start()
    assert read_interactions(tmp_path / "pipe").num_interactions == 1
    writer.join()
