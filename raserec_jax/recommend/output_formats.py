"""How a file of recommendations is laid out: TSV, JSON lines or Parquet, by the ending of its name.

TSV and Parquet have one row per recommendation: user_id, rank, item_id, score, title, by_popularity; with reasons also
score_without_memory, memory_weight and the heaviest memories as text. JSON lines have one object per user, with all
memories, as `records` lays it out. Parquet is made in the end from JSON lines of its rows, since a Parquet file that
is cut off cannot be gone on with.
"""

import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from raserec_jax.data.history_rows import HistoryRow
from raserec_jax.data.parquet_files import pyarrow_parquet
from raserec_jax.data.sources import shown
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.recommend.answers import Explanation, Item, Recommendations
from raserec_jax.recommend.records import explanation_record, json_line, recommendations_record

FORMATS = (".tsv", ".jsonl", ".parquet")
COLUMNS = ("user_id", "rank", "item_id", "score", "title", "by_popularity")
REASON_COLUMNS = ("score_without_memory", "memory_weight", "memories")
_SHOWN_MEMORIES, _SHOWN_ITEMS = 3, 4
_PARQUET_ROWS = 2**14
_DIGITS = {"score": ".7g", "score_without_memory": ".7g", "memory_weight": ".4f"}


class OutputFormat(NamedTuple):
    """What is written.

    header: before everything.  lines: of one user, with line breaks.  convert: makes the file from these, if they are
    not yet it: (written, to be made).
    """

    header: str
    lines: Callable[[HistoryRow, Recommendations | Explanation], Iterator[str]]
    convert: Callable[[pathlib.Path, pathlib.Path], None] | None


def output_format(
    ending: str, *, explain: bool, integer_users: bool, integer_items: bool
) -> OutputFormat:
    """The format of a file name's ending; the flags about ids decide their type in Parquet.

    Raises:
      ConfigError: an unknown ending, or Parquet where pyarrow is not installed.
    """
    names = COLUMNS + (REASON_COLUMNS if explain else ())
    if ending == ".tsv":
        return OutputFormat("\t".join(names) + "\n", _tsv_lines, None)
    if ending == ".jsonl":
        return OutputFormat("", _json_lines, None)
    if ending != ".parquet":
        raise ConfigError(
            f"{ending!r} is no ending of a file of recommendations; use {', '.join(FORMATS)}"
        )
    parquet = pyarrow_parquet()
    import pyarrow as arrow

    types = {
        "user_id": arrow.int64() if integer_users else arrow.string(),
        "rank": arrow.int32(),
        "item_id": arrow.int64() if integer_items else arrow.string(),
        "score": arrow.float32(),
        "title": arrow.string(),
        "by_popularity": arrow.bool_(),
        "score_without_memory": arrow.float32(),
        "memory_weight": arrow.float32(),
        "memories": arrow.string(),
    }
    schema = arrow.schema([(name, types[name]) for name in names])

    def lines(row: HistoryRow, answer: Recommendations | Explanation) -> Iterator[str]:
        user_id = row.user_id if integer_users else str(row.user_id)
        for cells in _table(row._replace(user_id=user_id), answer):
            yield json.dumps(list(cells.values())) + "\n"

    def convert(written: pathlib.Path, made: pathlib.Path) -> None:
        with open(written, encoding="utf-8") as source, parquet.ParquetWriter(made, schema) as sink:
            while part := list(itertools.islice(source, _PARQUET_ROWS)):
                columns = zip(*map(json.loads, part), strict=True)
                arrays = [
                    arrow.array(column, field.type)
                    for column, field in zip(columns, schema, strict=True)
                ]
                sink.write_batch(arrow.record_batch(arrays, schema=schema))

    return OutputFormat("", lines, convert)


def _json_lines(row: HistoryRow, answer: Recommendations | Explanation) -> Iterator[str]:
    explained = isinstance(answer, Explanation)
    record = explanation_record(answer) if explained else recommendations_record(answer)
    yield json_line({"user_id": row.user_id, **record}) + "\n"


def _tsv_lines(row: HistoryRow, answer: Recommendations | Explanation) -> Iterator[str]:
    for cells in _table(row, answer):
        yield "\t".join(_cell(name, value) for name, value in cells.items()) + "\n"


def _table(row: HistoryRow, answer: Recommendations | Explanation) -> Iterator[dict[str, Any]]:
    explained = isinstance(answer, Explanation)
    found = answer.recommendations if explained else answer
    memories = _memories_text(answer) if explained else ""
    for rank, one in enumerate(found, start=1):
        cells = (row.user_id, rank, one.item, one.score, one.title, found.by_popularity)
        reasons = (one.score_without_memory, one.memory_weight, memories) if explained else ()
        names = COLUMNS + (REASON_COLUMNS if explained else ())
        yield dict(zip(names, cells + reasons, strict=True))


def _cell(name: str, value: Any) -> str:
    if name in _DIGITS:
        return format(value, _DIGITS[name])
    if isinstance(value, bool):
        return str(int(value))
    return id_cell(value) if name in ("user_id", "item_id") else _text(str(value or ""))


def _memories_text(answer: Explanation) -> str:
    """weight: items -> what followed; heaviest first."""
    heaviest = sorted(answer.memories, key=lambda memory: -memory.weight)[:_SHOWN_MEMORIES]
    return " | ".join(
        f"{memory.weight:.3f}: {', '.join(map(_name, memory.history[-_SHOWN_ITEMS:]))} -> "
        f"{_name(memory.followed_by)}"
        for memory in heaviest
    )


def _name(item: Item) -> str:
    return _text(item.title or str(item.item))


def _text(text: str) -> str:
    """On one line and without tabs."""
    return " ".join(text.split())


def id_cell(value: int | str) -> str:
    """An id as TSV has it.

    Raises:
      DataError: it holds a tab or a line break.
    """
    text = str(value)
    if any(character in text for character in "\t\r\n"):
        raise DataError(
            f"the id {shown(text)} holds a tab or a line break, which TSV cannot; write --output=NAME.jsonl"
        )
    return text
