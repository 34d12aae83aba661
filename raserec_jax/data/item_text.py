"""Titles and other text of items, keyed by original item id."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib

import numpy as np

from raserec_jax.data import storage
from raserec_jax.data.interactions import ITEMS_FILE, InteractionLog
from raserec_jax.data.item_rows import item_rows
from raserec_jax.data.labels import densify
from raserec_jax.data.sources import PathLike
from raserec_jax.errors import DataError

_KIND = "ItemText"
_TITLES = ("title", "movie_title", "name")


@dataclasses.dataclass(frozen=True, eq=False)
class ItemText:
    """Text columns of items; "" where unknown.

    Attributes:
      labels: [n] original item ids, distinct; int64 or str.
      columns: column name -> n strings.

    Raises:
      DataError: a column of another length, or a label twice.
    """

    labels: np.ndarray
    columns: dict[str, list[str]]

    def __post_init__(self):
        for name, values in self.columns.items():
            if len(values) != len(self.labels):
                count = f"{len(values)} values for {len(self.labels)} items"
                raise DataError(f"item text: {count} in column {name!r}; give one per item")
        if len(self._rows) != len(self.labels):
            raise DataError("item text: an item id occurs twice; give one row per item")

    def text_of(self, label) -> dict[str, str] | None:
        """All columns of an item by original id (7 and "7" are the same); None if unknown."""
        row = self._rows.get(str(label))
        return None if row is None else {name: values[row] for name, values in self.columns.items()}

    def title_of(self, label) -> str | None:
        """The item's `title`, `movie_title` or `name`, the first that there is; None if unknown "
        "or empty."""
        text = self.text_of(label) or {}
        return next((text[name] for name in _TITLES if text.get(name)), None)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {label: row for row, label in enumerate(self.labels.astype(np.str_).tolist())}

    def restricted_to(self, log: InteractionLog, source: str = "item text") -> "ItemText":
        """The text of a log's items; rows of other items are dropped.

        Args:
          log: says which items.
          source: where the text came from, for the message.

        Raises:
          DataError: none of the log's items has a row.
        """
        rows = np.flatnonzero(log.item_ids_of(self.labels))
        if not rows.size:
            raise _no_item_of(log, source, len(self.labels), self.labels[:1].tolist())
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return ItemText(self.labels[rows], columns)

    def save(self, folder: PathLike) -> None:
        """Writes items.json, with its own digest, into an existing folder; usually that of the log.

        Raises:
          DataError: it cannot be written.
        """
        content = {"labels": self.labels.tolist(), "columns": self.columns}
        header = {"kind": _KIND, "version": 1, "sha256": _digest(content)}
        text = json.dumps({**header, **content}, indent=0)
        storage.write_file(pathlib.Path(folder) / ITEMS_FILE, text.encode("ascii"))

    @classmethod
    def load(cls, folder: PathLike) -> "ItemText":
        """Reads what `save` wrote.

        Raises:
          DataError: no such file, or it is damaged.
        """
        path = pathlib.Path(folder) / ITEMS_FILE
        try:
            stored = json.loads(path.read_bytes())
            content = {"labels": stored["labels"], "columns": stored["columns"]}
            intact = (stored["kind"], stored["version"]) == (_KIND, 1) and _well_formed(content)
            intact = intact and stored["sha256"] == _digest(content)
        except OSError as error:
            raise DataError(
                f"{path}: no item text here ({error.strerror}); give the folder of a log"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            intact = False
        if not intact:
            raise DataError(f"{path}: damaged, or not item text; save it again from its source")
        labels = np.array(content["labels"]) if content["labels"] else np.zeros(0, np.int64)
        return cls(labels, content["columns"])


def read_item_text(path: PathLike, log: InteractionLog | None = None) -> ItemText:
    """Reads any text columns of items.

    TSV or CSV with a header, a RecBole .item file, MovieLens's movies.dat or movies.csv, JSON lines (Amazon's
    metadata) or Parquet; told by the content, gzipped or not. The item's id is the column item_id, parent_asin, asin
    or movieId, the first that there is; all others are text. Lists become their entries joined by "|".

    Args:
      path: the file; or a log's folder that holds items.json.
      log: keep its items only; others are ignored. Of rows with the same id the first counts.

    Raises:
      DataError: the file is missing, damaged, or not such a table; or no item of the log is in it.
      ConfigError: a Parquet file, and pyarrow is missing.
    """
    if os.path.isfile(os.path.join(path, ITEMS_FILE)):
        text = ItemText.load(path)
    else:
        return _collected(path, log)
    return text if log is None else text.restricted_to(log, str(path))


def _collected(path: PathLike, log: InteractionLog | None) -> ItemText:
    rows: dict[str, int] = {}  # id -> row
    columns: dict[str, list[str]] = {}
    count, first = 0, ""
    for part in item_rows(path):
        count, first = count + len(part.ids), first or part.ids[0]
        wanted = range(len(part.ids)) if log is None else np.flatnonzero(log.item_ids_of(part.ids))
        new = []
        for place in map(int, wanted):
            if part.ids[place] not in rows:
                rows[part.ids[place]] = len(rows)
                new.append(place)
        for name, values in part.columns.items():
            column = columns.setdefault(name, [""] * (len(rows) - len(new)))
            column.extend(values[place] for place in new)
        for column in columns.values():
            column.extend([""] * (len(rows) - len(column)))
    if log is not None and not rows:
        raise _no_item_of(log, str(path), count, densify([first], "item")[1].tolist())
    codes, labels = densify(list(rows), "item")
    return ItemText(labels[codes], columns)


def _no_item_of(log: InteractionLog, source: str, count: int, found: list) -> DataError:
    wanted = log.item_labels[1].item()
    return DataError(
        f"{source}: item text without matching ids: none of its {count} items "
        f"is among the {log.num_items} of {log.name}; item_id must be spelled as in the "
        f"interactions, such as {wanted!r:.80} (here {found!r:.80})"
    )


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def _well_formed(content: dict) -> bool:
    labels, columns = content["labels"], content["columns"]
    if not isinstance(labels, list) or not isinstance(columns, dict):
        return False
    kinds = [{type(value) for value in values} for values in (labels, *columns.values())]
    return kinds[0] in (set(), {int}, {str}) and all(kind <= {str} for kind in kinds[1:])
