"""The texts that are embedded: descriptions of items, titles of histories, or what a language model says of them."""

import pathlib
from collections.abc import Sequence

from raserec_jax.batching.windows import Examples
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split
from raserec_jax.data.storage import write_file
from raserec_jax.errors import DataError
from raserec_jax.progress import Progress
from raserec_jax.semantic import asking
from raserec_jax.semantic.answer_cache import ANSWERS_FILE, AnswerCache
from raserec_jax.semantic.descriptions import item_names, read_descriptions, template_descriptions
from raserec_jax.semantic.histories import history_texts
from raserec_jax.semantic.llm_client import estimate
from raserec_jax.semantic.settings import WITHOUT_TEXT


class Texts:
    """Texts of one log, as `settings.semantic_settings` describes them.

    Args:
      split: nothing but its training part gets into a prompt.
      pool: the histories that may be embedded.
      text: columns of items, or None.
      folder: gets descriptions.tsv, without_text.txt, answers.jsonl and failures.tsv.
    """

    def __init__(
        self,
        split: Split,
        pool: Examples,
        text: ItemText | None,
        settings,
        folder: pathlib.Path,
        progress=Progress,
    ):
        self.split, self.pool, self.text = split, pool, text
        self.settings, self.folder, self.progress = settings, folder, progress

    def descriptions(self) -> tuple[list[str], list[str]]:
        """Texts and names of items 0..num_items."""
        settings, log = self.settings, self.split.log
        if settings.descriptions == "file":
            found = read_descriptions(settings.descriptions_file, log, max_chars=settings.max_chars)
        elif settings.descriptions == "llm":
            found = self._answers_about_items()
        elif settings.encoder in WITHOUT_TEXT and self.text is None:
            found = [""] * (log.num_items + 1)
        else:
            found = self._template()
        if settings.descriptions != "template" and settings.fill and self.text is not None:
            found = [own or other for own, other in zip(found, self._template(), strict=True)]
        self._tell_missing(found)
        write_file(self.folder / "descriptions.tsv", _table(log, found))
        return found, item_names(log, self.text, found)

    def _template(self) -> list[str]:
        settings = self.settings
        return template_descriptions(
            self.split.log,
            self._known_text(),
            columns=settings.columns,
            template=settings.template,
            max_chars=settings.max_chars,
        )

    def _known_text(self) -> ItemText:
        if self.text is None:
            raise DataError(
                f"{self.split.log.name} has no item text; give a file with item_id and text columns as "
                "--config.data.items, or ready descriptions or vectors"
            )
        return self.text

    def _tell_missing(self, found: Sequence[str]) -> None:
        without = [item for item, text in enumerate(found) if item and not text]
        (self.folder / "without_text.txt").unlink(missing_ok=True)
        if self.settings.encoder in WITHOUT_TEXT or not without:
            return
        if len(without) == len(found) - 1:
            raise DataError(
                f"none of the {len(without)} items of {self.split.log.name} has any readable text; check the item text "
                "and semantic.columns"
            )
        labels = asking.item_labels(self.split.log, without)
        path = self.folder / "without_text.txt"
        write_file(path, "".join(f"{label}\n" for label in labels).encode("utf-8", "replace"))
        print(
            f"{len(without):,} of {len(found) - 1:,} items have no text ({', '.join(labels[:5])}"
            f"{', …' if len(labels) > 5 else ''}; all in {path}): they get no neighbours and are nobody's",
            flush=True,
        )

    def _item_prompts(self, names: Sequence[str]):
        return asking.item_prompts(self.split, self._known_text(), names, self.settings)

    def _answers_about_items(self) -> list[str]:
        template = self._template()
        items, prompts = self._item_prompts(item_names(self.split.log, self.text, template))
        labels = asking.item_labels(self.split.log, items)
        found = [""] * (self.split.log.num_items + 1)
        for item, answer in zip(items, self._ask(prompts, labels, "items"), strict=True):
            found[item] = answer
        return found

    def _ask(self, prompts, labels: Sequence[str], desc: str) -> list[str]:
        with AnswerCache(self.folder / ANSWERS_FILE) as cache:
            print(f"{desc}: {estimate(prompts, self.settings.llm, cache)}", flush=True)
            return asking.ask_all(
                prompts, labels, self.settings.llm, cache, self.folder, desc, self.progress
            )

    def of_histories(self, names: Sequence[str]) -> list[str]:
        """A text per history of the pool: its titles, or what a language model says of them."""
        settings = self.settings
        titles = history_texts(
            self.split.log,
            self.pool,
            names,
            max_items=settings.history_items,
            max_chars=settings.history_chars,
        )
        if settings.histories == "text":
            return titles
        rows, prompts = asking.history_prompts(self.split, names, settings)
        users = self.split.log.user_labels[self.pool.user_ids[rows]].tolist()
        lengths = self.pool.lengths[rows].tolist()
        labels = [f"{user}, {n} items" for user, n in zip(users, lengths, strict=True)]
        texts = titles if settings.fill else [""] * len(titles)
        for row, answer in zip(rows, self._ask(prompts, labels, "histories"), strict=True):
            texts[row] = answer or texts[row]
        return texts

    def plan(self) -> str:
        """Lines that say what would be done."""
        settings, log = self.settings, self.split.log
        described = [""] * (log.num_items + 1)
        if settings.descriptions == "file":
            described = read_descriptions(settings.descriptions_file, log)
        elif self.text is not None:
            described = self._template()
        names = item_names(log, self.text, described)
        lines = [
            f"{log.num_items:,} items, {sum(map(bool, described)):,} with text; "
            f"{len(self.pool.lengths):,} histories in the pool {settings.pool!r}",
            f"descriptions: {settings.descriptions}; histories: {settings.histories}; encoder: {settings.encoder}",
        ]
        asked = []
        if settings.descriptions == "llm":
            asked.append(("items", self._item_prompts(names)[1]))
        if settings.histories == "llm":
            prompts = asking.history_prompts(self.split, names, settings)[1]
            asked.append(("histories", prompts))
        cache = AnswerCache(self.folder / ANSWERS_FILE, read_only=True)
        for what, prompts in asked:
            lines.append(f"{what}: {estimate(prompts, settings.llm, cache)}")
        if not asked:
            lines.append("no language model would be asked")
        return "\n".join(lines)


def _table(log: InteractionLog, descriptions: Sequence[str]) -> bytes:
    """descriptions.tsv; cleaned text has neither tabs nor line breaks."""
    labels = log.item_labels[1:].tolist()
    rows = (f"{label}\t{text}" for label, text in zip(labels, descriptions[1:], strict=True))
    return ("item_id\tdescription\n" + "\n".join(rows) + "\n").encode("utf-8", "replace")
