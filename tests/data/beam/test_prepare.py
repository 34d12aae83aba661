"""Preparation by Beam's workers makes the log of the ordinary path; on Beam's local runner, in this process."""

import random

import pytest

from raserec_jax.data import read_interactions
from raserec_jax.data.beam.prepare import prepare_with_beam
from raserec_jax.data.filters import Filters
from raserec_jax.data.records.folder import read_records
from raserec_jax.errors import DataError

pytest.importorskip("apache_beam", reason="needs the extra beam")
OPTIONS = "--runner=FnApiRunner"
# Where a worker fails, Beam leaves its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def rows_of(users, items, count=400):
    draw = random.Random(3)
    return [
        (
            users(draw.randrange(40)),
            items(int(draw.random() ** 2 * 60)),
            n // 3 * 7,
            draw.randint(1, 5),
        )
        for n in range(count)
    ]


def write_shards(folder, rows, names, shards=3):
    """The rows as one file, and cut into several that each have the header."""
    header = "\t".join(names)
    folder.mkdir(exist_ok=True)

    def write(path, rows):
        lines = [header, *("\t".join(map(str, row[: len(names)])) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    write(folder / "whole.tsv", rows)
    size = -(-len(rows) // shards)
    for n in range(shards):
        write(folder / f"part-{n}.tsv", rows[n * size : (n + 1) * size])


KINDS = {
    "integers": (lambda n: n * 7919 % 997, lambda n: n * 31 % 1009 - 500),
    "text": (lambda n: f"u{n}é", lambda n: "" if n < 0 else f"{n:03}"),
}
FULL = ("user_id", "item_id", "timestamp", "rating")


@pytest.mark.parametrize(
    ("kind", "names", "filters"),
    [
        ("integers", FULL, Filters(min_interactions=4, min_rating=2)),
        ("text", FULL, Filters(min_interactions=3, duplicates="last", max_history=12)),
        ("text", FULL[:2], Filters(min_interactions=1, duplicates="first", min_history=6)),
    ],
)
def test_it_is_the_log_of_the_ordinary_path(kind, names, filters, tmp_path):
    write_shards(tmp_path, rows_of(*KINDS[kind]), names)
    source = read_interactions(tmp_path / "whole.tsv", min_rating=filters.min_rating)
    log = filters.apply(source)
    found = prepare_with_beam(
        tmp_path / "part-*.tsv", tmp_path / "log", OPTIONS, filters=filters, part_rows=50
    )
    assert found.source == source.statistics() and found.log == log.statistics()
    assert log.num_interactions < source.num_interactions
    made = read_records(tmp_path / "log")
    assert made.fingerprint() == log.fingerprint() == found.fingerprint
    assert found.log_items().item_labels.tolist() == log.item_labels.tolist()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"log"}


@pytest.mark.parametrize(
    ("content", "filters", "said"),
    [
        ("user_id\titem_id\nu1\ti1\nu2\t\n", {}, "part-1.*line 3|empty item id"),
        ("user_id\titem_id\ttimestamp\nu1\ti1\t3\n", {}, "a column timestamp and others have none"),
        (
            "user_id\titem_id\nu1\ti1\n",
            {},
            "no user left with at least 5 interactions .*most a user has 2",
        ),
        (
            "user_id\titem_id\nu1\ti1\n",
            {"min_history": 3},
            "no user is left with min_history=3 .*1 to 2",
        ),
        ("user_id\titem_id\nu1\ti1\n", {"min_rating": 3}, "no column of ratings"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_left(content, filters, said, tmp_path):
    (tmp_path / "part-0.tsv").write_text("user_id\titem_id\nu1\ti1\nu2\ti2\n")
    (tmp_path / "part-1.tsv").write_text(content)
    with pytest.raises(DataError, match=said):
        prepare_with_beam(
            tmp_path / "part-*.tsv", tmp_path / "log", OPTIONS, filters=Filters(**filters)
        )
    assert {path.name for path in tmp_path.iterdir()} == {"part-0.tsv", "part-1.tsv"}
