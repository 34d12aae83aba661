"""One text per item: from a template over its columns, or from a file of ready descriptions.

Answers of a language model are made by `llm_answers`. All texts are cleaned and bounded (`cleaning`).
"""

import re
from collections.abc import Sequence

import numpy as np

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_rows import item_rows
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.sources import PathLike
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.semantic.cleaning import clean_text

TITLE_COLUMNS = ("title", "movie_title", "name")
DESCRIPTION_COLUMN = "description"
# No words in these: identifiers, links, numbers of sales.
_NO_TEXT = re.compile(
    r"asin|(.*_)?(id|ids|url|image|images|link|rank|price|also_\w+)|imurl|related|salesrank", re.I
)
# What exporters write for "unknown"; a title may well be one of them.
_FILLERS = {"unknown", "none", "nan", "null", "n/a", "na", "-", "(no genres listed)"}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def chosen_columns(text: ItemText, columns: Sequence[str] = ()) -> tuple[str, ...]:
    """Which columns a description is made of.

    Args:
      text: of the items.
      columns: wanted, in that order; none: the title first, then every column of words; keywords only where there is
        no title, since they repeat it.

    Raises:
      ConfigError: a wanted column that is not there.
      DataError: no usable column.
    """
    missing = [name for name in columns if name not in text.columns]
    if missing:
        raise ConfigError(
            f"semantic.columns has {missing[0]!r:.80} but the item text has {', '.join(text.columns)}; use some"
        )
    if columns:
        return tuple(columns)
    titles = [name for name in TITLE_COLUMNS if name in text.columns]
    others = [name for name in text.columns if name not in titles and not _NO_TEXT.fullmatch(name)]
    if titles:
        others = [name for name in others if name != "keywords"]
    if not titles + others:
        raise DataError(
            f"the item text has no column of words among {', '.join(text.columns)}; name some in semantic.columns"
        )
    return tuple(titles[:1] + others)


def template_descriptions(
    log: InteractionLog,
    text: ItemText,
    *,
    columns: Sequence[str] = (),
    template: str = "",
    max_chars: int = 1000,
) -> list[str]:
    """A description per item from its columns, no model needed.

    Args:
      log: says which items.
      text: their columns; "|" separates the entries of a list.
      columns: as `chosen_columns`.
      template: such as "{title} by {brand}", each name a column of the text; empty: the title, then "Brand: OPI." and
        the like for each other column that is not empty.
      max_chars: of a description.

    Returns:
      items + 1 strings, "" for padding and for items without text.

    Raises:
      ConfigError: a column or a name in the template that is not there.
      DataError: no usable column.
    """
    if template:
        columns = _template_names(template, text)
    else:
        columns = chosen_columns(text, columns)
    descriptions = [""]
    for values in _rows_of(log, text):
        if values is None:
            descriptions.append("")
            continue
        parts = {name: _readable(name, values[name], max_chars) for name in columns}
        filled = _filled(template, parts) if template else _sentences(parts)
        descriptions.append(clean_text(filled, max_chars) if any(parts.values()) else "")
    return descriptions


def read_descriptions(
    path: PathLike, log: InteractionLog, *, column: str = DESCRIPTION_COLUMN, max_chars: int = 2000
) -> list[str]:
    """Ready descriptions: TSV, CSV, JSON lines or Parquet with item_id and description; other columns are ignored.

    Returns:
      items + 1 strings, "" where the file has none.

    Raises:
      DataError: the file cannot be used, has no such column, names an item twice, or knows none of the items.
    """
    found = [""] * (log.num_items + 1)
    described = np.zeros(log.num_items + 1, bool)
    names: dict[str, None] = {}
    example = ""
    for part in item_rows(path):
        names |= dict.fromkeys(part.columns)
        example = example or part.ids[0]
        items = log.item_ids_of(part.ids)
        for place in np.flatnonzero(items).tolist():
            item = items[place]
            if described[item]:
                raise DataError(
                    f"{path}: item {part.ids[place]!r:.80} has more than one row; keep one description per item"
                )
            described[item] = True
            values = part.columns.get(column)
            found[item] = clean_text(values[place], max_chars) if values else ""
    if column not in names:
        raise DataError(
            f"{path}: no column {column!r} among {', '.join(names)}; call the text so in the file"
        )
    if not described.any():
        raise DataError(
            f"{path}: none of its items is among the {log.num_items} of {log.name}; item_id must be spelled as in "
            f"the interactions, such as {log.item_labels[1].item()!r:.80} (here {example!r:.80})"
        )
    return found


def item_names(
    log: InteractionLog, text: ItemText | None, descriptions: Sequence[str], max_chars: int = 120
) -> list[str]:
    """What to call each item in a history: its title, else the beginning of its description; "" for padding.

    Returns:
      items + 1 strings.
    """
    names = [""]
    rows = _rows_of(log, text) if text is not None else [None] * log.num_items
    for values, description in zip(rows, descriptions[1:], strict=True):
        title = next((values[name] for name in TITLE_COLUMNS if (values or {}).get(name)), "")
        names.append(clean_text(title, max_chars) or clean_text(description, max_chars))
    return names


def _rows_of(log: InteractionLog, text: ItemText) -> list[dict[str, str] | None]:
    """The columns of each item 1..num_items, None where the text has no row."""
    places = np.full(log.num_items + 1, -1)
    items = log.item_ids_of(text.labels)
    places[items[items > 0]] = np.flatnonzero(items > 0)
    columns = text.columns
    return [
        None if place < 0 else {name: values[place] for name, values in columns.items()}
        for place in places[1:].tolist()
    ]


def _template_names(template: str, text: ItemText) -> list[str]:
    names = _PLACEHOLDER.findall(template)
    unknown = [name for name in names if name not in text.columns]
    if not names or unknown:
        given = f"{{{unknown[0]}}}" if unknown else "no {column}"
        raise ConfigError(
            f"semantic.template={template!r:.120} has {given}; use names among "
            f"{', '.join(f'{{{name}}}' for name in text.columns)}"
        )
    return list(dict.fromkeys(names))


def _filled(template: str, parts: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: parts[match.group(1)], template)


def _sentences(parts: dict[str, str]) -> str:
    """The title, then "Brand: OPI. Categories: Makeup, Nails."; empty columns are left out."""
    said = []
    for name, value in parts.items():
        if not value:
            continue
        label = name.replace("_", " ").capitalize()
        said.append(value if name in TITLE_COLUMNS else f"{label}: {value}")
    return ". ".join(part.rstrip(".") for part in said) + "." if said else ""


def _readable(name: str, value: str, max_chars: int) -> str:
    value = value[: 8 * max_chars]
    value = ", ".join(filter(None, (part.strip() for part in value.split("|"))))
    value = clean_text(value, max_chars)
    return "" if name not in TITLE_COLUMNS and value.casefold() in _FILLERS else value
