"""From a source to a filtered log, and to a folder of it with the statistics that papers print."""

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from raserec_jax.data.beam.prepare import prepare_with_beam
from raserec_jax.data.filters import Filters
from raserec_jax.data.formats import AUTO
from raserec_jax.data.interactions import ITEMS_FILE, InteractionLog
from raserec_jax.data.item_text import ItemText, read_item_text
from raserec_jax.data.known_sets import locate
from raserec_jax.data.on_disk.prepare import Outcome, Silent, prepare_on_disk
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.records.content import histories_of
from raserec_jax.data.records.folder import write_records
from raserec_jax.data.records.libraries import extra
from raserec_jax.data.roles import parse_columns
from raserec_jax.data.sources import PathLike
from raserec_jax.errors import ConfigError

FORMS = ("arrays", "tfds")
ON_DISK = ("auto", "yes", "no")
LARGE_BYTES = (
    2**30
)  # of a file of interactions: the arrays of one, while it is read, take more than that


def read_source(
    interactions: PathLike | None,
    dataset: str | None,
    items: PathLike | None = None,
    *,
    format: str = AUTO,
    columns: Mapping[str, str] | str | None = None,
    min_rating: int | float | None = None,
) -> tuple[InteractionLog, ItemText | None]:
    """Reads a file of interactions, or a known set, and its item text where there is some.

    Args:
      interactions: a file or a saved log's folder; or None.
      dataset: name of a known set; or None.
      items: item text; for a known set in place of its own.
      format, columns, min_rating: of the interactions, as `read_interactions`; columns also as "user_id=who,...".

    Raises:
      ConfigError: not exactly one of `interactions` and `dataset`, an unknown set, format or column, or an extra that
        is not installed.
      DataError: the files cannot be used.
    """
    interactions, items = _files(interactions, dataset, items)
    columns = parse_columns(columns) if isinstance(columns, str) else columns
    log = read_interactions(
        interactions, format=format, columns=columns, min_rating=min_rating, name=dataset or None
    )
    return log, read_item_text(items, log) if items else None


def _files(
    interactions: PathLike | None, dataset: str | None, items: PathLike | None
) -> tuple[PathLike, PathLike | None]:
    """The interactions and the item text, as `read_source` is given them."""
    if bool(interactions) == bool(dataset):
        given = "both are" if dataset else "neither is"
        raise ConfigError(f"give either --interactions=FILE or --dataset=NAME; {given} given")
    if dataset:
        files = locate(dataset)
        return files.interactions, items or files.items
    if not items and os.path.isfile(os.path.join(interactions, ITEMS_FILE)):
        return interactions, interactions  # a saved log brings its own
    return interactions, items


class Prepared(NamedTuple):
    """A filtered source.

    source: the log as it was read.  log: what the filters leave.  items: text of the latter's items, or None.
    """

    source: InteractionLog
    log: InteractionLog
    items: ItemText | None


def read_filtered(
    interactions: PathLike | None,
    dataset: str | None,
    items: PathLike | None = None,
    *,
    format: str = AUTO,
    columns: Mapping[str, str] | str | None = None,
    filters: Filters | None = None,
) -> Prepared:
    """Reads as `read_source` and filters; by default the 5-core.

    Raises:
      ConfigError, DataError: as `read_source`, or nothing is left.
    """
    filters = filters or Filters()
    source, text = read_source(
        interactions, dataset, items, format=format, columns=columns, min_rating=filters.min_rating
    )
    log = filters.apply(source)
    return Prepared(source, log, None if text is None else text.restricted_to(log))


def prepare(
    *,
    interactions: PathLike | None = None,
    dataset: str | None = None,
    items: PathLike | None = None,
    format: str = AUTO,
    columns: Mapping[str, str] | str | None = None,
    filters: Filters | None = None,
    output: PathLike | None = None,
    form: str = "arrays",
    on_disk: str = "auto",
    beam: str | None = None,
    progress: Callable = Silent,
) -> str:
    """Reads, filters and, with `output`, saves; all is checked before anything is written.

    Args:
      interactions, dataset, items, format, columns, filters: as `read_filtered`.
      output: folder for the log and its item text; None writes nothing.
      form: of FORMS: "arrays", or "tfds": a TFDS data set in ArrayRecord files (`records.folder`).
      on_disk: of ON_DISK: whether the log is sorted on the disk, in memory that does not grow with it (`on_disk`), to
        the same result; "auto" does so for files of LARGE_BYTES or more.
      beam: options of Beam, whose workers then prepare the log (`beam.prepare`), to the same result; `interactions` may
        be a pattern of files, and the form is "tfds". None: this process does.
      progress: of what is done on the disk, as `on_disk.prepare_on_disk`.

    Returns:
      The statistics before and after, as a table to print.

    Raises:
      ConfigError, DataError: as `read_filtered`, or the folder cannot be written.
    """
    filters = filters or Filters()
    if form not in FORMS:
        raise ConfigError(f"form={form!r:.80} is unknown; use one of {', '.join(FORMS)}")
    if beam is not None:
        return _prepare_with_beam(
            interactions, dataset, items, format, columns, filters, output, form, beam
        )
    if _goes_to_disk(on_disk, _files(interactions, dataset, items)[0]):
        return _prepare_on_disk(
            interactions, dataset, items, format, columns, filters, output, form, progress
        )
    if form == "tfds":
        extra("tensorflow_datasets")  # its absence is better known now
    source, log, text = read_filtered(
        interactions, dataset, items, format=format, columns=columns, filters=filters
    )
    if output:
        if form == "arrays":
            log.save(output)
        else:
            with progress(log.num_users, "write", "user") as bar:
                write_records(histories_of(log), output, user_done=bar.update)
        if text is not None:
            text.save(output)
    statistics = source.statistics(), log.statistics()
    return _told(filters, statistics, text, output, output and log.fingerprint())


def _told(filters: Filters, statistics, text: ItemText | None, output, fingerprint) -> str:
    source, log = statistics
    lines = [statistics_table({"as read": source, filters.title(): log})]
    if text is not None:
        lines.append(
            f"text for {len(text.labels):,} of {log['items']:,} items: {', '.join(text.columns)}"
        )
    if output:
        lines.append(f"saved {output} (fingerprint {fingerprint[:16]})")
    return "\n".join(lines)


def _goes_to_disk(on_disk: str, path: PathLike) -> bool:
    if on_disk not in ON_DISK:
        raise ConfigError(f"on_disk={on_disk!r:.80} is unknown; use one of {', '.join(ON_DISK)}")
    is_file = os.path.isfile(path)
    if on_disk == "yes" and not is_file and os.path.exists(path):
        raise ConfigError(f"on_disk=yes is for files, and {path} is none; leave it out")
    return on_disk == "yes" or (
        on_disk == "auto" and is_file and os.path.getsize(path) >= LARGE_BYTES
    )


def _prepare_on_disk(
    interactions, dataset, items, format, columns, filters, output, form, progress
) -> str:
    interactions, items = _files(interactions, dataset, items)
    found = prepare_on_disk(
        interactions,
        output,
        format=format,
        columns=parse_columns(columns) if isinstance(columns, str) else columns,
        filters=filters,
        name=dataset or None,
        as_records=form == "tfds",
        progress=progress,
    )
    return _with_text(found, items, filters, output)


def _prepare_with_beam(
    interactions, dataset, items, format, columns, filters, output, form, beam
) -> str:
    if form != "tfds" or not output:
        raise ConfigError("beam writes a TFDS data set; give form=tfds and an output")
    interactions, items = _files(interactions, dataset, items)
    found = prepare_with_beam(
        interactions,
        output,
        beam,
        format=format,
        columns=parse_columns(columns) if isinstance(columns, str) else columns,
        filters=filters,
        name=dataset or None,
    )
    return _with_text(found, items, filters, output)


def _with_text(found: Outcome, items, filters: Filters, output) -> str:
    text = None
    if items:
        text = read_item_text(items, found.source_items()).restricted_to(found.log_items())
        if output:
            text.save(output)
    return _told(filters, (found.source, found.log), text, output, found.fingerprint)


def statistics_table(columns: dict[str, dict]) -> str:
    """The papers' statistics, one column per log, as text."""
    rows = [["", *columns]]
    for label, key, form in _ROWS:
        values = [statistics[key] for statistics in columns.values()]
        rows.append(
            [label, *("unknown" if value is None else form.format(value) for value in values)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


_ROWS = (
    ("users", "users", "{:,}"),
    ("items", "items", "{:,}"),
    ("interactions", "interactions", "{:,}"),
    ("average length", "average_length", "{:.2f}"),
    ("sparsity", "sparsity", "{:.2%}"),
    ("share of ties in time", "tie_share", "{:.1%}"),
)
