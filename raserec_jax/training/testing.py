"""The test, once: ranks of every test target under each model, their metrics, and what memory added.

Stage 1, its control (the same encoder trained on without memory), the memory reader with the bank of the training
prefixes and with the validation pairs added, nearest-neighbour mixing, and both together. What else is told of them,
groups of users, coverage and what the order of a history is worth, comes from the same ranks and top lists.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from raserec_jax.baselines.queries import counted_interactions, item_counts, part_queries
from raserec_jax.data.splits import Split
from raserec_jax.encoding import encode_rows, evaluation_set, for_encoding
from raserec_jax.evaluation.coverage import recommended_statistics
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.groups import (
    group_metrics,
    length_groups,
    length_quantiles,
    popularity_groups,
)
from raserec_jax.evaluation.metrics import paired_bootstrap
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.recommended import recommended_items
from raserec_jax.evaluation.shuffling import shuffled_segments
from raserec_jax.models.backbones import Encoder
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.attention import memory_attention
from raserec_jax.training.mixing import Mixture, mixed_scores
from raserec_jax.training.pretraining import query_ranks
from raserec_jax.training.reading import augmented_query, make_reader
from raserec_jax.training.remembering import Memory, Part

LIST_LENGTH = 10  # of the recommendations whose coverage is told
GAIN_METRICS = ("NDCG@10", "HR@10", "MRR@10", "NDCG@5", "HR@5", "NDCG@20", "HR@20")


class Ranks(NamedTuple):
    """0-based ranks of one model's test targets, one per test user; int32."""

    unfiltered: np.ndarray
    filtered: np.ndarray


class TrainedParts(NamedTuple):
    """What the stages left; None where a stage was not run.

    encoder_params, control_params, reader_params: best parameters.
    mixture: chosen for the encoder.  reader_mixture: chosen for the reader.
    reader_encoder_params, reader_memory: the encoder and the memory that the reader goes with, where stage 2 trained
      the encoder.
    """

    encoder_params: dict
    control_params: dict | None
    reader_params: dict | None
    mixture: Mixture | None
    reader_mixture: Mixture | None
    reader_encoder_params: dict | None = None
    reader_memory: Memory | None = None

    def behind_reader(self, memory: Memory) -> tuple[dict, Memory]:
        """The encoder's parameters and the memory that the reader reads; `memory` is that of stage 1."""
        if self.reader_encoder_params is None:
            return self.encoder_params, memory
        return self.reader_encoder_params, self.reader_memory


def test_ranks(
    config,
    encoder: Encoder,
    split: Split,
    memory: Memory | None,
    parts: TrainedParts,
    mesh: Mesh | None = None,
) -> dict[str, Ranks]:
    """Ranks by model: pretrain, control, finetune, finetune_train_bank, mixing, mixing_train_bank, combined.

    `mesh`: as in `rank_targets`.
    """
    queries = evaluation_set(split, "test", max_len=encoder.max_len)
    return {
        name: Ranks(*query_ranks(scores, params, split, queries, mesh))
        for name, scores, params in _test_scores(
            config, encoder, split, queries, memory, parts, mesh
        )
    }


def test_models(
    config,
    encoder: Encoder,
    split: Split,
    memory: Memory | None,
    parts: TrainedParts,
    mesh: Mesh | None = None,
) -> tuple[dict[str, Ranks], dict[str, dict]]:
    """The ranks of `test_ranks`, and what else results.json tells of a stage, from the same pass.

    Returns:
      ranks by model, and {stage: {"recommended": {"unfiltered": {"coverage@10", "mean_popularity@10"}, "filtered"},
      for "pretrain" "shuffled_history": as `shuffled_history` gives it, and for "finetune" "attention": as
      `memory_attention` gives it, with the full bank}}.
    """
    queries = evaluation_set(split, "test", max_len=encoder.max_len)
    popularity = training_popularity(split)
    ranks: dict[str, Ranks] = {}
    details: dict[str, dict] = {}
    for name, scores, params in _test_scores(config, encoder, split, queries, memory, parts, mesh):
        ranks[name] = Ranks(*query_ranks(scores, params, split, queries, mesh))
        if not name.endswith("_train_bank"):
            lists = recommended_items(
                scores._replace(repeat_bias=repeat_bias(params)),
                params["item_table"],
                min(LIST_LENGTH, split.log.num_items),
                queries.target_ids,
                split.log.offsets,
                split.log.item_ids,
                queries.end_positions,
                queries.user_ids,
                mesh,
            )
            found = (recommended_statistics(one, popularity) for one in lists)
            told = dict(zip(Ranks._fields, found, strict=True))
            details[name] = {"recommended": told}
    details["pretrain"]["shuffled_history"] = shuffled_history(
        encoder, parts.encoder_params, split, ranks["pretrain"], mesh=mesh, **_bootstrap(config)
    )
    if "finetune" in details:
        own, own_memory = parts.behind_reader(memory)
        details["finetune"]["attention"] = memory_attention(
            make_reader(config),
            parts.reader_params,
            own_memory.test,
            own_memory.full_bank,
            own["item_table"],
            config.memory.top_k,
        )
    return ranks, details


def _test_scores(
    config,
    encoder,
    split: Split,
    queries,
    memory: Memory | None,
    parts: TrainedParts,
    mesh: Mesh | None,
) -> Iterator[tuple[str, Scores, dict]]:
    """(model, scores of the test queries, parameters of the encoder whose items are scored), one after the other."""
    own = parts.encoder_params

    rows, item_ids = for_encoding(mesh, (queries.rows, split.log.item_ids))

    def encoded(params: dict):
        return encode_rows(encoder, params, item_ids, rows, mesh=mesh)

    query = encoded(own)
    yield "pretrain", Scores(query), own
    if parts.control_params is not None:
        yield "control", Scores(encoded(parts.control_params)), parts.control_params
    if memory is None:
        return
    reader, (own_2, memory_2) = make_reader(config), parts.behind_reader(memory)
    for suffix in ("", "_train_bank"):
        (part, bank), (part_2, bank_2) = (_searched(one, suffix) for one in (memory, memory_2))
        augmented = None
        if parts.reader_params is not None:
            table, top_k = own_2["item_table"], config.memory.top_k
            augmented = augmented_query(
                reader, parts.reader_params, part_2, bank_2, table, top_k, mesh
            )
            yield f"finetune{suffix}", Scores(augmented), own_2
        if parts.mixture is not None:
            yield f"mixing{suffix}", mixed_scores(query, part.retrieved, bank, parts.mixture), own
        if parts.reader_mixture is not None and augmented is not None:
            scores = mixed_scores(augmented, part_2.retrieved, bank_2, parts.reader_mixture)
            yield f"combined{suffix}", scores, own_2


def _searched(memory: Memory, suffix: str) -> tuple[Part, MemoryBank]:
    """The test's queries with what they found, and where: in the full bank, or in that of training."""
    if suffix == "_train_bank":
        return memory.test_train_bank, memory.train_bank
    return memory.test, memory.full_bank


def shuffled_history(
    encoder: Encoder,
    params: dict,
    split: Split,
    ordered: Ranks,
    *,
    samples: int,
    seed: int,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """The test once more with the items that the encoder sees of each history in a random order.

    Args:
      params: the encoder's.
      ordered: its ranks with the histories as they are.
      samples, seed: of the bootstrap; the seed also draws the orders.
      mesh: as in `rank_targets`.

    Returns:
      {"unfiltered": {...}, "filtered": {...}, "change": as `gains`: shuffled minus in order}.
    """
    queries = evaluation_set(split, "test", max_len=encoder.max_len)
    places = shuffled_segments(queries.rows.token_places, queries.rows.segment_ids, seed)
    rows = queries.rows._replace(token_places=places)
    query = encode_rows(encoder, params, split.log.item_ids, rows, mesh=mesh)
    shuffled = Ranks(*query_ranks(Scores(query), params, split, queries, mesh))
    change = gains(ordered, shuffled, samples=samples, seed=seed)
    return evaluate_ranks(*shuffled) | {"change": change}


def test_groups(config, split: Split, ranks: Mapping[str, Any]) -> dict[str, list[dict]]:
    """HR, NDCG and MRR@10 by the popularity of the target and by the length of the history.

    Args:
      ranks: model -> (unfiltered, filtered), also of baselines; those with the training bank are left out.

    Returns:
      {"popularity", "length", "length_quantiles"}: lists as `group_metrics` makes them, shortest and least popular
      first; where RaSeRec has run a group also has "gain": its NDCG@10 minus that of the control (or of stage 1, as
      "against" says), {"unfiltered": {"mean", "low", "high"}, "filtered": {...}}.
    """
    queries, popularity = part_queries(split, "test"), training_popularity(split)
    shown = {name: one for name, one in ranks.items() if not name.endswith("_train_bank")}
    groups = {
        "popularity": popularity_groups(popularity, queries.target_ids),
        "length": length_groups(queries.end_positions),
        "length_quantiles": length_quantiles(queries.end_positions),
    }
    found = {name: group_metrics(members, shown) for name, members in groups.items()}
    before = "control" if "control" in ranks else "pretrain"
    for name, members in groups.items():
        for group, told in zip(members, found[name], strict=True):
            if "finetune" in ranks and len(group.rows):
                told["gain"] = {"against": before} | {
                    protocol: paired_bootstrap(
                        first[group.rows], second[group.rows], "NDCG@10", **_bootstrap(config)
                    )
                    for protocol, first, second in zip(
                        Ranks._fields, ranks[before], ranks["finetune"], strict=True
                    )
                }
    return found


def training_popularity(split: Split) -> np.ndarray:
    """[V + 1] int64 training interactions of each item."""
    return item_counts(counted_interactions(split).item_ids, split.log.num_items)


def _bootstrap(config) -> dict[str, int]:
    return {"samples": config.evaluation.bootstrap_samples, "seed": config.seed}


def test_metrics(ranks: dict[str, Ranks]) -> dict[str, dict]:
    """Metrics of each model, both protocols."""
    return {name: evaluate_ranks(*one) for name, one in ranks.items()}


def gains(before: Ranks, after: Ranks, *, samples: int, seed: int) -> dict[str, Any]:
    """Paired bootstrap over users of `after` minus `before`, with the relative gain of the mean.

    Returns:
      {"NDCG@10": {"mean", "low", "high", "relative"}, ...} unfiltered, and the same under "filtered".
    """

    def of(first: np.ndarray, second: np.ndarray) -> dict:
        found = {}
        base = evaluate_ranks(first, first)["unfiltered"]
        for metric in GAIN_METRICS:
            gain = paired_bootstrap(first, second, metric, samples=samples, seed=seed)
            gain["relative"] = gain["mean"] / base[metric] if base[metric] > 0 else None
            found[metric] = gain
        return found

    return of(before.unfiltered, after.unfiltered) | {
        "filtered": of(before.filtered, after.filtered)
    }


def save_ranks(path, ranks: dict[str, Ranks], user_labels: np.ndarray) -> None:
    """ranks.npz: `MODEL/PROTOCOL` -> int32 [users], and the users' original ids."""
    arrays = {
        f"{name}/{protocol}": getattr(one, protocol)
        for name, one in ranks.items()
        for protocol in Ranks._fields
    }
    building = path.with_name(f".{path.name}.building")
    with open(building, "wb") as file:
        np.savez_compressed(file, user_labels=user_labels, **arrays)
    building.rename(path)
