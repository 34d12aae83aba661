"""Paid answers survive whatever happens to the process."""

import os
import resource
import subprocess
import sys
import textwrap

import pytest

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.semantic.answer_cache import (
    ANSWERS_FILE,
    Answer,
    AnswerCache,
    answer_key,
    share_answers,
)
from raserec_jax.semantic.prompts import Prompt

ANSWER = Answer("fine, with ü and \u2028", 10, 2)


def fill(path, count=3):
    with AnswerCache(path) as cache:
        for number in range(count):
            cache.add(f"k{number}", "model", ANSWER)


def test_answers_come_back(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    fill(path)
    with AnswerCache(path) as cache:
        assert (len(cache), cache.get("k1"), cache.get("k9")) == (3, ANSWER, None)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_torn_last_line_costs_only_itself(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    fill(path, 1)
    whole = path.stat().st_size
    fill(path, 2)
    os.truncate(path, max(path.stat().st_size - cut, whole + 1) if cut < 10_000 else whole)
    fill(path, 3)
    with AnswerCache(path) as cache:
        assert len(cache) == 3
    assert path.read_bytes().count(b"\n") == len(path.read_text().split("\n")) - 1


def test_damage_in_the_middle_costs_that_line(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"fine", b"bad ")
    path.write_bytes(
        b"".join([lines[0], lines[1], b"not json\n", b"[" * 100_000 + b"\n", lines[2]])
    )
    with AnswerCache(path, read_only=True) as cache:
        assert (cache.get("k0"), cache.get("k1"), cache.get("k2")) == (ANSWER, None, ANSWER)
    assert "3 damaged lines are left out" in caplog.text


def test_a_killed_writer_leaves_what_it_had_confirmed(tmp_path):
    path = tmp_path / "a.jsonl"
    code = textwrap.dedent("""
        import os, sys
        from raserec_jax.semantic.answer_cache import Answer, AnswerCache
        cache = AnswerCache(sys.argv[1])
        for number in range(5):
            cache.add(f"k{number}", "model", Answer("text", 1, 1))
        os.write(cache._file, b'{"key": "k9"')
        os.kill(os.getpid(), 9)
    """)
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    with AnswerCache(path) as cache:  # its lock went with it
        assert len(cache) == 5


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnswerCache(path):
        with pytest.raises(ConfigError, match="in use by another process"):
            AnswerCache(path)
        AnswerCache(path, read_only=True)
    AnswerCache(path).close()


def test_answers_are_shared_once(tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    fill(one / ANSWERS_FILE, 2)
    fill(two / ANSWERS_FILE, 3)
    with open(two / ANSWERS_FILE, "ab") as file:
        file.write(b'{"key": "torn')
    before = (two / ANSWERS_FILE).read_bytes()
    fill(other / ANSWERS_FILE, 1)
    for _ in range(2):
        share_answers([one, two, two, other, tmp_path / "none"], other)
        content = (other / ANSWERS_FILE).read_bytes()
        assert content.count(b"\n") == 3
    assert content == before[: len(content)]
    assert (two / ANSWERS_FILE).read_bytes() == before
    with AnswerCache(other / ANSWERS_FILE) as cache:
        assert (len(cache), cache.get("k2")) == (3, ANSWER)
        with pytest.raises(DataError, match="cannot be read .*; make it readable"):
            cache.take_over(tmp_path / "none")
    share_answers([tmp_path / "none"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_the_file_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    fill(path, 2)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerCache(path) as cache:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, limits[1]))
        try:
            with pytest.raises(
                DataError, match="an answer cannot be written .*; free space and run again"
            ):
                cache.add("k5", "model", ANSWER)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert cache.get("k5") is None
    assert path.read_bytes() == before


def test_keys_cover_model_template_and_input():
    prompt = Prompt("s", "u", "t")
    keys = {
        answer_key("m", prompt, 10),
        answer_key("n", prompt, 10),
        answer_key("m", prompt, 11),
        *(answer_key("m", prompt._replace(**{name: "x"}), 10) for name in Prompt._fields),
    }
    assert len(keys) == 6
