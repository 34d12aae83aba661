"""The memory stage: encode every training prefix, build the bank, search it once for all that stage 2 will ask.

With the encoder frozen, the query vectors and their neighbours are constants of the bank version, so no later stage
searches. The neighbours found are saved: ScaNN has no seed, and a run can be repeated from them.
"""

import logging
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax import checkpoints
from raserec_jax.batching.packing import default_row_len
from raserec_jax.batching.windows import (
    Examples,
    later_examples,
    prefix_windows,
    training_examples,
)
from raserec_jax.data.splits import Split
from raserec_jax.encoding import (
    EvaluationSet,
    encode_rows,
    evaluation_set,
    example_rows,
    history_rows,
)
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.retrieval.eligibility import Queries, audit
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, load_retrieved, save_retrieved
from raserec_jax.retrieval.searcher import engine_name, make_searcher, recall_against_exact
from raserec_jax.training.workdir import read_record, write_record


class Part(NamedTuple):
    """Queries of a part of the split, as vectors, and what the bank gave them.

    evaluation: the queries themselves.  query: [queries, dim].  retrieved: their neighbours, best first.
    """

    evaluation: EvaluationSet
    query: jax.Array
    retrieved: Retrieved


class Memory(NamedTuple):
    """What stage 2, mixing and the test read.

    train_bank: every training prefix.  full_bank: the validation pairs too, as published for the test.
    examples, example_retrieved: the training examples (rows of train_bank) and their neighbours.
    valid, test_train_bank: searched in train_bank.  test: searched in full_bank.
    """

    train_bank: MemoryBank
    full_bank: MemoryBank
    examples: Examples
    example_retrieved: Retrieved
    valid: Part
    test_train_bank: Part
    test: Part
    report: dict


def build_bank(
    encoder: SequenceEncoder, params: dict, split: Split, *, long_history: str
) -> tuple[MemoryBank, Examples]:
    """Bank of every training prefix, from one pass per user; row i is training example i."""
    examples = training_examples(split)
    rows = example_rows(split, examples, max_len=encoder.max_len, long_history=long_history)
    keys = encode_rows(encoder, params, jnp.asarray(split.log.item_ids), rows)
    times = split.log.time_ranks
    bank = MemoryBank(
        np.asarray(keys),
        examples.target_ids,
        examples.user_ids,
        examples.lengths,
        None if times is None else times[examples.target_places],
    )
    return bank, examples


def _with_later_pairs(
    bank: MemoryBank, encoder: SequenceEncoder, params: dict, split: Split
) -> MemoryBank:
    """The bank of training prefixes with the pairs that became known before the test."""
    later = later_examples(split)
    windows = prefix_windows(later, encoder.max_len)
    rows = history_rows(windows, default_row_len(encoder.max_len))
    keys = encode_rows(encoder, params, jnp.asarray(split.log.item_ids), rows)
    times = split.log.time_ranks
    times = None if times is None else times[later.target_places]
    return bank.append(np.asarray(keys), later.target_ids, later.user_ids, later.lengths, times)


def as_queries(query, evaluation: EvaluationSet) -> Queries:
    """Search queries for evaluation queries: whose they are, how long the history is, when the target comes."""
    return Queries(
        np.asarray(query), evaluation.user_ids, evaluation.end_positions, evaluation.times
    )


def run_memory(
    config, encoder: SequenceEncoder, params: dict, split: Split, workdir: Path
) -> Memory:
    """Builds, saves and searches the bank; neighbours already saved for the same bank are read instead.

    Raises:
      ConfigError: memory.top_k is above the number of entries.
    """
    began = time.perf_counter()
    long_history = config.pretrain.batching.long_history
    train_bank, examples = build_bank(encoder, params, split, long_history=long_history)
    item_ids = jnp.asarray(split.log.item_ids)

    def encoded(part: str) -> tuple[EvaluationSet, jax.Array]:
        queries = evaluation_set(split, part, max_len=encoder.max_len)
        return queries, encode_rows(encoder, params, item_ids, queries.rows)

    valid, test = encoded("valid"), encoded("test")
    full_bank = _with_later_pairs(train_bank, encoder, params, split)
    encode_s = time.perf_counter() - began
    fingerprint = checkpoints.params_fingerprint(params)
    if config.memory.top_k > train_bank.rows:
        raise ConfigError(
            f"config.memory.top_k={config.memory.top_k} but the bank has {train_bank.rows} entries; "
            "lower config.memory.top_k or give more interactions"
        )
    full_bank.save(workdir / "memory", fingerprint)
    top_k = min(max(config.memory.top_k, config.mixing.top_k), train_bank.rows)
    search = _Search(config.memory, workdir / "memory", top_k)
    example_queries = Queries(
        train_bank.keys, train_bank.user_ids, train_bank.lengths, train_bank.times
    )
    found = {
        "train": search("train", train_bank, example_queries),
        "valid": search("valid", train_bank, as_queries(valid[1], valid[0])),
        "test_train_bank": search("test_train_bank", train_bank, as_queries(test[1], test[0])),
        "test": search("test", full_bank, as_queries(test[1], test[0])),
    }
    report = {"encode_s": encode_s, **search.report}
    return Memory(
        train_bank,
        full_bank,
        examples,
        found["train"],
        Part(*valid, found["valid"]),
        Part(*test, found["test_train_bank"]),
        Part(*test, found["test"]),
        report,
    )


class _Search:
    """Searches a bank or reads the saved neighbours, builds an index only if one is needed, and keeps account."""

    def __init__(self, settings, folder: Path, top_k: int):
        self.settings, self.folder, self.top_k = settings, folder, top_k
        self.searcher = None
        self.account = folder / "search.json"
        self.report = {"search_s": 0.0, "build_s": 0.0}
        self.report |= read_record(self.account) or {}
        self.report["violations"] = 0

    def __call__(self, name: str, bank: MemoryBank, queries: Queries) -> Retrieved:
        path = self.folder / f"neighbours_{name}.npz"
        found = self._saved(path, bank, queries)
        if found is None:
            if self.searcher is None or self.searcher.bank is not bank:
                self._build(bank, queries)
            began = time.perf_counter()
            found = self.searcher.search(queries, self.top_k)
            jax.block_until_ready(found)
            self.report["search_s"] += time.perf_counter() - began
            # The account first: neighbours that are there are not searched again, and so not accounted for again.
            write_record(self.account, self.report)
            save_retrieved(path, found, bank_fingerprint=bank.fingerprint)
        violations = audit(np.asarray(found.ids), bank, queries, self.settings.eligibility)
        self.report["violations"] += len(violations)
        if len(violations):
            query, slot = violations[0]
            raise AssertionError(
                f"{name}: {len(violations)} retrieved rows that their queries must not see, the first in query "
                f"{query}, slot {slot}; this is a bug in the search"
            )
        return found

    def _saved(self, path: Path, bank: MemoryBank, queries: Queries) -> Retrieved | None:
        if not path.exists():
            return None
        try:
            found = load_retrieved(path, bank_fingerprint=bank.fingerprint)
        except CheckpointError as error:
            logging.getLogger("raserec_jax").warning("searched again: %s", error)
            return None
        return found if found.ids.shape == (len(queries.user_ids), self.top_k) else None

    def _build(self, bank: MemoryBank, queries: Queries) -> None:
        self.searcher = make_searcher(
            self.settings.engine, bank, eligibility=self.settings.eligibility
        )
        self.report["engine"] = engine_name(self.searcher)
        self.report["build_s"] += self.searcher.build_s
        self.report["recall"] = recall_against_exact(
            self.searcher,
            bank,
            queries,
            min(self.settings.top_k, bank.rows),
            self.settings.eligibility,
            sample=self.settings.recall_sample,
        )
