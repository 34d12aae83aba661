"""All passes in order: from a file of interactions to a filtered log's folder, in memory that does not grow with it."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from raserec_jax.data import storage
from raserec_jax.data.filters import Filters, no_core
from raserec_jax.data.formats import AUTO, check_format
from raserec_jax.data.interactions import OWN_FILES, InteractionLog
from raserec_jax.data.on_disk.core import core_passes
from raserec_jax.data.on_disk.counts import Counts
from raserec_jax.data.on_disk.divide import PART_ROWS, divide
from raserec_jax.data.on_disk.gather import Gathered, gather
from raserec_jax.data.on_disk.order import order
from raserec_jax.data.on_disk.parts import Parts
from raserec_jax.data.on_disk.write import LogContent, write_log
from raserec_jax.data.readers import name_of, wanted_rows
from raserec_jax.data.records.folder import write_records
from raserec_jax.data.records.libraries import extra
from raserec_jax.data.roles import checked_columns
from raserec_jax.data.sources import PathLike
from raserec_jax.errors import DataError

_MIB = 2**20


class Outcome(NamedTuple):
    """What was prepared.

    source, log: statistics.
    source_items, log_items: make a log of one user who took every item: item text looks at nothing else.
    fingerprint: of the log; "" if it was not written.
    """

    source: dict
    log: dict
    source_items: Callable[[], InteractionLog]
    log_items: Callable[[], InteractionLog]
    fingerprint: str


class Silent:
    """A progress that shows nothing."""

    def __init__(self, total: int | None, desc: str, unit: str):
        del total, desc, unit

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Takes no note."""


def prepare_on_disk(
    path: PathLike,
    output: PathLike | None,
    *,
    format: str = AUTO,
    columns: Mapping[str, str] | None = None,
    filters: Filters | None = None,
    name: str | None = None,
    as_records: bool = False,
    rows_at_once: int = PART_ROWS,
    progress: Callable = Silent,
) -> Outcome:
    """As `readers.read_interactions`, `Filters.apply` and `InteractionLog.save`, with the same bytes in the end.

    In memory are some hundred MiB, about 100 bytes per item, and the longest history; on the disk, beside the output,
    about twice the log while it is being made. A kill leaves no output, or the former one.

    Args:
      path: a file of interactions.
      output: folder for the log; None writes nothing, and works in the system's folder for temporary files.
      format, columns, name: as `read_interactions`.
      filters: by default the 5-core.
      as_records: write what `records.folder.write_records` does.
      rows_at_once: interactions in memory, about.
      progress: makes a context with `update` from (total, desc, unit).

    Raises:
      DataError, ConfigError: as the functions above.
    """
    check_format(format)
    filters, columns = filters or Filters(), checked_columns(columns)
    name = name or name_of(path)
    if as_records:
        extra("tensorflow_datasets")  # its absence is better known now
    with _folders(output, as_records) as (folder, work):
        with progress(_mib(path), "read", "MiB") as bar:
            chunks = wanted_rows(path, format, columns, filters.min_rating, _Position(bar).tell)
            found = gather(chunks, work / "pieces", piece_rows=rows_at_once)
        with progress(found.rows, "divide", "interaction") as bar:
            count = divide(found, work, part_rows=rows_at_once, rows_done=bar.update)
        with progress(count, "order", "part") as bar:
            parts, source, left = order(found, work, count, filters, name, part_done=bar.update)
        left = _core(parts, left, filters, name, progress)
        content = LogContent(found, parts, left.users, left.interactions, left.of_item)
        fingerprint = ""
        if output is not None:
            with progress(len(content.columns), "write", "array") as bar:
                fingerprint = write_log(content.columns, folder, name, array_done=bar.update)
        if output is not None and as_records:
            with progress(left.users, "write", "user") as bar:
                histories = content.histories(name, fingerprint)
                write_records(histories, output, user_done=bar.update)
        return Outcome(
            source.statistics(),
            left.statistics(),
            lambda: items_alone(_all_items(found, parts).item_labels(), name),
            lambda: items_alone(content.item_labels(), name),
            fingerprint,
        )


def _core(parts: Parts, left: Counts, filters: Filters, name: str, progress) -> Counts:
    """What is left after the k-core."""
    per_item = filters.min_interactions
    per_user = max(filters.min_history, per_item)
    if max(per_user, per_item) <= 1:
        return left
    most = left.of_item.max()
    with progress(None, "core", "part") as bar:
        core_passes(parts, left.of_item, per_user, per_item, part_done=bar.update)
        kept = Counts(len(left.of_item))
        for part in parts:
            kept.add(part)
    if not kept.users:
        raise no_core(name, per_user, per_item, left.longest, most)
    return kept


def _all_items(found: Gathered, parts: Parts) -> LogContent:
    return LogContent(found, parts, 0, 0, np.ones(len(found.item_labels), np.int64))


def items_alone(item_labels: np.ndarray, name: str) -> InteractionLog:
    """A log of one user who took every item; item_labels: the padding's first."""
    count = len(item_labels) - 1
    return InteractionLog(
        np.zeros(count, np.int32),
        np.arange(1, count + 1, dtype=np.int32),
        None,
        np.zeros(1, np.int64),
        item_labels,
        name,
    )


@contextlib.contextmanager
def _folders(
    output: PathLike | None, as_records: bool
) -> Iterator[tuple[pathlib.Path | None, pathlib.Path]]:
    """Context with the folder that becomes the output, if it is to hold arrays, and one to work in, which goes in the
    end; on the disk of the output."""
    if output is None or as_records:
        beside = None if output is None else pathlib.Path(output).resolve().parent
        try:
            if beside is not None:
                beside.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=beside) as work:
                yield None, pathlib.Path(work)
        except OSError as error:
            where = output or tempfile.gettempdir()
            raise DataError(
                f"{where}: cannot be written ({error.strerror or error}); choose another folder or free space"
            ) from error
        return
    with storage.replaced_folder(output, {storage.MANIFEST, *OWN_FILES}) as folder:
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as work:
            yield folder, pathlib.Path(work)


def _mib(path: PathLike) -> int | None:
    """How large the file is; None if that is not known, as of a pipe."""
    return -(-os.path.getsize(path) // _MIB) if os.path.isfile(path) else None


class _Position:
    """Tells a bar how far a file is read, in MiB."""

    def __init__(self, bar):
        self._bar, self._done = bar, 0

    def tell(self, position: int) -> None:
        """Takes the bytes read so far."""
        done = -(-position // _MIB)
        if done > self._done:
            self._bar.update(done - self._done)
            self._done = done
