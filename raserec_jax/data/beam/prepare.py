"""All pipelines in order: from files of interactions to a filtered log as a TFDS data set, by Beam's workers."""

import contextlib
import functools
import glob
import os
import pathlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np

from raserec_jax.data.beam import steps
from raserec_jax.data.beam.content import columns_of
from raserec_jax.data.filters import Filters, no_core, none_of_length
from raserec_jax.data.formats import AUTO, check_format
from raserec_jax.data.on_disk.prepare import Outcome, items_alone
from raserec_jax.data.on_disk.write import write_log
from raserec_jax.data.readers import name_of
from raserec_jax.data.records.content import Histories
from raserec_jax.data.records.folder import build, finish, new_records, records_of
from raserec_jax.data.records.libraries import extra
from raserec_jax.data.roles import checked_columns
from raserec_jax.data.sources import PathLike
from raserec_jax.errors import ConfigError, DataError

PART_ROWS = 2**20


def prepare_with_beam(
    paths: PathLike,
    output: PathLike,
    options: str,
    *,
    format: str = AUTO,
    columns: Mapping[str, str] | None = None,
    filters: Filters | None = None,
    name: str | None = None,
    part_rows: int = PART_ROWS,
) -> Outcome:
    """As `on_disk.prepare.prepare_on_disk` with `as_records`, and with the same log in the end.

    A worker holds a piece of a file, the histories of `part_rows` interactions, and the items' labels. The process
    that calls it holds the items' labels, and reads the records once per column for the fingerprint.

    Args:
      paths: a file, or a pattern such as logs/part-*.tsv.gz; the order of the names is that of the interactions. Each
        file is read by one worker, and has its own header.
      output: folder for the data set. It, its parent, where the pipelines keep what lies between them, and the files
        are to be seen by all workers under these names.
      options: Beam's, as on a command line: `--runner=DirectRunner` and the like.
      format, columns, name: as `read_interactions`.
      filters: by default the 5-core; without dates.
      part_rows: interactions that a worker sorts at once, about.

    Raises:
      ConfigError: the extra is missing, or dates are given.
      DataError: the files cannot be used, nothing is left, or the folder cannot be written.
    """
    check_format(format)
    filters, columns = filters or Filters(), checked_columns(columns)
    if filters.from_date or filters.to_date:
        raise ConfigError(
            "beam does not go with from_date and to_date, whose unit is that of most times of the log; leave out the "
            "rows beforehand, or prepare without beam"
        )
    extra("tensorflow_datasets")
    extra("apache_beam", "beam")
    pipelines = extra("raserec_jax.data.beam.pipelines", "beam")
    found = sorted(glob.glob(os.fspath(paths))) or [os.fspath(paths)]
    for path in found:
        if not os.path.isfile(path):
            raise DataError(
                f"{path}: no such file; give a file of interactions, or a pattern of some"
            )
    beam_options = functools.partial(pipelines.options_of, shlex.split(options))
    target = pathlib.Path(output).resolve()
    with new_records(output) as temporary:
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
        ) as work:
            prepared = _Prepared(
                pipelines, beam_options, pathlib.Path(work), name or _name_of(found)
            )
            reading = steps.Reading(format, dict(columns), filters.min_rating)
            prepared.read([os.path.abspath(path) for path in found], reading, filters)
            prepared.core(filters)
            return prepared.write(temporary, part_rows)


class _Prepared:
    """A log on its way through the pipelines; `folder` is where it lies."""

    def __init__(self, pipelines, options, work: pathlib.Path, name: str):
        self._pipelines, self._options, self._work, self._name = pipelines, options, work, name
        self.folder = work / "pass-0"

    def read(self, paths: list[str], reading: steps.Reading, filters: Filters) -> None:
        """Makes the histories."""
        limits = filters.min_history, filters.max_history
        with _errors():
            self._pipelines.read(
                self._options(), paths, reading, filters.duplicates, *limits, self.folder
            )
        self.source = self._totals("source-totals")
        if not self.source.users:
            raise DataError(
                f"{self._name}: no interaction is left with min_rating={filters.min_rating}; lower it"
            )
        self.facts = steps.merged_facts(steps.Facts(*one) for one in _lines(self.folder / "facts"))
        self.source_items = self._labels("source-items")
        self.source_statistics = self._statistics(self.source, len(self.source_items) - 1)
        if not self._totals().users:
            longest = self._totals("unlimited-totals")
            raise none_of_length(self._name, *limits, longest.shortest, longest.longest)

    def core(self, filters: Filters) -> None:
        """Pass after pass, until one drops nothing."""
        per_item = filters.min_interactions
        per_user = max(filters.min_history, per_item)
        if per_user <= 1:
            return
        first, longest = self._totals(), 0
        before, number = None, 0
        while before != self._totals() and self._totals().users:
            before, number = self._totals(), number + 1
            if number == 1:
                longest = max(count for _, count in _lines(self.folder / "items"))
            folder = self._work / f"pass-{number}"
            with _errors():
                self._pipelines.core_pass(self._options(), self.folder, per_user, per_item, folder)
            shutil.rmtree(self.folder)
            self.folder = folder
        if not self._totals().users:
            raise no_core(self._name, per_user, per_item, first.longest, longest)

    def write(self, temporary: pathlib.Path, part_rows: int) -> Outcome:
        """Makes the data set of what is left."""
        totals, facts = self._totals(), self.facts
        item_labels, ids = self._labels("items"), self._work / "ids-00000-of-00001"
        with open(ids, "w", encoding="utf-8") as file:
            texts = item_labels[1:].astype(np.str_).tolist()
            file.writelines(
                f"{steps.to_line((text, number))}\n" for number, text in enumerate(texts, 1)
            )
        kind = {"": None, "i": np.dtype(np.int64), "f": np.dtype(np.float64)}[facts.timestamp]
        examples = self._pipelines.Examples(
            self.folder, self._work / "ids", self._bounds(totals, part_rows), facts
        )
        histories = Histories(
            self._name,
            "",
            totals.users,
            facts.integer_users,
            kind,
            item_labels,
            lambda: iter(()),
            examples,
        )
        with _errors():
            build(temporary, histories, self._options())
        columns = columns_of(
            records_of(temporary),
            totals.interactions,
            integer_users=facts.integer_users,
            time_kind=kind,
            item_labels=item_labels,
        )
        fingerprint = write_log(columns, None, self._name)
        finish(temporary, histories._replace(fingerprint=fingerprint))
        return Outcome(
            self.source_statistics,
            self._statistics(totals, len(item_labels) - 1),
            functools.partial(items_alone, self.source_items, self._name),
            functools.partial(items_alone, item_labels, self._name),
            fingerprint,
        )

    def _totals(self, name: str = "totals") -> steps.Totals:
        return steps.merged_totals(_lines(self.folder / name))

    def _labels(self, name: str) -> np.ndarray:
        """[V + 1] ids of items in order, the padding's placeholder first."""
        texts = [item for item, _ in _lines(self.folder / name)]
        if self.facts.integer_items:
            return np.array([0, *sorted(map(int, texts))], np.int64)
        return np.array(["", *sorted(texts)], f"U{self.facts.item_width}")

    def _bounds(self, totals: steps.Totals, part_rows: int) -> list:
        kind = int if self.facts.integer_users else str
        sample = sorted(map(kind, *_lines(self.folder / "users")))
        parts = -(-totals.interactions // part_rows)
        return sorted({sample[n * len(sample) // parts] for n in range(1, parts)})

    def _statistics(self, totals: steps.Totals, items: int) -> dict:
        """As `InteractionLog.statistics`."""
        users, rows = totals.users, totals.interactions
        ties = totals.ties / max(totals.neighbours, 1)
        return {
            "users": users,
            "items": items,
            "interactions": rows,
            "average_length": rows / users,
            "sparsity": 1.0 - rows / (users * items),
            "tie_share": float(ties) if self.facts.timestamp else None,
        }


def _name_of(paths: list[str]) -> str:
    """What the log is called: as its one file, or as the folder of several."""
    path = pathlib.Path(paths[0]).resolve()
    return name_of(path if len(paths) == 1 else path.parent)


def _lines(path: pathlib.Path) -> Iterator[tuple]:
    for shard in sorted(path.parent.glob(f"{path.name}-?????-of-?????")):
        with open(shard, encoding="utf-8", newline="\n") as file:
            yield from map(steps.of_line, file)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """A worker's DataError comes wrapped, with words about where it was raised."""
    try:
        yield
    except Exception as error:
        told = re.search(r"DataError: (.*?)(?: \[while running|\n|$)", str(error))
        if isinstance(error, DataError) or told is None:
            raise
        raise DataError(told.group(1)) from None
