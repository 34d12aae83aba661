"""Prompts: readable template files and item text put into them as quoted data.

A template file has a part below the line `[system]` and one below `[user]`, with placeholders: {attributes} and
{sequences} in item.txt, {titles} in user.txt. They are filled in one pass with JSON in which `<`, `>` and `&` are
escaped, so that text of an item can neither close the quotation nor bring a placeholder of its own. The content
follows SRA-CL's prompts (eqs. 4 and 10).
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from raserec_jax.batching.windows import Examples
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import ConfigError

PLACEHOLDERS = {"item": ("attributes", "sequences"), "user": ("titles",)}
_PARTS = re.compile(r"^\[(\w+)\][ \t]*$", re.MULTILINE)
_SEQUENCE_ITEMS = 10  # before the item itself, as in the paper's code
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
_LARGEST_TEMPLATE = 2**16


class Template(NamedTuple):
    """name: "item" or "user".  system, user: texts with placeholders.  digest: SHA-256 over both."""

    name: str
    system: str
    user: str
    digest: str


class Prompt(NamedTuple):
    """What is sent: one system and one user message; template: the digest of what it was made from."""

    system: str
    user: str
    template: str


def load_template(name: str, folder: str = "") -> Template:
    """Reads a template.

    Args:
      name: "item" or "user".
      folder: that holds NAME.txt; empty: those of this package.

    Raises:
      ConfigError: the file is missing, not UTF-8, too long, has not exactly the two parts, an unknown placeholder or
        none at all.
    """
    path = pathlib.Path(folder or pathlib.Path(__file__).with_name("templates")) / f"{name}.txt"
    try:
        content = path.read_bytes()
        text = content.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(
            f"{path}: no template there ({error.strerror}); copy raserec_jax/semantic/templates and change that"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save the template as UTF-8") from None
    parts = _PARTS.split(text)
    if (
        len(content) > _LARGEST_TEMPLATE
        or parts[0].strip()
        or sorted(parts[1::2]) != ["system", "user"]
    ):
        raise ConfigError(
            f"{path}: expected a line [system] and a line [user], each with text below it, at most 64 KiB in all; "
            "see raserec_jax/semantic/templates"
        )
    texts = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    known = PLACEHOLDERS[name]
    found = re.findall(r"\{(\w+)\}", texts["system"] + texts["user"])
    unknown = [placeholder for placeholder in found if placeholder not in known]
    if unknown or not found:
        given = f"unknown {{{unknown[0]}}}" if unknown else "no placeholder"
        raise ConfigError(
            f"{path}: {given}; a template of {name} has {' and '.join(f'{{{p}}}' for p in known)}"
        )
    digest = hashlib.sha256(json.dumps([name, texts["system"], texts["user"]]).encode()).hexdigest()
    return Template(name, texts["system"], texts["user"], digest)


def item_prompt(
    template: Template, attributes: Mapping[str, str], sequences: Sequence[Sequence[str]]
) -> Prompt:
    """The prompt for one item: its cleaned columns, and titles of sequences that end in it."""
    return _filled(template, attributes=dict(attributes), sequences=[list(s) for s in sequences])


def user_prompt(template: Template, titles: Sequence[str]) -> Prompt:
    """The prompt for one history: cleaned titles in order of time."""
    return _filled(template, titles=list(titles))


def sequences_ending_in_items(
    log: InteractionLog, examples: Examples, count: int, seed: int = 0
) -> list[list[list[int]]]:
    """For each item up to `count` training sequences that end in it, drawn without replacement.

    Args:
      log: that the examples point into.
      examples: training examples only, so that nothing held out gets into a text.
      count: sequences per item; 0 = none.
      seed: of the draw; an item's draw depends on nothing else but the item and its own sequences.

    Returns:
      items + 1 lists of sequences of item ids, oldest first, the item itself last, at most 11 items each.
    """
    found: list[list[list[int]]] = [[] for _ in range(log.num_items + 1)]
    order = np.argsort(examples.target_ids, kind="stable")
    ends = np.searchsorted(examples.target_ids[order], np.arange(log.num_items + 2))
    for item in range(1, log.num_items + 1) if count else ():
        rows = order[ends[item] : ends[item + 1]]
        if len(rows) > count:
            rows = np.sort(np.random.default_rng((seed, item)).choice(rows, count, replace=False))
        for row in rows.tolist():
            end = int(examples.target_places[row])
            length = min(int(examples.lengths[row]), _SEQUENCE_ITEMS)
            found[item].append(log.item_ids[end - length : end + 1].tolist())
    return found


def _filled(template: Template, **values) -> Prompt:
    quoted = {name: _quoted(value) for name, value in values.items()}

    def fill(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: quoted[match.group(1)], text)

    return Prompt(fill(template.system), fill(template.user), template.digest)


def _quoted(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return "".join(_ESCAPED.get(character, character) for character in text)
