"""results.json, timings.json and samples.json, from what the stages wrote down."""

import os
import platform
import time
from typing import Any

import jax
import numpy as np

from raserec_jax.baselines import baseline_metrics
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split
from raserec_jax.evaluation.histories import seen_items
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.top_items import top_items
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.platform import installed_version
from raserec_jax.recommend.scoring import merged_attention, read_memories
from raserec_jax.training.reading import make_reader
from raserec_jax.training.remembering import Memory
from raserec_jax.training.testing import Ranks, TrainedParts, gains, test_groups, test_metrics
from raserec_jax.training.workdir import plain

_LIBRARIES = (
    "raserec_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scann",
)
_TIMES = ("seconds", "steps_per_second", "encode_s", "search_s", "build_s", "queries_per_s")


def assemble_results(
    config,
    split: Split,
    records: dict[str, dict | None],
    ranks: dict[str, Ranks],
    details: dict[str, dict] | None = None,
) -> tuple[dict, dict]:
    """(results, timings): what is the same for the same seed, and what is not.

    Args:
      records: what each stage wrote down.
      ranks, details: of `test_models`; without details neither coverage, attention nor the shuffled histories are told.
    """
    log, metrics = split.log, test_metrics(ranks)
    stages: dict[str, Any] = {}
    for name in ("pretrain", "finetune", "control"):
        if records.get(name):
            stages[name] = _without_times(records[name]) | {"test": metrics[name]}
    if records.get("memory"):
        stages["memory"] = _without_times(records["memory"])
        top_k = config.memory.top_k
        recall = stages["memory"].pop("recall", None)
        if recall is not None:
            stages["memory"][f"recall_vs_exact@{top_k}"] = recall["recall"]
    for name, record in _without_times(records.get("mixing") or {}).items():
        stages[name] = record | {"test": metrics[name]}
    for name in ("finetune", "mixing", "combined"):
        if f"{name}_train_bank" in metrics:
            stages[name]["test_train_bank"] = metrics[f"{name}_train_bank"]
    settings = {"samples": config.evaluation.bootstrap_samples, "seed": config.seed}
    before = "control" if "control" in ranks else "pretrain"
    if "finetune" in ranks:
        stages["gain"] = gains(ranks[before], ranks["finetune"], **settings) | {"against": before}
    for name in ("mixing", "combined"):
        if name in ranks:
            stages[name]["gain"] = gains(ranks[before], ranks[name], **settings)
    for name, more in (details or {}).items():
        stages[name] |= more
    began = time.perf_counter()
    baselines, baseline_ranks = baseline_metrics(split)
    seconds = time.perf_counter() - began
    results = {
        "protocol": {
            "dataset": log.name,
            "fingerprint": log.fingerprint(),
            "split": split.name,
            "max_len": config.encoder.max_len,
            "long_history": config.pretrain.batching.long_history,
            "num_users": log.num_users,
            "num_items": log.num_items,
            "num_interactions": log.num_interactions,
            **({"split_counts": split.notes} if split.notes else {}),
        },
        "seed": config.seed,
        "config": plain(config),
        "versions": _versions(),
        "devices": _devices(),
        "stages": stages,
        "baselines": baselines,
        "groups": test_groups(config, split, ranks | baseline_ranks),
    }
    timings = {
        name: {key: value for key, value in _flat(record).items() if key.split(".")[-1] in _TIMES}
        for name, record in records.items()
        if record
    }
    return results, timings | {"baselines": {"seconds": seconds}}


def show_samples(
    config, split: Split, text: ItemText | None, memory: Memory, parts: TrainedParts, count: int
) -> list[dict]:
    """A few test users: their history, what is recommended, and the memories behind it, with titles if known.

    Returns:
      [{"user", "history": [title, ...], "target": title, "recommendations": [{"title", "score"}, ...], "memories":
      [{"history": [title, ...], "then": title, "cosine", "weight", "attention": {channel: weight}}, ...]}, ...]; the
      memories by rank, all that the reader reads.
    """
    if parts.reader_params is None or count < 1:
        return []
    encoder_params, memory = parts.behind_reader(memory)
    log, part, bank = split.log, memory.test, memory.full_bank
    users = len(part.evaluation.user_ids)
    rows = np.sort(np.random.default_rng(config.seed).permutation(users)[:count])
    table, top_k = encoder_params["item_table"], config.memory.top_k
    found, cosines = (np.asarray(x[rows, :top_k]) for x in part.retrieved[:2])
    reader, kept = make_reader(config), np.maximum(found, 0)
    query, attention, _ = read_memories(
        reader,
        parts.reader_params,
        part.query[rows],
        bank.keys[kept],
        bank.target_ids[kept],
        found >= 0,
        table,
    )
    attention = {name: np.asarray(one) for name, one in attention.items()}
    weights = merged_attention(reader, parts.reader_params, attention, found >= 0)
    scored = Scores(query)
    bias = repeat_bias(encoder_params)
    if bias is not None:
        asked = part.evaluation
        seen = seen_items(
            log.offsets, log.item_ids, asked.end_positions[rows], asked.user_ids[rows]
        )
        scored = scored._replace(repeat_ids=seen, repeat_bias=bias)
    ids, scores = top_items(scored, table, 5, None)

    def title(item_id: int | np.integer) -> str:
        label = log.item_labels[item_id]
        return (text.title_of(label) if text is not None else None) or str(label)

    def titles(user: int, end: int, most: int = 6) -> list[str]:
        return [title(i) for i in log.items_of(user)[max(end - most, 0) : end]]

    samples = []
    for i, row in enumerate(rows):
        user, end = int(part.evaluation.user_ids[row]), int(part.evaluation.end_positions[row])
        samples.append(
            {
                "user": str(log.user_labels[user]),
                "history": titles(user, end),
                "target": title(part.evaluation.target_ids[row]),
                "recommendations": [
                    {"title": title(int(item)), "score": float(score)}
                    for item, score in zip(ids[i], scores[i], strict=True)
                ],
                "memories": [
                    {
                        "history": titles(int(bank.user_ids[entry]), int(bank.lengths[entry]), 4),
                        "then": title(bank.target_ids[entry]),
                        "cosine": float(cosines[i, k]),
                        "weight": float(weights[i, k]),
                        "attention": {name: float(one[i, k]) for name, one in attention.items()},
                    }
                    for k, entry in enumerate(found[i].tolist())
                    if entry >= 0
                ],
            }
        )
    return samples


def _without_times(record: dict) -> dict:
    return {
        key: _without_times(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in _TIMES
    }


def _flat(record: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _versions() -> dict[str, str]:
    installed = {name: installed_version(name) for name in _LIBRARIES}
    known = {name: version for name, version in installed.items() if version is not None}
    return {"python": platform.python_version(), **known}


def _devices() -> str:
    kind = jax.devices()[0].device_kind
    cores = f", {os.cpu_count()} cores" if jax.default_backend() == "cpu" else ""
    return f"{jax.device_count()} x {kind}{cores}"
