"""TunedEncoder: the text encoder of a configuration, trained on what follows what in training; kept in a folder.

    FOLDER/tuned/manifest.json    what it was made from, SHA-256 of the model, losses
    FOLDER/tuned/model/           as sentence-transformers saves it, safetensors
    FOLDER/tuning/                a training under way

It is trained before it makes vectors, not in stage 1's step, which would have to encode most of the catalogue's texts.
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from raserec_jax.data.splits import Split
from raserec_jax.data.storage import write_file
from raserec_jax.errors import DataError
from raserec_jax.progress import Progress
from raserec_jax.semantic import sentence_encoder
from raserec_jax.semantic.encoders import same_request
from raserec_jax.semantic.item_pairs import distinct_texts, following_pairs, pair_batches
from raserec_jax.semantic.sentence_encoder import SentenceEncoder, folder_digest
from raserec_jax.semantic.tuning import tune
from raserec_jax.semantic.tuning_checkpoint import TuningCheckpoint

FOLDER = "tuned"
_KIND = "TunedTextEncoder"
_UNDER_WAY = "tuning"
_TOLD_LOSSES = 20


class TunedEncoder:
    """A text encoder and the training that makes it.

    Attributes:
      recipe: all that decides the result, as JSON values: the model it starts from, settings, digest of the pairs.
    """

    def __init__(self, split: Split, descriptions: Sequence[str], settings, folder: pathlib.Path):
        """Finds the pairs.

        Args:
          split: only training histories are looked at.
          descriptions: texts of items 0..num_items.
          settings: as `settings.semantic_settings`, with tune.steps above 0.
          folder: of all that is made from text.

        Raises:
          DataError: no two items with text follow each other.
        """
        self._settings, self._folder = settings, folder
        self._descriptions = descriptions
        self._pairs = following_pairs(split, descriptions, settings.tune.window)
        self._base = sentence_encoder.model_facts(settings)
        self.recipe = {
            "base": self._base,
            **settings.tune.to_dict(),
            "pairs_sha256": _pairs_digest(self._pairs, descriptions),
        }

    def facts(self) -> dict:
        """As an encoder's, with the recipe; digest None if it is not trained yet."""
        return {
            "name": f"{self._base['name']}-tuned",
            "revision": self._base["revision"],
            "digest": self._finished(),
            "tuned": self.recipe,
        }

    def load(self, progress=Progress) -> SentenceEncoder:
        """The trained encoder; trains it if it is not there, going on where a killed training was.

        Raises:
          ConfigError: the batch is too large for the pairs; else as `sentence_encoder.make_encoder`.
          DataError: it cannot be written.
          NonFiniteLossError: as `tuning.tune`.
        """
        if self._finished() is None:
            self._train(progress)
        encoder = SentenceEncoder(
            str(self._folder / FOLDER / "model"), batch_tokens=self._settings.batch_tokens
        )
        facts = self.facts()
        encoder.name, encoder.revision = facts["name"], facts["revision"]
        return encoder

    def _finished(self) -> str | None:
        """SHA-256 of the model that is there, if it is whole and was made by this recipe."""
        place = self._folder / FOLDER
        try:
            manifest = json.loads((place / "manifest.json").read_bytes())
            recipe, digest = manifest["recipe"], manifest["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if manifest.get("kind") != _KIND or not same_request(recipe, self.recipe):
            return None
        if folder_digest(place / "model") != digest:
            print(f"removed: {place} is damaged; the text encoder is trained again", flush=True)
            shutil.rmtree(place, ignore_errors=True)
            return None
        return digest

    def _train(self, progress) -> None:
        tuning = self._settings.tune
        text_ids = distinct_texts(self._descriptions)
        by_number = dict(zip(text_ids.tolist(), self._descriptions, strict=True))
        sides = text_ids[self._pairs]
        rows = pair_batches(sides, tuning.steps, tuning.batch, tuning.seed)
        encoder = sentence_encoder.make_encoder(self._settings)
        self._base["digest"] = encoder.digest  # if its files came only now
        key = hashlib.sha256(json.dumps(self.recipe).encode()).hexdigest()
        checkpoint = TuningCheckpoint(self._folder / _UNDER_WAY, key)
        losses = tune(encoder, by_number, sides[rows], tuning, checkpoint, progress=progress)
        self._keep(encoder, losses)
        checkpoint.clear()
        print(f"text encoder: {_told(losses)} over {tuning.steps:,} steps", flush=True)

    def _keep(self, encoder: SentenceEncoder, losses: list[float]) -> None:
        """Writes model and manifest, whole or not at all."""
        from safetensors import SafetensorError

        target = self._folder / FOLDER
        building = target.with_name(f".building-{FOLDER}")
        try:
            shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
            (building / "model").mkdir(parents=True)
            encoder.save(building / "model")
            for path in (building / "model").rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            manifest = {
                "kind": _KIND,
                "recipe": self.recipe,
                "digest": folder_digest(building / "model"),
                "losses": _means(losses),
            }
            write_file(building / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(building, target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(building, ignore_errors=True)
            raise DataError(
                f"{target}: cannot be written ({error}); free space or choose another output folder"
            ) from error


def _pairs_digest(pairs: np.ndarray, descriptions: Sequence[str]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(pairs, "<i4").tobytes())
    used = [descriptions[item] for item in np.unique(pairs).tolist()]
    digest.update(json.dumps(used).encode())
    return digest.hexdigest()


def _means(losses: list[float]) -> list[float]:
    """Of up to 20 equal parts of the steps, in order."""
    parts = np.array_split(np.array(losses), min(len(losses), _TOLD_LOSSES))
    return [round(float(part.mean()), 4) for part in parts]


def _told(losses: list[float]) -> str:
    means = _means(losses)
    return f"loss {means[0]:.4f} at first, {means[-1]:.4f} at the end"
