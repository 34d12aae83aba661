"""From a file of histories to a file of recommendations: what launch/recommend.py does.

TSV has one row per recommendation: user_id, rank, item_id, score, title; with reasons also score_without_memory,
memory_weight and the heaviest memories as text. JSON lines have one object per user, with all memories.
"""

import contextlib
import itertools
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

import numpy as np

from raserec_jax.data.histories import HistoryRow, read_histories
from raserec_jax.data.sources import PathLike, at_line, shown
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.recommend.answers import Explanation, Item, Recommendations
from raserec_jax.recommend.recommender import Recommender

HISTORIES_AT_ONCE = 512
COLUMNS = ("user_id", "rank", "item_id", "score", "title")
REASON_COLUMNS = ("score_without_memory", "memory_weight", "memories")
FORMATS = (".tsv", ".jsonl")
_SHOWN_MEMORIES, _SHOWN_ITEMS = 3, 4


class FileReport(NamedTuple):
    """What was written.

    histories, recommendations: how many.
    unknown_items, with_unknown: items that were skipped, and the histories that had some.
    by_popularity: histories without a known item.
    """

    histories: int
    recommendations: int
    unknown_items: int
    with_unknown: int
    by_popularity: int

    def in_words(self) -> str:
        """One line per thing to know."""
        lines = [f"{self.recommendations:,} recommendations for {self.histories:,} histories"]
        if self.unknown_items:
            lines.append(
                f"{self.unknown_items:,} items that the training data do not have were skipped, in "
                f"{self.with_unknown:,} histories (--strict makes them an error)"
            )
        if self.by_popularity:
            lines.append(
                f"{self.by_popularity:,} histories had no known item and got the most popular ones"
            )
        return "\n".join(lines)


def check_paths(histories: PathLike, output: PathLike) -> None:
    """Refuses, before a model is loaded, what can be told from the paths and the file's first row.

    Raises:
      DataError: as `read_histories`, or the output's folder does not exist.
      ConfigError: the output is neither .tsv nor .jsonl, or it is the file of histories.
    """
    output = pathlib.Path(output)
    if output.suffix not in FORMATS:
        raise ConfigError(
            f"--output={output}: expected a name that ends in {' or '.join(FORMATS)}; the ending decides the format"
        )
    read_histories(histories)
    if output.is_dir() or not output.parent.is_dir():
        problem = "is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise DataError(f"--output={output}: {problem}; give a file in a folder that exists")
    if output.exists() and os.path.samefile(histories, output):
        raise ConfigError(f"--output={output}: is the file of histories; give another name")


def recommend_file(
    recommender: Recommender,
    histories: PathLike,
    output: PathLike,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    explain: bool = False,
    strict: bool = False,
    progress: Callable[..., Any] | None = None,
) -> FileReport:
    """Recommends for every history of a file; the output appears whole or not at all.

    Args:
      histories: as `data.histories.read_histories`.
      output: .tsv or .jsonl.
      k, exclude_seen: as `Recommender.recommend`. Users that the log knows are asked for as such.
      explain: add memories, weights and scores without memory.
      strict: an item that the log does not have is an error.
      progress: makes a `progress.Progress` from (total, desc, unit); None shows nothing.

    Raises:
      DataError: the file is not one of histories, an item is unknown (`strict`), or the output cannot be written.
      ConfigError: k is above the number of items, or as `check_paths`.
    """
    check_paths(histories, output)
    is_tsv = pathlib.Path(output).suffix == ".tsv"
    counts = np.zeros(len(FileReport._fields), np.int64)
    rows = read_histories(histories)
    with _written_whole(output) as file, _shown(progress) as bar:
        if is_tsv:
            file.write("\t".join(COLUMNS + (REASON_COLUMNS if explain else ())) + "\n")
        while batch := list(itertools.islice(rows, HISTORIES_AT_ONCE)):
            if strict:
                _refuse_unknown(recommender, histories, batch)
            ask = recommender.explain_many if explain else recommender.recommend
            answers = ask(
                [row.items for row in batch],
                k,
                exclude_seen=exclude_seen,
                users=[row.user_id for row in batch],
            )
            for row, answer in zip(batch, answers, strict=True):
                lines = _tsv_lines if is_tsv else _json_lines
                file.writelines(f"{line}\n" for line in lines(row, answer))
                found = answer.recommendations if explain else answer
                unknown = found.unknown_items
                counts += (1, len(found), unknown, unknown > 0, found.by_popularity)
            bar.update(len(batch))
    return FileReport(*counts.tolist())


def _refuse_unknown(recommender: Recommender, path: PathLike, batch: list[HistoryRow]) -> None:
    for row in batch:
        unknown = np.flatnonzero(recommender.log.item_ids_of(row.items) == 0)
        if unknown.size:
            raise DataError(
                f"{at_line(path, row.line)}: unknown item {shown(str(row.items[unknown[0]]))}, expected ids of the "
                "training data; correct it, or leave --strict out to skip such items"
            )


def _tsv_lines(row: HistoryRow, answer: Recommendations | Explanation) -> Iterator[str]:
    explained = isinstance(answer, Explanation)
    found = answer.recommendations if explained else answer
    memories = _memories_text(answer) if explained else ""
    for rank, one in enumerate(found, start=1):
        cells = [_id_cell(row.user_id), str(rank), _id_cell(one.item), f"{one.score:.7g}"]
        cells.append(_text(one.title or ""))
        if explained:
            cells += [f"{one.score_without_memory:.7g}", f"{one.memory_weight:.4f}", memories]
        yield "\t".join(cells)


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


def _id_cell(value: int | str) -> str:
    text = str(value)
    if any(character in text for character in "\t\r\n"):
        raise DataError(
            f"the id {shown(text)} holds a tab or a line break, which TSV cannot; write --output=NAME.jsonl"
        )
    return text


def _json_lines(row: HistoryRow, answer: Recommendations | Explanation) -> Iterator[str]:
    explained = isinstance(answer, Explanation)
    found = answer.recommendations if explained else answer
    line: dict[str, Any] = {
        "user_id": row.user_id,
        "recommendations": [
            {"rank": rank, **_plain(one._asdict())} for rank, one in enumerate(found, start=1)
        ],
        "by_popularity": found.by_popularity,
        "unknown_items": found.unknown_items,
    }
    if explained:
        line["memories"] = [
            _plain(
                memory._asdict()
                | {
                    "history": [_plain(item._asdict()) for item in memory.history],
                    "followed_by": _plain(memory.followed_by._asdict()),
                }
            )
            for memory in answer.memories
        ]
    yield json.dumps(line, ensure_ascii=False)


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """With float32's digits, and `item` under the name that files use."""
    return {
        "item_id" if name == "item" else name: float(f"{value:.7g}")
        if isinstance(value, float)
        else value
        for name, value in entry.items()
    }


@contextlib.contextmanager
def _written_whole(path: PathLike) -> Iterator[TextIO]:
    """A file to write to, which takes its name at the end; after an error there is none."""
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "x", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --output or free space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _shown(progress: Callable[..., Any] | None):
    return _Silent() if progress is None else progress(None, "recommend", "user")


class _Silent(contextlib.nullcontext):
    """A progress that shows nothing."""

    def __init__(self):
        super().__init__(self)

    def update(self, n: int) -> None:
        """Nothing."""
