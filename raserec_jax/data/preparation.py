"""From a source to a filtered log in a folder, with the statistics that papers print."""

import os

from raserec_jax.data.filters import k_core
from raserec_jax.data.interactions import ITEMS_FILE, InteractionLog
from raserec_jax.data.item_text import ItemText, read_item_text
from raserec_jax.data.known_sets import locate
from raserec_jax.data.readers import read_interactions
from raserec_jax.errors import ConfigError

PathLike = str | os.PathLike


def read_source(
    interactions: PathLike | None, dataset: str | None, items: PathLike | None = None
) -> tuple[InteractionLog, ItemText | None]:
    """Reads a file of interactions, or a known set, and its item text where there is some.

    Args:
      interactions: a file or a saved log's folder; or None.
      dataset: name of a known set; or None.
      items: item text; for a known set in place of its own.

    Raises:
      ConfigError: not exactly one of `interactions` and `dataset`, or an unknown set.
      DataError: the files cannot be used.
    """
    if bool(interactions) == bool(dataset):
        given = "both are" if dataset else "neither is"
        raise ConfigError(f"give either --interactions=FILE or --dataset=NAME; {given} given")
    if dataset:
        files = locate(dataset)
        interactions, items = files.interactions, items or files.items
    elif not items and os.path.isfile(os.path.join(interactions, ITEMS_FILE)):
        items = interactions  # a saved log brings its own
    log = read_interactions(interactions, name=dataset or None)
    return log, read_item_text(items, log) if items else None


def prepare(
    *,
    interactions: PathLike | None = None,
    dataset: str | None = None,
    items: PathLike | None = None,
    min_interactions: int = 5,
    output: PathLike | None = None,
) -> str:
    """Reads, filters by k-core and, with `output`, saves; all is checked before anything is written.

    Args:
      interactions, dataset, items: as `read_source`.
      min_interactions: k of the k-core; 1 keeps everything.
      output: folder for the log and its item text; None writes nothing.

    Returns:
      The statistics before and after, as a table to print.

    Raises:
      ConfigError, DataError: as `read_source`, or nothing is left, or the folder cannot be written.
    """
    if min_interactions < 1:
        raise ConfigError(
            f"--min_interactions={min_interactions}, expected at least 1 (1 keeps everything)"
        )
    log, text = read_source(interactions, dataset, items)
    kept = k_core(log, min_interactions)
    text = None if text is None else text.restricted_to(kept)
    lines = [statistics_table({"as read": log, f"{min_interactions}-core": kept})]
    if text is not None:
        lines.append(
            f"text for {len(text.labels):,} of {kept.num_items:,} items: {', '.join(text.columns)}"
        )
    if output:
        kept.save(output)
        if text is not None:
            text.save(output)
        lines.append(f"saved {output} (fingerprint {kept.fingerprint()[:16]})")
    return "\n".join(lines)


def statistics_table(logs: dict[str, InteractionLog]) -> str:
    """The papers' statistics, one column per log, as text."""
    columns = {title: log.statistics() for title, log in logs.items()}
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
