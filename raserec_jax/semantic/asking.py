"""Which prompts a log gives, and what becomes of the answers: descriptions of items, texts of histories."""

import csv
import io
import pathlib
from collections.abc import Sequence

import numpy as np

from raserec_jax.batching.windows import training_examples
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split
from raserec_jax.data.storage import write_file
from raserec_jax.progress import Progress
from raserec_jax.semantic.answer_cache import AnswerCache
from raserec_jax.semantic.cleaning import clean_text
from raserec_jax.semantic.descriptions import chosen_columns
from raserec_jax.semantic.histories import history_items
from raserec_jax.semantic.llm_client import LlmClient
from raserec_jax.semantic.prompts import (
    Prompt,
    item_prompt,
    load_template,
    sequences_ending_in_items,
    user_prompt,
)
from raserec_jax.semantic.tables import pool_examples

FAILURES_FILE = "failures.tsv"
_FIELD_CHARS = 500  # of a column in a prompt, as the paper's descriptions
_NAME_CHARS = 120


def item_prompts(
    split: Split, text: ItemText, names: Sequence[str], settings
) -> tuple[list[int], list[Prompt]]:
    """The items that have text, and a prompt for each.

    Args:
      split: its training sequences go into the prompts, nothing held out.
      text: columns of the items.
      names: items + 1 names.
      settings: the `semantic` part of a configuration.

    Raises:
      ConfigError: an unusable template, or a column that is not there.
    """
    template = load_template("item", settings.llm.prompts)
    log = split.log
    sequences = sequences_ending_in_items(log, training_examples(split), settings.llm.sequences)
    columns = chosen_columns(text, settings.columns)
    items, prompts = [], []
    known = log.item_ids_of(text.labels)
    for row in np.argsort(known, kind="stable").tolist():
        item = int(known[row])
        attributes = {
            name: clean_text(
                text.columns[name][row][: 8 * _FIELD_CHARS].replace("|", ", "), _FIELD_CHARS
            )
            for name in columns
        }
        attributes = {name: value for name, value in attributes.items() if value}
        if item == 0 or not attributes:
            continue
        told = [[names[other] or "?" for other in sequence] for sequence in sequences[item]]
        items.append(item)
        prompts.append(item_prompt(template, attributes, told))
    return items, prompts


def history_prompts(split: Split, names: Sequence[str], settings) -> tuple[list[int], list[Prompt]]:
    """The rows of the pool with a named item, and a prompt for each: titles in order of time.

    Equal histories give equal prompts, which are asked once.

    Raises:
      ConfigError: an unusable template.
    """
    template = load_template("user", settings.llm.prompts)
    pool = pool_examples(split, settings.pool)
    rows, prompts = [], []
    for row in range(len(pool.lengths)):
        items = history_items(split.log, pool, row, settings.history_items)
        titles = [names[item][:_NAME_CHARS] for item in items if names[item]]
        if titles:
            rows.append(row)
            prompts.append(user_prompt(template, titles))
    return rows, prompts


def ask_all(
    prompts: Sequence[Prompt],
    labels: Sequence[str],
    settings,
    cache: AnswerCache,
    folder: pathlib.Path,
    desc: str,
    progress=Progress,
) -> list[str]:
    """Answers, "" where there is none; those are listed in failures.tsv and asked again by the next run.

    Args:
      prompts: to ask.
      labels: what the list calls each.
      settings: `semantic.llm`.
      cache: of answers.
      folder: for failures.tsv.
      desc: for the progress bar.

    Raises:
      as `LlmClient.ask`.
    """
    outcome = LlmClient(settings, cache, progress).ask(prompts, desc)
    path = folder / FAILURES_FILE
    if not outcome.failures:
        path.unlink(missing_ok=True)
    else:
        lines = io.StringIO()
        writer = csv.writer(
            lines, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\"
        )
        writer.writerow(["of", "why"])
        writer.writerows([labels[row], why] for row, why in sorted(outcome.failures.items()))
        write_file(path, lines.getvalue().encode())
        print(
            f"{desc}: {len(outcome.failures):,} of {len(prompts):,} have no answer, listed in {path}; "
            "run again to ask for them again",
            flush=True,
        )
    return [answer or "" for answer in outcome.answers]


def item_labels(log: InteractionLog, items: Sequence[int]) -> list[str]:
    """Original ids, as a list of failures names them."""
    return [str(label) for label in log.labels_of(np.array(items, np.int32))]
