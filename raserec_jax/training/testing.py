"""The test, once: ranks of every test target under each model, their metrics, and what memory added.

Stage 1, its control (the same encoder trained on without memory), the memory reader with the bank of the training
prefixes and with the validation pairs added, nearest-neighbour mixing, and both together.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from raserec_jax.data.splits import Split
from raserec_jax.encoding import encode_rows, evaluation_set
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.metrics import paired_bootstrap
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.training.finetuning import augmented_query, make_reader
from raserec_jax.training.mixing import Mixture, mixed_scores
from raserec_jax.training.pretraining import query_ranks
from raserec_jax.training.remembering import Memory

GAIN_METRICS = ("NDCG@10", "HR@10", "MRR@10", "NDCG@5", "HR@5", "NDCG@20", "HR@20")


class Ranks(NamedTuple):
    """0-based ranks of one model's test targets, one per test user; int32."""

    unfiltered: np.ndarray
    filtered: np.ndarray


class TrainedParts(NamedTuple):
    """What the stages left; None where a stage was not run.

    encoder_params, control_params, reader_params: best parameters.
    mixture: chosen for the encoder.  reader_mixture: chosen for the reader.
    """

    encoder_params: dict
    control_params: dict | None
    reader_params: dict | None
    mixture: Mixture | None
    reader_mixture: Mixture | None


def test_ranks(
    config, encoder: SequenceEncoder, split: Split, memory: Memory | None, parts: TrainedParts
) -> dict[str, Ranks]:
    """Ranks by model: pretrain, control, finetune, finetune_train_bank, mixing, mixing_train_bank, combined."""
    queries = evaluation_set(split, "test", max_len=encoder.max_len)
    table = parts.encoder_params["item_table"]

    def rank(scores: Scores, params: dict = parts.encoder_params) -> Ranks:
        return Ranks(*query_ranks(scores, params, split, queries))

    def encoded(params: dict):
        return encode_rows(encoder, params, jnp.asarray(split.log.item_ids), queries.rows)

    query = encoded(parts.encoder_params)
    ranks = {"pretrain": rank(Scores(query))}
    if parts.control_params is not None:
        control = parts.control_params
        ranks["control"] = rank(Scores(encoded(control)), control)
    if memory is None:
        return ranks
    banks = {
        "": (memory.test, memory.full_bank),
        "_train_bank": (memory.test_train_bank, memory.train_bank),
    }
    for suffix, (part, bank) in banks.items():
        augmented = None
        if parts.reader_params is not None:
            augmented = augmented_query(
                make_reader(config), parts.reader_params, part, bank, table, config.memory.top_k
            )
            ranks[f"finetune{suffix}"] = rank(Scores(augmented))
        for name, base, mixture in (
            ("mixing", query, parts.mixture),
            ("combined", augmented, parts.reader_mixture),
        ):
            if mixture is not None and base is not None:
                ranks[name + suffix] = rank(mixed_scores(base, part.retrieved, bank, mixture))
    return ranks


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
