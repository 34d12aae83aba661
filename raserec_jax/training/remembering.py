"""The memory stage: encode every training prefix, build the bank, search it once for all that stage 2 will ask.

With the encoder frozen, the query vectors and their neighbours are constants of the bank version, so no later stage
searches. The neighbours found are saved: ScaNN has no seed, and a run can be repeated from them. Where stage 2 trains
the encoder, the same is done once more for the encoder that it leaves.
"""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from raserec_jax import checkpoints
from raserec_jax.batching.packing import default_row_len
from raserec_jax.batching.windows import (
    Examples,
    later_examples,
    prefix_windows,
)
from raserec_jax.data.splits import Split
from raserec_jax.distributed import by_writer
from raserec_jax.encoding import (
    EvaluationSet,
    encode_rows,
    evaluation_set,
    example_encoder,
    for_encoding,
    history_rows,
)
from raserec_jax.errors import ConfigError
from raserec_jax.models.backbones import Encoder
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved
from raserec_jax.retrieval.subsets import Subset, kept_entries, kept_users
from raserec_jax.training.memory_search import MemorySearch


class Part(NamedTuple):
    """Queries of a part of the split, as vectors, and what the bank gave them.

    evaluation: the queries themselves.  query: [queries, dim], from a mesh on the host.  retrieved: their neighbours,
      best first.
    """

    evaluation: EvaluationSet
    query: jax.Array | np.ndarray
    retrieved: Retrieved


class Memory(NamedTuple):
    """What stage 2, mixing and the test read.

    train_bank: the training prefixes that `config.memory` lets in.  full_bank: the validation pairs too, as published
      for the test.
    examples, example_query, example_retrieved: every training prefix with its target, its vector [examples, dim]
      float32 (from a mesh on the host), and its neighbours in train_bank (None where they are not asked for).
    valid, test_train_bank: searched in train_bank.  test: searched in full_bank.
    """

    train_bank: MemoryBank
    full_bank: MemoryBank
    examples: Examples
    example_query: jax.Array | np.ndarray
    example_retrieved: Retrieved | None
    valid: Part
    test_train_bank: Part
    test: Part
    report: dict


def encode_examples(
    config, encoder: Encoder, params: dict, split: Split, mesh: Mesh | None = None
) -> tuple[jax.Array | np.ndarray, Examples]:
    """[examples, dim] float32 vector of every training prefix, from one pass per user, and what they are."""
    long_history = config.pretrain.batching.long_history
    encode, examples = example_encoder(encoder, split, long_history=long_history, mesh=mesh)
    return encode(params), examples


def build_bank(config, split: Split, query, examples: Examples) -> MemoryBank:
    """Bank, with float32 keys, of the training prefixes that `config.memory` lets in, in the order of the log.

    Raises:
      DataError: none is let in.
    """
    times = _times(split, examples)
    users = _users(config, split)
    kept = kept_entries(_subset(config), examples.lengths, examples.user_ids, times, users)
    columns = (np.asarray(query), examples.target_ids, examples.user_ids, examples.lengths, times)
    if not kept.all():
        columns = tuple(None if column is None else column[kept] for column in columns)
    return MemoryBank(*columns)


def with_later_pairs(
    config,
    bank: MemoryBank,
    encoder: Encoder,
    params: dict,
    split: Split,
    mesh: Mesh | None = None,
) -> MemoryBank:
    """The bank with the pairs that became known before the test.

    As published, bounds on length (and age) are for the training prefixes alone; users who are left out stay out.
    """
    later = later_examples(split)
    later = Examples(*(field[_users(config, split)[later.user_ids]] for field in later))
    if not len(later.lengths):
        return bank
    windows = prefix_windows(later, encoder.max_len)
    rows = history_rows(windows, default_row_len(encoder.max_len))
    keys = encode_rows(encoder, params, split.log.item_ids, rows, mesh=mesh)
    times = _times(split, later)
    return bank.append(np.asarray(keys), later.target_ids, later.user_ids, later.lengths, times)


def _times(split: Split, examples: Examples) -> np.ndarray | None:
    times = split.log.time_ranks
    return None if times is None else times[examples.target_places]


def _users(config, split: Split) -> np.ndarray:
    return kept_users(split.log.num_users, config.memory.user_share, config.seed)


def _subset(config) -> Subset:
    return Subset(**{field: config.memory[field] for field in Subset._fields})


def example_queries(query, examples: Examples, split: Split) -> Queries:
    """Search queries for the training prefixes."""
    return Queries(np.asarray(query), examples.user_ids, examples.lengths, _times(split, examples))


def as_queries(query, evaluation: EvaluationSet) -> Queries:
    """Search queries for evaluation queries: whose they are, how long the history is, when the target comes."""
    return Queries(
        np.asarray(query), evaluation.user_ids, evaluation.end_positions, evaluation.times
    )


def run_memory(
    config,
    encoder: Encoder,
    params: dict,
    split: Split,
    workdir: Path,
    *,
    name: str = "memory",
    for_training: bool = True,
    mesh: Mesh | None = None,
) -> Memory:
    """Builds, saves and searches the bank; neighbours already saved for the same bank are read instead.

    Args:
      name: folder in the workdir.
      for_training: search the neighbours of the training prefixes too.
      mesh: over which histories are encoded and the bank is searched, with the same result; None = one device. Of
        several processes all call this together.

    Raises:
      ConfigError: memory.top_k is above the number of entries.
      DataError: no pair is let into the bank.
    """
    began = time.perf_counter()
    query, examples = encode_examples(config, encoder, params, split, mesh)
    train_truth = build_bank(config, split, query, examples)

    item_ids = for_encoding(mesh, split.log.item_ids)

    def encoded(part: str) -> tuple[EvaluationSet, jax.Array | np.ndarray]:
        queries = evaluation_set(split, part, max_len=encoder.max_len)
        return queries, encode_rows(encoder, params, item_ids, queries.rows, mesh=mesh)

    valid, test = encoded("valid"), encoded("test")
    full_truth = with_later_pairs(config, train_truth, encoder, params, split, mesh)
    train_bank, full_bank = (
        bank.with_keys_as(config.memory.key_dtype) for bank in (train_truth, full_truth)
    )
    encode_s = time.perf_counter() - began
    fingerprint = checkpoints.params_fingerprint(params)
    if config.memory.top_k > train_bank.rows:
        raise ConfigError(
            f"config.memory.top_k={config.memory.top_k} but the bank has {train_bank.rows} entries; "
            "lower config.memory.top_k or give more interactions"
        )
    by_writer(f"{name}: bank", lambda: full_bank.save(workdir / name, fingerprint, repair=True))
    top_k = min(max(config.memory.top_k, config.mixing.top_k), train_bank.rows)
    search = MemorySearch(config.memory, workdir / name, top_k, mesh)
    asked = {
        "valid": (train_bank, as_queries(valid[1], valid[0]), train_truth),
        "test_train_bank": (train_bank, as_queries(test[1], test[0]), train_truth),
        "test": (full_bank, as_queries(test[1], test[0]), full_truth),
    }
    if for_training:
        asked = {
            "train": (train_bank, example_queries(query, examples, split), train_truth)
        } | asked
    found = {part: search(part, *one) for part, one in asked.items()}
    left_out = len(examples.lengths) - train_bank.rows
    report = {"encode_s": encode_s, "left_out": left_out, **search.report}
    return Memory(
        train_bank,
        full_bank,
        examples,
        query,
        found.get("train"),
        Part(*valid, found["valid"]),
        Part(*test, found["test_train_bank"]),
        Part(*test, found["test"]),
        report,
    )
