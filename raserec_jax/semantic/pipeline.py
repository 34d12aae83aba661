"""embed_text(): item text -> descriptions -> vectors -> neighbour tables -> quality report, each step resumable.

    FOLDER/
      descriptions.tsv        what was embedded, item by item; without_text.txt lists items that have none
      answers.jsonl           of a language model; failures.tsv lists what it did not answer
      tuned/                  the text encoder, trained on next items if asked to; tuning/ of one under way
      vectors/                by encoder and text
      neighbors/              of a search under way
      tables/                 SemanticTables: what training reads
      quality.json .txt .html
      timings.json            seconds of each step that was done

A step is known by the SHA-256 of all that it depends on; what is there is read, not made again. Kill it at any point
and run it again.
"""

import contextlib
import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split
from raserec_jax.data.storage import MANIFEST, PathLike, is_saved_folder, write_file
from raserec_jax.errors import DataError
from raserec_jax.progress import Progress
from raserec_jax.report.style import CSS
from raserec_jax.semantic import sentence_encoder
from raserec_jax.semantic.clusters import cluster_neighbors
from raserec_jax.semantic.collaborative import collaborative_facts, collaborative_vectors
from raserec_jax.semantic.encoders import Encoder, identity, same_request
from raserec_jax.semantic.hashing import HashingEncoder
from raserec_jax.semantic.histories import composed_vectors
from raserec_jax.semantic.neighbors import history_neighbors, item_neighbors
from raserec_jax.semantic.piece_cache import PieceCache
from raserec_jax.semantic.quality import quality
from raserec_jax.semantic.quality_page import quality_page, quality_text
from raserec_jax.semantic.ready_vectors import files_digest, read_vectors, unit
from raserec_jax.semantic.settings import check_semantic
from raserec_jax.semantic.tables import (
    SemanticTables,
    check_tables,
    load_with_manifest,
    pool_examples,
    split_fingerprint,
)
from raserec_jax.semantic.texts import Texts
from raserec_jax.semantic.tuned_encoder import TunedEncoder
from raserec_jax.semantic.vector_cache import VectorCache

TABLES = "tables"
QUALITY = "quality.json"
PAGE = "quality.html"


class Embedded(NamedTuple):
    """folder: of everything; tables; quality: as quality.json; reused: whether the tables were there already."""

    folder: pathlib.Path
    tables: SemanticTables
    quality: dict
    reused: bool


def embed_text(
    split: Split,
    text: ItemText | None,
    settings,
    folder: PathLike,
    *,
    encoder: Encoder | None = None,
    progress=Progress,
) -> Embedded:
    """Runs the steps.

    Args:
      split: says what is training; nothing else gets into a text or, with the pool "training", a table.
      text: columns of items; may be None with ready descriptions or vectors.
      settings: as `settings.semantic_settings`.
      folder: made if absent.
      encoder: in place of the one that the settings name.
      progress: as `progress.Progress`.

    Returns:
      The tables and how good they look.

    Raises:
      ConfigError, DataError: unusable settings, text, model, endpoint or folder, in one sentence.
      Interrupted: the budget of a run is used up; run again to go on.
    """
    check_semantic(settings)
    return _Steps(split, text, settings, pathlib.Path(folder), encoder, progress).run()


def embed_items(
    split: Split, text: ItemText | None, settings, folder: PathLike, *, progress=Progress
) -> np.ndarray:
    """[items + 1, width] float16 vectors of the items alone, unit length; zeros where there is no text.

    As `embed_text` without histories and neighbours; what it embedded in the same folder is not embedded again.
    """
    check_semantic(settings)
    steps = _Steps(split, text, settings, pathlib.Path(folder), None, progress)
    steps.make_folder()
    return steps.item_vectors(steps.texts.descriptions()[0])


def dry_run(split: Split, text: ItemText | None, settings, folder: PathLike) -> str:
    """What `embed_text` would do, with calls, tokens and cost; nothing is sent or written.

    Raises:
      as `embed_text`.
    """
    check_semantic(settings)
    plan = _Steps(split, text, settings, pathlib.Path(folder), None, Progress).texts.plan()
    if settings.tune.steps:
        plan += f"\nthe text encoder would be trained for {settings.tune.steps:,} steps"
    return plan


def summary(embedded: Embedded) -> str:
    """What a terminal shows at the end."""
    done = "read from the folder, nothing to do" if embedded.reused else "done"
    return f"{quality_text(embedded.quality)}\n\n{done}: {embedded.folder / TABLES}; report {embedded.folder / PAGE}"


class _Steps:
    """The steps with what they hand on."""

    def __init__(self, split: Split, text, settings, folder: pathlib.Path, encoder, progress):
        self.split, self.text, self.settings, self.folder = split, text, settings, folder
        self.pool = pool_examples(split, settings.pool)
        self.progress = progress
        self.texts = Texts(split, self.pool, text, settings, folder, progress)
        self.given_encoder = encoder
        self._tuned: TunedEncoder | None = None
        self.timings: dict[str, float] = {}

    def run(self) -> Embedded:
        self.make_folder()
        descriptions, names = self._timed("descriptions", self.texts.descriptions)
        texts = None
        if self.settings.histories != "mean":
            texts = self._timed("history texts", self.texts.of_histories, names)
        encoder = self._timed("encoder", self._encoder_facts, descriptions)
        wanted = self._request(encoder, descriptions, texts)
        tables = self._finished(wanted)
        reused = tables is not None
        if tables is None:
            tuned = self._tuned_encoder(descriptions)
            if tuned is not None:
                self.given_encoder = self._timed("tuning", tuned.load, self.progress)
                wanted = self._request(tuned.facts(), descriptions, texts)
            key = _digest(wanted)
            items, histories = self._timed("vectors", self._vectors, descriptions, texts)
            tables = self._timed("neighbors", self._tables, items, histories, key)
            tables.save(self.folder / TABLES, self.split, wanted)
            PieceCache(self.folder / "neighbors", key).clear()
        found = self._timed("quality", self._quality, tables, names)
        if not reused:
            _write_json(self.folder / "timings.json", self.timings)
        return Embedded(self.folder, tables, found, reused)

    def make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error.strerror}); choose another output folder"
            ) from error

    def _timed(self, name: str, step, *arguments):
        start = time.perf_counter()
        result = step(*arguments)
        self.timings[name] = round(time.perf_counter() - start, 2)
        return result

    # --- vectors ---

    def _encoder_facts(self, descriptions: list[str]) -> dict[str, str | None]:
        """Name, revision and digest of the encoder, without loading it; digest None if its files are not here."""
        settings = self.settings
        if self.given_encoder is None and settings.encoder == "hashing":
            self.given_encoder = HashingEncoder(descriptions, width=settings.width)
        if self.given_encoder is not None:
            facts = identity(self.given_encoder)
            return {name: facts[name] for name in ("name", "revision", "digest")}
        if settings.encoder == "ready":
            digest = files_digest(settings.vectors_file, settings.ids_file)
            return {"name": "ready", "revision": "", "digest": digest}
        if settings.encoder == "collaborative":
            return collaborative_facts(self.split, settings.width, split_fingerprint(self.split))
        tuned = self._tuned_encoder(descriptions)
        if tuned is not None:
            return tuned.facts()
        return sentence_encoder.model_facts(settings)

    def _tuned_encoder(self, descriptions: list[str]) -> TunedEncoder | None:
        if self._tuned is None and self.given_encoder is None and self.settings.tune.steps:
            self._tuned = TunedEncoder(self.split, descriptions, self.settings, self.folder)
        return self._tuned

    def _vectors(self, descriptions: list[str], texts: list[str] | None):
        """(item vectors, history vectors)."""
        settings = self.settings
        items = self.item_vectors(descriptions)
        if texts is not None:
            return items, self._encoded(texts, "history vectors")
        return items, composed_vectors(
            self.split.log,
            self.pool,
            items,
            max_items=settings.history_items,
            decay=settings.history_decay,
        )

    def item_vectors(self, descriptions: list[str]) -> np.ndarray:
        """[items + 1, width] float16."""
        settings = self.settings
        if self.given_encoder is None and settings.encoder == "ready":
            return read_vectors(settings.vectors_file, settings.ids_file, self.split.log)
        if self.given_encoder is None and settings.encoder == "collaborative":
            return _normal(collaborative_vectors(self.split, settings.width))
        tuned = self._tuned_encoder(descriptions)
        if tuned is not None and self.given_encoder is None:
            self.given_encoder = tuned.load(self.progress)
        return self._encoded(descriptions, "item vectors")

    def _encoded(self, texts: list[str], desc: str) -> np.ndarray:
        if self.given_encoder is None:
            hashing = self.settings.encoder == "hashing"
            self.given_encoder = (
                HashingEncoder(texts, width=self.settings.width)
                if hashing
                else sentence_encoder.make_encoder(self.settings)
            )
        cache = VectorCache(self.folder / "vectors", self.given_encoder)
        return _normal(cache.encode(texts, desc, progress=self.progress))

    # --- tables ---

    def _request(self, encoder: dict, descriptions: list[str], texts: list[str] | None) -> dict:
        """All that decides the tables, as JSON values; kept in their manifest."""
        names = ("descriptions", "histories", "history_items", "history_decay")
        names += ("top_k", "pool", "own_histories", "engine")
        if self.settings.neighbors != "nearest":
            names += ("neighbors", "clusters")
        return {
            "encoder": encoder,
            "settings": {name: self.settings[name] for name in names},
            "descriptions_sha256": _digest(descriptions),
            "histories_sha256": None if texts is None else _digest(texts),
            "items_with_text": sum(map(bool, descriptions)),
            "log": self.split.log.fingerprint(),
            "split": split_fingerprint(self.split),
        }

    def _finished(self, wanted: dict) -> SemanticTables | None:
        """The tables that are there, if they are those wanted; damaged ones are made again.

        Where the model is not installed, its name has to do: finished tables need no model.
        """
        if not is_saved_folder(self.folder / TABLES):
            return None
        try:
            tables, manifest = load_with_manifest(self.folder / TABLES)
            if same_request(manifest["provenance"], wanted):
                check_tables(tables, self.split, str(self.folder / TABLES))
                return tables
        except DataError as error:
            print(f"{error}: made again", flush=True)
        return None

    def _tables(self, items: np.ndarray, histories: np.ndarray, key: str) -> SemanticTables:
        find = self._nearest if self.settings.neighbors == "nearest" else self._of_clusters
        of_items, of_histories = find(items, histories, key)
        return SemanticTables(items, histories, of_items, of_histories, self.settings.pool)

    def _nearest(self, items: np.ndarray, histories: np.ndarray, key: str):
        """Neighbours of items and of training histories by search."""
        settings = self.settings
        search = {"engine": settings.engine, "progress": self.progress}
        return item_neighbors(items, settings.top_k, **search), history_neighbors(
            histories,
            self.pool.user_ids,
            self._examples(),
            settings.top_k,
            own_histories=settings.own_histories,
            pieces=PieceCache(self.folder / "neighbors", key),
            **search,
        )

    def _of_clusters(self, items: np.ndarray, histories: np.ndarray, key: str):
        """The same by clusters; seconds, so nothing of it is kept on the way."""
        del key
        settings = self.settings
        own = np.arange(len(histories)) if settings.own_histories else self.pool.user_ids
        drawn = {"top_k": settings.top_k, "clusters": settings.clusters}
        return (
            cluster_neighbors(items, np.arange(len(items)), queries=len(items), **drawn),
            cluster_neighbors(histories, own, queries=self._examples(), **drawn),
        )

    def _examples(self) -> int:
        return len(pool_examples(self.split, "training").lengths)

    def _quality(self, tables: SemanticTables, names: Sequence[str]) -> dict:
        """The report, read if it is of these very tables."""
        settings, path = self.settings, self.folder / QUALITY
        manifest = hashlib.sha256((self.folder / TABLES / MANIFEST).read_bytes()).hexdigest()
        of = {"manifest_sha256": manifest, "samples": settings.report_samples}
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads(path.read_bytes())
            if found["of"] == of:
                return found
        found = quality(
            tables,
            self.split,
            self.text,
            names,
            samples=settings.report_samples,
            max_items=settings.history_items,
        )
        found["of"] = of
        write_file(self.folder / "quality.txt", (quality_text(found) + "\n").encode())
        write_file(self.folder / PAGE, quality_page(found, CSS).encode())
        _write_json(path, found)
        return found


def _normal(vectors: np.ndarray) -> np.ndarray:
    """float16 rounding leaves lengths off by a thousandth; scaled once more, as good as float16 can be."""
    return unit(vectors).astype(np.float16)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write_json(path: pathlib.Path, value: Any) -> None:
    write_file(path, (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode())
