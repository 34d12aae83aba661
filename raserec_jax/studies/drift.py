"""Drift: how a model ages after its training ends, and what a memory that is kept fresh gives back.

Training ends at an instant. The time after it is cut into windows of equally many interactions; in each, every user's
first interaction is asked of

    encoder          stage 1 alone, frozen
    frozen memory    the reader of memories, with the memory as it was at that instant
    fresh memory     the same, with all that happened before the window
    live memory      the same, with all that happened before the very moment that is asked
    retrained        stage 1 trained anew on what happened before the window
    retrained reader and its reader with its memory of that time

Parameters of the first four never change. Of the interactions before an instant the newest choose the best epoch of its
training and are in the memory, but no parameter is fitted to them. Every search runs under `before` and is audited: a
query never sees what came at or after the moment that it asks about.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split, split_log
from raserec_jax.data.storage import PathLike
from raserec_jax.data.time_windows import TimeWindow, window_split, windows_after
from raserec_jax.encoding import EvaluationSet, encode_rows, evaluation_set
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.evaluation.groups import length_groups, popularity_groups
from raserec_jax.evaluation.metrics import bootstrap_mean, metric_values
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.recommend.loading import Workdir, open_workdir
from raserec_jax.report.results import write_bytes_atomic, write_json_atomic
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.subsets import Subset
from raserec_jax.training.memory_search import search_bank
from raserec_jax.training.pipeline import read_data, train
from raserec_jax.training.pretraining import query_ranks
from raserec_jax.training.reading import augmented_query
from raserec_jax.training.remembering import Part, as_queries, encode_examples
from raserec_jax.training.testing import Ranks, training_popularity

METRICS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
SHOWN = "NDCG@10"
STAGES = ("semantic", "pretrain", "memory", "finetune", "evaluate", "report")
VALIDATION = 0.07
"""Share of all interactions, the newest before the end of training, that choose the best epoch."""


class Asked(NamedTuple):
    """One window: its queries, and 0-based ranks of their targets by model."""

    window: TimeWindow
    queries: EvaluationSet
    ranks: Mapping[str, Ranks]


def run_drift(
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int = 0,
    cut: float = 0.7,
    windows: int = 5,
    retrain: bool = True,
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
) -> dict[str, Any]:
    """Trains up to an instant, walks forward, and compares.

    Args:
      config: of the training; its split and eligibility are replaced by instants and `before`.
      workdir: gets drift.json, .csv, .md, plots/drift.png and report.html; runs lie in "frozen" and "retrained_N".
      seed: of every training.
      cut: share of the interactions, in time, that lies before the end of training; in (.1, 1). The last VALIDATION of
        them choose the best epoch.
      windows: after it.
      retrain: also train anew before every window but the first.
      log, item_text: as `train`; the log needs times.

    Returns:
      {"seed", "cut", "windows": [{"since", "until", "days", "queries"}], "models", "rows": [...] as `drift_rows`,
      "protocol", "devices", "violations": 0}.

    Raises:
      ConfigError: a cut or a number of windows out of range, an encoder that is not frozen, or a part of the memory.
      DataError: a log without times, or a window in which nobody is asked; else as `train`.
    """
    if not 0.1 < cut < 1.0:
        raise ConfigError(f"cut={cut} must be in (0.1, 1)")
    workdir = Path(workdir)
    if log is None:
        log, item_text = read_data(config)
    if log.timestamps is None:
        raise DataError(
            f"{log.name} has no times; --study=drift needs a log with a timestamp column"
        )
    if config.finetune.train_encoder:
        raise ConfigError(
            "--study=drift needs a frozen encoder; set --config.finetune.train_encoder=false"
        )
    for field, value in Subset()._asdict().items():
        if config.memory[field] != value:
            raise ConfigError(
                f"--study=drift keeps all pairs of each age; leave --config.memory.{field} at {value}"
            )
    config = _by_time(config, log, seed, cut)
    split = split_log(log, config.data)
    spans = windows_after(log, config.data.split_times[1], windows)
    for place, span in enumerate(spans):
        if not (window_split(split, span).test_position > 0).any():
            raise DataError(
                f"{log.name}: in window {place + 1} of {len(spans)} nobody with a history is asked; take fewer than "
                f"--windows={windows}"
            )
    trained = train(config, log, workdir / "frozen", item_text=item_text, stages=STAGES)
    first = open_workdir(workdir / "frozen")
    keys = _all_pairs(first, log)
    asked = []
    for place, span in enumerate(spans):
        print(f"\n=== window {place + 1} of {len(spans)}, {span.days:.0f} days after", flush=True)
        own = window_split(split, span)
        ranks = _frozen_models(first, own, keys, until=spans[0].since, since=span.since)
        if retrain:
            again = first, keys
            if place:
                folder = workdir / f"retrained_{place}"
                share = float(np.mean(log.timestamps < span.since))
                train(
                    _by_time(config, log, seed, share),
                    log,
                    folder,
                    item_text=item_text,
                    stages=STAGES,
                )
                run = open_workdir(folder)
                again = run, _all_pairs(run, log)
            ranks |= _retrained_models(*again, own, since=span.since)
        queries = evaluation_set(own, "test", max_len=first.encoder.max_len)
        asked.append(Asked(span, queries, ranks))
        print(_line(asked[-1]), flush=True)
    summary = {
        "seed": seed,
        "cut": cut,
        "windows": [one.window._asdict() | {"queries": len(one.queries.user_ids)} for one in asked],
        "models": list(asked[-1].ranks),
        "rows": drift_rows(asked, training_popularity(split), config),
        "protocol": trained.results["protocol"],
        "devices": trained.results["devices"],
        "violations": 0,  # `search_bank` ends the run at the first
    }
    _write(workdir, summary)
    return summary


def _by_time(config: ConfigDict, log: InteractionLog, seed: int, share: float) -> ConfigDict:
    """The configuration for a training that ends when a share of the interactions has happened."""
    one = config.copy_and_resolve_references()
    one.seed = seed
    times = np.quantile(log.timestamps, (share - VALIDATION, share), method="higher")
    if not times[0] < times[1]:
        raise DataError(
            f"{log.name} has one instant from share {share - VALIDATION:.2f} to {share:.2f} of its interactions, "
            "so nothing validates; take another cut"
        )
    one.data.update(split="global_time", split_times=tuple(map(float, times)))
    one.memory.eligibility = "before"
    one.finetune.control = False
    return one


class _Pairs(NamedTuple):
    """Every (history, next item) pair of a log as one encoder sees it; places: of the targets in the log."""

    bank: MemoryBank
    times: np.ndarray


def _all_pairs(run: Workdir, log: InteractionLog) -> _Pairs:
    everything = split_log(log, run.config.data)._replace(train_end=log.lengths.astype(np.int32))
    keys, examples = encode_examples(run.config, run.encoder, run.encoder_params, everything)
    bank = MemoryBank(
        np.asarray(keys),
        examples.target_ids,
        examples.user_ids,
        examples.lengths,
        log.time_ranks[examples.target_places],
    )
    return _Pairs(bank, log.timestamps[examples.target_places])


def _frozen_models(
    run: Workdir, split: Split, pairs: _Pairs, *, until: float, since: float
) -> dict[str, Ranks]:
    """Ranks by the encoder, and by its reader with memories of three ages."""
    memories = {
        "frozen memory": pairs.times < until,
        "fresh memory": pairs.times < since,
        "live memory": np.ones(len(pairs.times), bool),
    }
    return _ranks(run, split, pairs.bank, "encoder", memories)


def _retrained_models(
    run: Workdir, pairs: _Pairs, split: Split, *, since: float
) -> dict[str, Ranks]:
    memories = {"retrained reader": pairs.times < since}
    return _ranks(run, split, pairs.bank, "retrained", memories)


def _ranks(
    run: Workdir, split: Split, bank: MemoryBank, bare: str, memories: Mapping[str, np.ndarray]
) -> dict[str, Ranks]:
    """Ranks of the encoder alone, under the name `bare`, and with each memory, which is rows of the bank."""
    config, params = run.config, run.encoder_params
    queries = evaluation_set(split, "test", max_len=run.encoder.max_len)
    vectors = encode_rows(run.encoder, params, jnp.asarray(split.log.item_ids), queries.rows)
    found = {bare: Ranks(*query_ranks(Scores(vectors), params, split, queries))}
    reader_params, _ = run.best_reader()
    for name, rows in memories.items():
        # The same memory is searched once: ScaNN has no seed, and two of its indices differ a little.
        same = [one for one in found if one in memories and np.array_equal(memories[one], rows)]
        if same:
            found[name] = found[same[0]]
            continue
        memory = bank.select(rows)
        retrieved = search_bank(
            config.memory, memory, as_queries(vectors, queries), config.memory.top_k
        )
        part = Part(queries, vectors, retrieved)
        augmented = augmented_query(
            run.reader, reader_params, part, memory, params["item_table"], config.memory.top_k
        )
        found[name] = Ranks(*query_ranks(Scores(augmented), params, split, queries))
    return found


def drift_rows(
    asked: list[Asked], popularity: np.ndarray, config: ConfigDict
) -> list[dict[str, Any]]:
    """One row per kind of group, group, model, protocol and metric.

    Args:
      asked: the windows.
      popularity: [V + 1] training interactions of each item.
      config: its seed and bootstrap_samples serve the intervals.

    Returns:
      [{"kind": "window", "all", "popularity" or "length", "group", "days": of a window, "queries", "model", "protocol",
      "metric", "mean", "low", "high", "change": minus the encoder alone, {"mean", "low", "high"}, None for itself}];
      groups by popularity and length are over all windows, in which a user is asked more than once: intervals are over
      users.
    """
    samples = {"samples": config.evaluation.bootstrap_samples, "seed": config.seed}
    together = {
        model: Ranks(
            *(
                np.concatenate(parts)
                for parts in zip(*(one.ranks[model] for one in asked), strict=True)
            )
        )
        for model in asked[0].ranks
    }
    targets = np.concatenate([one.queries.target_ids for one in asked])
    lengths = np.concatenate([one.queries.end_positions for one in asked])
    users = np.concatenate([one.queries.user_ids for one in asked])
    bounds = np.cumsum([0, *(len(one.queries.user_ids) for one in asked)])
    groups = [
        ("window", f"{place + 1}", one.window.days, np.arange(*bounds[place : place + 2]))
        for place, one in enumerate(asked)
    ]
    groups += [("all", "all", None, np.arange(bounds[-1]))]
    for kind, members in (
        ("popularity", popularity_groups(popularity, targets)),
        ("length", length_groups(lengths)),
    ):
        groups += [(kind, group.label, None, group.rows) for group in members if len(group.rows)]
    rows = []
    for kind, label, days, members in groups:
        settings = samples | {"users": users[members]}
        for model, ranks in together.items():
            for protocol in Ranks._fields:
                for metric in METRICS:
                    values = metric_values(getattr(ranks, protocol)[members], metric)
                    before = metric_values(getattr(together["encoder"], protocol)[members], metric)
                    rows.append(
                        {"kind": kind, "group": label, "days": days, "queries": len(members)}
                        | {"model": model, "protocol": protocol, "metric": metric}
                        | bootstrap_mean(values, **settings)
                        | {
                            "change": None
                            if model == "encoder"
                            else bootstrap_mean(values - before, **settings)
                        }
                    )
    return rows


def _line(asked: Asked) -> str:
    values = [
        f"{model} {metric_values(ranks.unfiltered, SHOWN).mean():.4f}"
        for model, ranks in asked.ranks.items()
    ]
    return f"{len(asked.queries.user_ids):,} queries, {SHOWN} unfiltered: {', '.join(values)}"


def _write(workdir: Path, summary: Mapping[str, Any]) -> None:
    from raserec_jax.report.plots import png_of  # matplotlib: slow to import
    from raserec_jax.studies.drift_page import drift_csv, drift_markdown, drift_page
    from raserec_jax.studies.drift_plot import draw_drift

    write_json_atomic(workdir / "drift.json", summary)
    write_bytes_atomic(workdir / "drift.csv", drift_csv(summary).encode())
    write_bytes_atomic(workdir / "drift.md", drift_markdown(summary).encode())
    write_bytes_atomic(workdir / "plots" / "drift.png", png_of(draw_drift(summary)))
    write_bytes_atomic(workdir / "report.html", drift_page(workdir, summary).encode())
