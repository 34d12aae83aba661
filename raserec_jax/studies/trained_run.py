"""A run with encoder, reader and memory, trained here or finished elsewhere, ready to be asked what its memory does."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from raserec_jax.config_rules import AS_BEFORE
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split, split_log
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.evaluation.item_scores import Scores
from raserec_jax.recommend.loading import Workdir, open_workdir
from raserec_jax.report.results import read_json
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.memory_search import search_bank
from raserec_jax.training.pipeline import train
from raserec_jax.training.pretraining import query_ranks
from raserec_jax.training.reading import augmented_query
from raserec_jax.training.remembering import Memory, Part, as_queries
from raserec_jax.training.saved_memory import saved_memory
from raserec_jax.training.testing import Ranks

STAGES = ("semantic", "pretrain", "memory", "finetune", "evaluate")


class TrainedRun(NamedTuple):
    """opened, split: the workdir and its split.  reader_params: of the reader.  memory: with all parts but the training
    examples.  protocol, devices: as results.json tells them."""

    opened: Workdir
    split: Split
    reader_params: dict
    memory: Memory
    protocol: dict
    devices: str

    def ranks_without(self, part: Part) -> Ranks:
        """By the encoder alone."""
        return self.ranks(part, Scores(part.query))

    def ranks_with(self, part: Part, bank: MemoryBank, top_k: int = 0) -> Ranks:
        """By the reader; `top_k` memories, 0 = as configured."""
        return self.ranks(part, Scores(self.augmented(part, bank, top_k)))

    def augmented(self, part: Part, bank: MemoryBank, top_k: int = 0):
        """[queries, dim] user vectors after reading."""
        table = self.opened.encoder_params["item_table"]
        top_k = top_k or self.opened.config.memory.top_k
        return augmented_query(
            self.opened.reader, self.reader_params, part, bank, table, min(top_k, bank.rows)
        )

    def ranks(self, part: Part, scores: Scores) -> Ranks:
        """Of the part's targets."""
        params = self.opened.encoder_params
        return Ranks(*query_ranks(scores, params, self.split, part.evaluation))

    def searched(self, part: Part, bank: MemoryBank, top_k: int = 0) -> Part:
        """The part's queries with what another bank gives them."""
        settings = self.opened.config.memory
        queries = as_queries(part.query, part.evaluation)
        found = search_bank(settings, bank, queries, top_k or settings.top_k)
        return part._replace(retrieved=found)


def trained_run(
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int = 0,
    run: PathLike | None = None,
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
) -> TrainedRun:
    """Trains in WORKDIR/run, or reads a finished run.

    Args:
      config, log, item_text: as `train`; a finished run keeps its own.
      seed: of the training.
      run: a finished workdir to be read in place of a training; nothing there is changed.

    Raises:
      CheckpointError: the run is damaged, or its stage 2 or its test is not finished.
      ConfigError: stage 2 trained the encoder too, so that it cannot be told what memory did.
    """
    if run is None:
        one = config.copy_and_resolve_references()
        one.seed, one.finetune.control = seed, False
        run = Path(workdir) / "run"
        train(one, log, run, item_text=item_text, stages=STAGES)
    opened = open_workdir(run)
    opened = opened._replace(config=_completed(opened.config))
    if opened.config.finetune.get("train_encoder", False):
        raise ConfigError(
            f"{run}: stage 2 trained the encoder too; this study needs config.finetune.train_encoder=false"
        )
    reader_params = opened.best("finetune")
    memory = saved_memory(opened, ("valid", "test_train_bank", "test"))
    if reader_params is None or memory is None:
        raise CheckpointError(
            f"{run}: stage 2 is not finished; run launch/train.py with this --workdir to its end"
        )
    results = read_json(Path(run) / "results.json")
    split = split_log(opened.log, opened.config.data)
    return TrainedRun(opened, split, reader_params, memory, results["protocol"], results["devices"])


def _completed(config: ConfigDict) -> ConfigDict:
    """With the values of the memory that a run of an earlier release did not write, as they were then."""
    one = ConfigDict(config.to_dict())
    for name, value in AS_BEFORE.items():
        group, _, field = name.partition(".")
        if group == "memory" and field not in one.memory:
            one.memory[field] = value
    return one


def halves(num_users: int, seed: int) -> np.ndarray:
    """[users] bool: a random half of the users."""
    first = np.zeros(num_users, bool)
    first[np.random.default_rng([seed, 11]).permutation(num_users)[: num_users // 2]] = True
    return first
