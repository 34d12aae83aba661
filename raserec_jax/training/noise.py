"""Noise in the histories of the test: how much of what a model knows survives wrong items."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from raserec_jax.data.splits import Split
from raserec_jax.encoding import encode_rows, evaluation_set
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.models.backbones import Encoder
from raserec_jax.training.memory_search import search_bank
from raserec_jax.training.pretraining import query_ranks
from raserec_jax.training.reading import augmented_query, make_reader
from raserec_jax.training.remembering import Memory, Part, as_queries
from raserec_jax.training.testing import TrainedParts


def noisy_histories(split: Split, share: float, seed: int) -> Split:
    """The split with a share of the items before each test target replaced by random ones of the catalogue.

    For the test alone: the targets of validation and training lie in these histories and change with them.

    Args:
      share: probability with which each item is replaced, in [0, 1], by an item drawn uniformly (maybe itself). With
        one seed, what a smaller share replaces a larger one replaces too, by the same items.
      seed: of the draws.

    Returns:
      A split of another log; the test targets, what follows them, and users without one are as they were.
    """
    log = split.log
    place = np.arange(log.num_interactions) - log.offsets[log.user_ids]
    draw = np.random.default_rng([seed, 11])
    replaced = draw.random(log.num_interactions) < share
    replaced &= place < split.test_position[log.user_ids]
    items = draw.integers(1, log.num_items + 1, log.num_interactions, dtype=np.int32)
    return split._replace(
        log=dataclasses.replace(log, item_ids=np.where(replaced, items, log.item_ids))
    )


def noise_study(
    config,
    encoder: Encoder,
    split: Split,
    memory: Memory | None,
    parts: TrainedParts,
    share: float,
    mesh: Mesh | None = None,
) -> dict[str, dict]:
    """Test metrics of the encoder and of the reader with noisy histories; the memory itself has none.

    The queries are encoded and searched anew. Histories are noisy for the repeat bias and the filter too: the wrong
    items are all that the system knows.

    Args:
      mesh: as in `rank_targets`.

    Returns:
      {"pretrain": {"unfiltered": {...}, "filtered": {...}}, and "finetune" if there is a reader}.
    """
    noisy = noisy_histories(split, share, config.seed)
    return {
        name: evaluate_ranks(*query_ranks(scores, params, noisy, queries, mesh))
        for name, scores, params, queries in _noisy_scores(
            config, encoder, noisy, memory, parts, mesh
        )
    }


def _noisy_scores(config, encoder, noisy: Split, memory, parts, mesh) -> Iterator[tuple]:
    queries = evaluation_set(noisy, "test", max_len=encoder.max_len)
    item_ids = noisy.log.item_ids
    query = encode_rows(encoder, parts.encoder_params, item_ids, queries.rows, mesh=mesh)
    yield "pretrain", Scores(query), parts.encoder_params, queries
    if parts.reader_params is None or memory is None:
        return
    own, own_memory = parts.behind_reader(memory)
    if own is not parts.encoder_params:
        query = encode_rows(encoder, own, item_ids, queries.rows, mesh=mesh)
    bank, top_k = own_memory.full_bank, config.memory.top_k
    found = search_bank(config.memory, bank, as_queries(query, queries), top_k, mesh)
    part = Part(queries, query, found)
    augmented = augmented_query(
        make_reader(config), parts.reader_params, part, bank, own["item_table"], top_k, mesh
    )
    yield "finetune", Scores(augmented), own, queries
