"""Damaged files of every kind: a log, or one sentence that says where; never another error, never half a folder.

Some hundred files per reader always; ten thousand with `pytest -m slow tests/data/test_fuzzing.py`, faster with
`--basetemp` in a file system in memory.
"""

import contextlib
import json
import math
import os
import random
import re
import shutil

import pytest

from raserec_jax.data import preparation
from raserec_jax.data.filters import Filters
from raserec_jax.data.histories import read_histories
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText, read_item_text
from raserec_jax.errors import ConfigError, DataError
from tests.data import fuzzing

CASES = fuzzing.cases()
SHORT, LONG = 300, 10_000
PLACE = re.compile(r", (line|row) \d+")
# What is no row's fault.
OF_THE_FILE = re.compile(
    r": (empty file|truncated gzip|damaged gzip|not a text file|a header line but no rows|no JSON object|no histories|"
    r"no rows in it|damaged Parquet|item text without matching ids|no interaction is left|min_rating is given)"
    r"|, schema: "
)


def read(case, path, out, min_rating=None):
    """Reads the file into the folder `out`, which the reader's result is saved to; returns what it found."""
    if case.kind == "histories":
        return list(read_histories(path))
    if case.kind == "items":
        text = read_item_text(path, fuzzing.LOG)
        out.mkdir()
        text.save(out)
        return ItemText.load(out)
    filters = Filters(min_interactions=1, min_rating=min_rating)
    preparation.prepare(interactions=path, format=case.format, filters=filters, output=out)
    return InteractionLog.load(out)


def try_damaged(case, name, seed, folder):
    """Reads one damaged file; the assertions say which."""
    draw = random.Random(f"{name} {seed}")
    is_text = "parquet" not in name
    content = fuzzing.mutated(case.content, draw, is_text=is_text)
    case = case._replace(format=draw.choice((case.format, "auto")))
    min_rating = draw.choice((None, None, None, 3))
    path, out = folder / "file", folder / "out"
    path.write_bytes(content)
    told = f"{name}, seed {seed}, format {case.format}, min_rating {min_rating}, {content[:300]!r}"
    try:
        found = read(case, path, out, min_rating)
    except DataError as error:
        assert str(error).startswith(str(path)), told
        assert len(str(error).splitlines()) == 1, told
        assert len(str(error)) < 1500, told
        assert PLACE.search(str(error)) or OF_THE_FILE.search(str(error)), f"{error}; {told}"
        assert os.listdir(folder) == ["file"], told
        return False
    except (
        ConfigError
    ) as error:  # what looks like Parquet asks for the extra, where that is not installed
        assert content.startswith(b"PAR1") and "needs pyarrow" in str(error), told
        assert os.listdir(folder) == ["file"], told
        return False
    except Exception as error:
        raise AssertionError(told) from error
    if case.kind == "interactions" and min_rating is None:
        assert_same_as_naive(content, found, told)
    assert (
        sorted(os.listdir(folder)) == ["file"] if case.kind == "histories" else ["file", "out"]
    ), told
    shutil.rmtree(out, ignore_errors=True)
    return True


def assert_same_as_naive(content, log, told):
    """What was read is what a few plain lines of Python read, where those suffice."""
    with contextlib.suppress(UnicodeDecodeError):
        text = content.removeprefix(b"\xef\xbb\xbf").decode() + "\n"
        text = text.replace("\r\n", "\n").rstrip("\n")
        columns = naive_columns(text)
        if columns is not None:
            users, items, times = columns
            times = None if times is None else list(map(number, times))
            expected = InteractionLog.from_columns(
                list(map(str, users)), list(map(str, items)), timestamp=times
            )
            assert log.fingerprint() == expected.fingerprint(), told


def naive_columns(text):
    """Users, items, times of some formats; None if it is none of them."""
    header, _, rest = text.partition("\n")
    names = "user_id item_id rating timestamp", "userId movieId rating timestamp"
    for separator, known in zip("\t,", names, strict=True):
        if header == known.replace(" ", separator) and (separator == "\t" or '"' not in text):
            users, items, _, times = zip(
                *(row.split(separator) for row in rest.split("\n")), strict=True
            )
            return users, items, times
    if header.startswith('{"reviewerID": "A'):
        rows = [json.loads(row) for row in text.split("\n") if row.strip()]
        return [[row[name] for row in rows] for name in ("reviewerID", "asin", "unixReviewTime")]
    if re.fullmatch(r"A\w+::\d+::[\d.]+::\d+", header, re.ASCII):
        users, items, _, times = zip(*(row.split("::") for row in text.split("\n")), strict=True)
        return users, items, times
    if re.fullmatch(r"A\w+( +\w+)+", header, re.ASCII):
        rows = [re.split(r"[ \t]+", row.strip(" \t")) for row in text.split("\n")]
        pairs = [(user, item) for user, *items in rows for item in items]
        return *zip(*pairs, strict=True), None
    return None


def number(value):
    try:
        return value if isinstance(value, float) else int(value)
    except ValueError:
        assert math.isfinite(float(value))
        return float(value)


@pytest.mark.parametrize("name", CASES)
def test_the_undamaged_file_is_read(name, tmp_path):
    case = CASES[name]
    path = tmp_path / "file"
    path.write_bytes(case.content)
    for format in {case.format, "auto"}:
        found = read(case._replace(format=format), path, tmp_path / "out")
        if case.kind == "interactions":
            assert (found.num_users, found.num_items, found.num_interactions) == (4, 7, 28)
        else:
            assert len(found if case.kind == "histories" else found.labels) == (
                4 if case.kind == "histories" else 7
            )
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.parametrize("name", CASES)
def test_some_damaged_files(name, tmp_path):
    outcomes = [try_damaged(CASES[name], name, seed, tmp_path) for seed in range(SHORT)]
    assert any(outcomes)
    assert not all(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_damaged_files(name, tmp_path):
    for seed in range(SHORT, SHORT + LONG):
        try_damaged(CASES[name], name, seed, tmp_path)
