"""What a trained workdir holds, read and checked for inference; nothing there is written.

config.json   log/   stages/NAME.json (the stage is done)   best/NAME   memory/
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from raserec_jax import checkpoints
from raserec_jax.data.interactions import ITEMS_FILE, InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import CheckpointError, DataError
from raserec_jax.models.backbones import Encoder, make_backbone
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.retrieval.memory_bank import MemoryBank

FINETUNED_MEMORY = "memory_finetuned"
"""Folder of the bank by the encoder that stage 2 trained, if it trained one."""

_GROUPS = ("data", "encoder", "reader", "memory", "finetune", "mixing")


class Workdir(NamedTuple):
    """A workdir whose pre-training is done.

    folder, config, log, text: text is None if unknown.
    encoder, reader: the modules that the configuration describes.
    encoder_params: best of stage 1.
    memory_folder: of the bank that these parameters made.
    """

    folder: Path
    config: ConfigDict
    log: InteractionLog
    text: ItemText | None
    encoder: Encoder
    reader: MemoryReader
    encoder_params: dict
    memory_folder: str = "memory"

    def record(self, stage: str) -> dict | None:
        """What a finished stage wrote down, None if it is not finished.

        Raises:
          CheckpointError: the record is damaged.
        """
        return _stage_record(self.folder, stage)

    def best(self, stage: str) -> dict | None:
        """Best parameters of a stage, None if it is not finished.

        Raises:
          CheckpointError: they are missing, damaged, or of another configuration.
        """
        if self.record(stage) is None:
            return None
        template = self.encoder_params
        if stage == "finetune":
            template = _reader_shapes(self.reader, self.encoder)
            if self._trained_encoder:
                template = {"reader": template, "encoder": self.encoder_params}
        return checkpoints.restore(self.folder / "best" / stage, template)[0]

    def best_reader(self) -> "tuple[dict | None, Workdir]":
        """Parameters of the reader, and this workdir with the encoder and the memory that it goes with.

        They are those of stage 1, unless stage 2 trained the encoder too; parameters are None if it is not finished.

        Raises:
          CheckpointError: as `best`.
        """
        found = self.best("finetune")
        if found is None or not self._trained_encoder:
            return found, self
        own = self._replace(encoder_params=found["encoder"], memory_folder=FINETUNED_MEMORY)
        return found["reader"], own

    @property
    def _trained_encoder(self) -> bool:
        return self.config.finetune.get("train_encoder", False)  # older configurations lack it

    def bank(self) -> MemoryBank:
        """The memory, which must have been built by this encoder from this catalogue.

        Raises:
          CheckpointError: it is missing, damaged or foreign.
        """
        bank = MemoryBank.load(
            self.folder / self.memory_folder, checkpoints.params_fingerprint(self.encoder_params)
        )
        beyond = bank.rows and (
            bank.target_ids.max() > self.log.num_items or bank.user_ids.max() >= self.log.num_users
        )
        if beyond:
            raise CheckpointError(
                f"{self.folder}/{self.memory_folder}: names items or users that {self.folder}/log does not have; "
                "remove the folder of the bank and run launch/train.py with this --workdir again"
            )
        return bank


class Mixture(NamedTuple):
    """How retrieved neighbours are mixed in: weight in [0, 1], temperature > 0, top_k neighbours."""

    weight: float
    temperature: float
    top_k: int


class Method(NamedTuple):
    """What scores.

    scoring: "combined", "finetune", "mixing" or "pretrain".
    reader_params, mixture: None where the scoring does not use it.
    """

    scoring: str
    reader_params: dict | None
    mixture: Mixture | None


def choose_method(workdir: Workdir) -> Method:
    """The best that the workdir has: the memory reader, else neighbour mixing, else the encoder alone.

    With `config.finetune.combine`, the reader is mixed with its neighbours as chosen on validation.

    Raises:
      CheckpointError: what a finished stage left is missing or damaged.
    """
    reader_params, _ = workdir.best_reader()
    if reader_params is not None and workdir.config.finetune.get("combine", False):
        if mixture := read_mixture(workdir, "combined"):
            return Method("combined", reader_params, mixture)
    if reader_params is not None:
        return Method("finetune", reader_params, None)
    if mixture := read_mixture(workdir, "mixing"):
        return Method("mixing", None, mixture)
    return Method("pretrain", None, None)


def read_mixture(workdir: Workdir, name: str) -> Mixture | None:
    """The mixture chosen for "mixing" (the encoder) or "combined" (the reader), None if there is none yet.

    Raises:
      CheckpointError: the record is damaged.
    """
    record = (workdir.record("mixing") or {}).get(name)
    if record is None:
        return None
    try:
        return Mixture(*(record[field] + 0 for field in Mixture._fields))
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{workdir.folder}/stages/mixing.json: damaged, {name} lacks one of {', '.join(Mixture._fields)}; "
            "remove it and run launch/train.py with this --workdir again"
        ) from None


def open_workdir(workdir: PathLike) -> Workdir:
    """Reads configuration, log and stage 1 of a workdir.

    Raises:
      CheckpointError: no workdir, pre-training is not finished, or a part is damaged or of another run.
    """
    folder = Path(workdir)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such workdir; give the folder that launch/train.py made (--workdir)"
        )
    config = _read_config(folder)
    if _stage_record(folder, "pretrain") is None:
        raise CheckpointError(
            f"{folder}: pre-training is not finished (no stages/pretrain.json); run launch/train.py with "
            "this --workdir to its end"
        )
    try:
        log = InteractionLog.load(folder / "log")
        text = ItemText.load(folder / "log") if (folder / "log" / ITEMS_FILE).exists() else None
    except DataError as error:
        raise CheckpointError(f"{error} (in the workdir {folder})") from None
    try:
        encoder = make_backbone(log.num_items, **config.encoder)
        reader = MemoryReader(**config.reader)
        shapes = _encoder_shapes(encoder)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder}/config.json: describes no model of this release ({reason:.200}); use the release that trained it"
        ) from None
    params = checkpoints.restore(folder / "best" / "pretrain", shapes)[0]
    return Workdir(folder, config, log, text, encoder, reader, params)


def _read_config(folder: Path) -> ConfigDict:
    path = folder / "config.json"
    found = _read_json(path)
    if found is None:
        raise CheckpointError(
            f"{folder}: has no config.json, so it is no workdir; give the folder that launch/train.py made"
        )
    complete = isinstance(found, dict) and all(isinstance(found.get(g), dict) for g in _GROUPS)
    if not complete:
        raise CheckpointError(
            f"{path}: not the configuration of a run (it needs {', '.join(_GROUPS)}); restore it from a copy"
        )
    return ConfigDict(found)


def _stage_record(folder: Path, stage: str) -> dict | None:
    path = folder / "stages" / f"{stage}.json"
    found = _read_json(path)
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: not the record of a stage; remove it and run launch/train.py again"
        )
    return found


def _read_json(path: Path) -> Any:
    """The content, None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: damaged, not JSON ({error}); restore it from a copy or remove it and run launch/train.py again"
        ) from None


def _encoder_shapes(encoder: Encoder) -> dict:
    key, ids = jax.random.key(0), jax.ShapeDtypeStruct((1, 2), np.int32)
    return jax.eval_shape(lambda x: encoder.init(key, x), ids)["params"]


def _reader_shapes(reader: MemoryReader, encoder: Encoder) -> dict:
    key, dim = jax.random.key(0), encoder.dim
    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((1, dim), (1, 1, dim), (1, 1, dim))]
    return jax.eval_shape(lambda *x: reader.init(key, *x), *shapes).get("params", {})
