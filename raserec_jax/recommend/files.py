"""From a file of histories to a file of recommendations: what launch/recommend.py does.

Both are streamed, so their length does not matter. A run that was killed is gone on with by the same call; the finished
file is the same, byte for byte, since histories are always asked for in the same batches.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from raserec_jax import __version__
from raserec_jax.data.histories import place_of, read_histories
from raserec_jax.data.history_rows import HistoryRow
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.labels import as_names
from raserec_jax.data.sources import PathLike, shown
from raserec_jax.data.storage import write_file
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.recommend.cards import cards_page
from raserec_jax.recommend.output_formats import FORMATS, id_cell, output_format
from raserec_jax.recommend.recommender import Recommender
from raserec_jax.recommend.resumable import ResumableFile

HISTORIES_AT_ONCE = 512
BATCHES_PER_SAVE = 8


class FileReport(NamedTuple):
    """What was written.

    histories, recommendations: how many.
    unknown_items, with_unknown: items that were skipped, and the histories that had some.
    by_popularity: histories without a known item.
    resumed: histories that an interrupted run had done.
    """

    histories: int
    recommendations: int
    unknown_items: int
    with_unknown: int
    by_popularity: int
    resumed: int = 0

    def in_words(self) -> str:
        """One line per thing to know."""
        lines = [f"{self.recommendations:,} recommendations for {self.histories:,} histories"]
        if self.resumed:
            lines.append(f"{self.resumed:,} of the histories were done by an interrupted run")
        if self.unknown_items:
            lines.append(
                f"{self.unknown_items:,} items that the training data do not have were skipped, in "
                f"{self.with_unknown:,} histories (--strict makes them an error)"
            )
        if self.by_popularity:
            lines.append(
                f"{self.by_popularity:,} histories had no known item and got what is taken most of late"
            )
        return "\n".join(lines)


def check_paths(histories: PathLike, output: PathLike, cards: PathLike | None = None) -> None:
    """Refuses, before a model is loaded, what can be told from the paths and the file's first row.

    Args:
      cards: the page that `write_cards` is to write, if any.

    Raises:
      DataError: as `read_histories`, or the histories come through a pipe, or the folder of what is to be written
        does not exist.
      ConfigError: the output's name has another ending than FORMATS, or two of the files are one.
    """
    output = pathlib.Path(output)
    if output.suffix not in FORMATS:
        raise ConfigError(
            f"--output={output}: expected a name that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; "
            "the ending decides the format"
        )
    if os.path.exists(histories) and not (os.path.isfile(histories) or os.path.isdir(histories)):
        raise DataError(
            f"{histories}: is no regular file, which is read more than once; write the histories to a file first"
        )
    read_histories(histories)
    _check_new("--output", output, histories)
    if cards is not None:
        _check_new("--cards", pathlib.Path(cards), histories)
        if os.path.realpath(cards) == os.path.realpath(output):
            raise ConfigError(f"--cards={cards}: is the --output too; give another name")


def _check_new(flag: str, path: pathlib.Path, histories: PathLike) -> None:
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise DataError(f"{flag}={path}: {problem}; give a file in a folder that exists")
    if path.exists() and os.path.samefile(histories, path):
        raise ConfigError(f"{flag}={path}: is the file of histories; give another name")


def recommend_file(
    recommender: Recommender,
    histories: PathLike,
    output: PathLike,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    allow: Iterable | None = None,
    deny: Iterable | None = None,
    explain: bool = False,
    show_users: bool = False,
    strict: bool = False,
    progress: Callable[..., Any] | None = None,
) -> FileReport:
    """Recommends for every history of a file; the output appears whole or not at all.

    The file of histories is read twice: first it is checked to its end, so that no mistake in it costs hours.

    Args:
      histories: as `data.histories.read_histories`.
      output: NAME.tsv, NAME.jsonl or NAME.parquet; what a killed run of the same task left beside it is gone on with.
      k, exclude_seen, allow, deny: as `Recommender.recommend`. Users that the log knows are asked for as such.
      explain: add memories, weights and scores without memory.
      show_users: with `explain`, whose each memory is (JSON lines only).
      strict: an item that the log does not have is an error.
      progress: makes a `progress.Progress` from (total, desc, unit, initial=); None shows nothing.

    Raises:
      DataError: the file is not one of histories, an item is unknown (`strict`), the output cannot be written, or
        another process writes it.
      ConfigError: k is above the number of items, or as `check_paths`.
    """
    check_paths(histories, output)
    as_tsv = pathlib.Path(output).suffix == ".tsv"
    total, integer_users = _survey(histories, recommender.log if strict else None, as_tsv)
    asked = {
        "k": k,
        "exclude_seen": exclude_seen,
        "allow": _sorted_ids("allow", allow),
        "deny": _sorted_ids("deny", deny),
    }
    reasons = {"show_users": show_users} if explain else {}
    form = output_format(
        pathlib.Path(output).suffix,
        explain=explain,
        integer_users=integer_users,
        integer_items=recommender.log.item_labels.dtype.kind == "i",
    )
    task = _task(recommender, histories, [asked, reasons, explain, strict])
    with ResumableFile(output, task) as file:
        counts = np.array(file.state or [0] * 5, np.int64)
        resumed = int(counts[0])
        rows = itertools.islice(read_histories(histories), resumed, None)
        if file.state is None:
            file.write(form.header)
        with _shown(progress, total, resumed) as bar:
            for number in itertools.count(1):
                batch = list(itertools.islice(rows, HISTORIES_AT_ONCE))
                if not batch:
                    break
                ask = recommender.explain_many if explain else recommender.recommend
                users = [row.user_id for row in batch]
                answers = ask([row.items for row in batch], users=users, **asked, **reasons)
                for row, answer in zip(batch, answers, strict=True):
                    for line in form.lines(row, answer):
                        file.write(line)
                    found = answer.recommendations if explain else answer
                    unknown = found.unknown_items
                    counts += (1, len(found), unknown, unknown > 0, found.by_popularity)
                if number % BATCHES_PER_SAVE == 0:
                    file.save(counts.tolist())
                bar.update(len(batch))
        file.finish(form.convert)
    return FileReport(*counts.tolist(), resumed)


def write_cards(
    recommender: Recommender,
    histories: PathLike,
    output: PathLike,
    *,
    count: int = 5,
    show_users: bool = False,
    **asked: Any,
) -> None:
    """Writes one HTML page that explains the recommendations for the file's first histories.

    Args:
      histories: as `data.histories.read_histories`.
      output: the page; whole or not at all.
      count: how many histories.
      show_users, asked: as `Recommender.explain_many`.

    Raises:
      DataError, ConfigError: as `read_histories` and `Recommender.recommend`, or the page cannot be written, or is
        the file of histories.
    """
    _check_new("--cards", pathlib.Path(output), histories)
    rows = list(itertools.islice(read_histories(histories), count))
    users = [row.user_id for row in rows]
    answers = recommender.explain_many(
        [row.items for row in rows], users=users, show_users=show_users, **asked
    )
    names = [f"User {user}" for user in users]
    page = cards_page("Why these items", zip(names, answers, strict=True))
    write_file(output, page.encode("utf-8"))


def _sorted_ids(name: str, ids: Iterable | None) -> list[str] | None:
    if isinstance(ids, (str, bytes)):
        raise DataError(f"{name}={ids!r:.80} is a single value; give a list of item ids")
    return None if ids is None else sorted(as_names(list(ids), "item").tolist())


def _survey(
    histories: PathLike, strict_log: InteractionLog | None, as_tsv: bool
) -> tuple[int, bool]:
    """(number of histories, whether all users are integers); reads and checks the whole file.

    Args:
      strict_log: which must have every item.
      as_tsv: whether the users must be such as a TSV file can hold.
    """
    count, integers = 0, True
    rows = read_histories(histories)
    while batch := list(itertools.islice(rows, HISTORIES_AT_ONCE)):
        count += len(batch)
        for row in batch:
            integers = integers and isinstance(row.user_id, int) and abs(row.user_id) < 2**63
            if as_tsv:
                id_cell(row.user_id)
        if strict_log is not None:
            _refuse_unknown(strict_log, histories, batch)
    return count, integers


def _task(recommender: Recommender, histories: PathLike, settings: list) -> str:
    """Names all that the output depends on."""
    with open(histories, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    named = [__version__, recommender.fingerprint(), content, HISTORIES_AT_ONCE]
    return hashlib.sha256(json.dumps([*named, *settings]).encode()).hexdigest()


def _refuse_unknown(log: InteractionLog, path: PathLike, batch: list[HistoryRow]) -> None:
    for row in batch:
        unknown = np.flatnonzero(log.item_ids_of(row.items) == 0)
        if unknown.size:
            raise DataError(
                f"{place_of(path, row)}: unknown item {shown(str(row.items[unknown[0]]))}, expected ids of the "
                "training data; correct it, or leave --strict out to skip such items"
            )


def _shown(progress: Callable[..., Any] | None, total: int, done: int):
    if progress is None:
        return _Silent()
    return progress(total, "recommend", "user", initial=done)


class _Silent(contextlib.nullcontext):
    """A progress that shows nothing."""

    def __init__(self):
        super().__init__(self)

    def update(self, n: int) -> None:
        """Nothing."""
