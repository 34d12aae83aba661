"""Which memories harm? Every entry is judged by what it did for the targets of training, and the worst are given up.

The reader stays as it is. Entries are given up by four other rules too, as many each time: at random (the mean of
DRAWS draws, user by user), the oldest, those that an unpopular item followed, and, as a check of the judgement, the
most useful ones.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from raserec_jax.batching.windows import Examples, prefix_windows
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.storage import PathLike
from raserec_jax.encoding import example_encoder
from raserec_jax.errors import CheckpointError
from raserec_jax.evaluation.metrics import bootstrap_mean, metric_values
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.report.plot_style import INK, style_axes
from raserec_jax.report.tables import number
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import load_retrieved
from raserec_jax.studies.analysis_page import Table, change_words, flat, write_analysis
from raserec_jax.studies.trained_run import TrainedRun, trained_run
from raserec_jax.training.finetune_objective import MemoryConstants
from raserec_jax.training.memory_effects import memory_effects, usefulness
from raserec_jax.training.testing import Ranks, training_popularity

METRICS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
KEPT = (0.75, 0.5, 0.25)
DRAWS = 5
"""Random choices of what is given up, whose mean is compared."""
CHECKED = 512
"""Queries on which the linear estimate is compared with the exact one."""

_QUESTION = (
    "Which memories harm? Entries are judged by what they did for the targets of training (log probability with the "
    "entry minus without) and the worst are given up; the reader stays. The bank is that of training."
)
_COLORS = {
    "harmful first": "#0072b2",
    "random": "#8a919c",
    "oldest first": "#e69f00",
    "unpopular first": "#009e73",
    "useful first": "#d55e00",
}


def run_memory_usefulness(
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int = 0,
    run: PathLike | None = None,
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
) -> dict[str, Any]:
    """Trains a run or reads a finished one, judges its memory, thins it; writes memory_usefulness.* into the workdir.

    Args:
      as `trained_run`; `config.evaluation.bootstrap_samples` serves the intervals.

    Returns:
      {"entries", "read": entries that a training query read, "harmful", "useful": shares of those, "check": correlation
      of linear and exact effects on CHECKED queries, "rows": [{"rule", "kept": share, "entries", "protocol", "metric",
      "mean", "change": minus the whole memory, "against_random": minus as many at random; {"mean", "low", "high"} or
      None}], "protocol", "devices"}.

    Raises:
      as `trained_run`.
    """
    trained = trained_run(config, workdir, seed=seed, run=run, log=log, item_text=item_text)
    bank, constants = trained.memory.train_bank, training_constants(trained)
    reader, max_len = trained.opened.reader, trained.opened.encoder.max_len
    some = _some(constants, CHECKED, seed)
    linear, exact = (
        np.asarray(memory_effects(reader, trained.reader_params, some, max_len=max_len, exact=way))
        for way in (False, True)
    )
    real = np.asarray(some.retrieved_ids) >= 0
    effects = np.asarray(memory_effects(reader, trained.reader_params, constants, max_len=max_len))
    total, count = usefulness(effects, np.asarray(constants.retrieved_ids), bank.rows)
    read = count > 0
    popularity = training_popularity(trained.split)
    samples = {"samples": config.evaluation.bootstrap_samples, "seed": seed}
    summary = {
        "entries": bank.rows,
        "read": int(read.sum()),
        "harmful": float((total[read] < 0).mean()),
        "useful": float((total[read] > 0).mean()),
        "check": float(np.corrcoef(linear[real], exact[real])[0, 1]),
        "rows": _rows(trained, orders(bank, total, popularity, seed), **samples),
        "protocol": trained.protocol,
        "devices": trained.devices,
    }
    _write(Path(workdir), summary)
    return summary


def training_constants(trained: TrainedRun) -> MemoryConstants:
    """What stage 2 of a finished run read, with the neighbours that it saved.

    Raises:
      CheckpointError: they are missing, or of other examples.
    """
    opened, split, bank = trained.opened, trained.split, trained.memory.train_bank
    encode, examples = example_encoder(
        opened.encoder, split, long_history=opened.config.pretrain.batching.long_history
    )
    path = opened.folder / opened.memory_folder / "neighbours_train.npz"
    found = load_retrieved(path, bank_fingerprint=bank.fingerprint)
    if len(found.ids) != len(examples.lengths):
        raise CheckpointError(
            f"{path}: neighbours of {len(found.ids)} training histories, expected {len(examples.lengths)}; "
            "remove it and run launch/train.py with this --workdir again"
        )
    params = opened.encoder_params
    windows = None
    if repeat_bias(params) is not None:
        windows = _windows(split.log.item_ids, examples, opened.encoder.max_len)
    return MemoryConstants(
        {name: params[name] for name in ("item_table", "repeat_bias") if name in params},
        windows,
        encode(params),
        jnp.asarray(examples.target_ids),
        jnp.asarray(bank.keys),
        jnp.asarray(bank.target_ids),
        found.ids[:, : opened.config.memory.top_k],
    )


def orders(
    bank: MemoryBank, total: np.ndarray, popularity: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Rule -> rows of the bank, first the one that is given up first.

    Args:
      total: [bank] usefulness of each entry.
      popularity: [V + 1] training interactions of each item.
    """
    shuffled = np.random.default_rng([seed, 17]).permutation(bank.rows)

    def by(values: np.ndarray) -> np.ndarray:
        """Increasing; equal ones in random order."""
        return shuffled[np.argsort(values[shuffled], kind="stable")]

    found = {"harmful first": by(total), "random": shuffled}
    if bank.times is not None:
        found["oldest first"] = by(bank.times)
    return found | {"unpopular first": by(popularity[bank.target_ids]), "useful first": by(-total)}


def _some(constants: MemoryConstants, most: int, seed: int) -> MemoryConstants:
    """The same for a few examples."""
    count = constants.queries.shape[0]
    rows = np.sort(np.random.default_rng([seed, 19]).permutation(count)[:most])
    windows = constants.windows
    if windows is not None:
        windows = (windows[0], *(one[rows] for one in windows[1:]))
    return constants._replace(
        windows=windows,
        queries=constants.queries[rows],
        target_ids=constants.target_ids[rows],
        retrieved_ids=constants.retrieved_ids[rows],
    )


def _windows(item_ids: np.ndarray, examples: Examples, max_len: int) -> tuple:
    own = prefix_windows(examples, max_len)
    return tuple(map(jnp.asarray, (item_ids, own.starts, own.lengths)))


def _rows(
    trained: TrainedRun, rules: dict[str, np.ndarray], *, samples: int, seed: int
) -> list[dict[str, Any]]:
    part, bank = trained.memory.test_train_bank, trained.memory.train_bank
    whole = trained.ranks_with(part, bank)
    settings = {"samples": samples, "seed": seed}
    draws = [
        np.random.default_rng([seed, 17, draw]).permutation(bank.rows) for draw in range(1, DRAWS)
    ]
    found: dict[tuple[str, float], list[Ranks]] = {}
    for kept in KEPT:
        for rule, order in rules.items():
            found[rule, kept] = []
            for one in (order, *(draws if rule == "random" else ())):
                rows = np.sort(one[bank.rows - max(1, round(kept * bank.rows)) :])
                smaller = bank.select(rows)
                searched = trained.searched(part, smaller)
                found[rule, kept].append(trained.ranks_with(searched, smaller))
            value = mean_values(found[rule, kept], "unfiltered", "NDCG@10").mean()
            print(f"{kept:.0%} kept, {rule}: NDCG@10 {value:.4f}", flush=True)
    rows = []

    def add(rule: str, kept: float, ranks: list[Ranks], entries: int) -> None:
        is_whole = rule == "whole memory"
        for protocol in Ranks._fields:
            for metric in METRICS:
                values, before, random = (
                    None if some is None else mean_values(some, protocol, metric)
                    for some in (ranks, [whole], found.get(("random", kept)))
                )
                change = None if is_whole else bootstrap_mean(values - before, **settings)
                against = None
                if not is_whole and rule != "random":
                    against = bootstrap_mean(values - random, **settings)
                rows.append(
                    {"rule": rule, "kept": kept, "entries": entries, "protocol": protocol}
                    | {"metric": metric, "mean": float(values.mean())}
                    | {"change": change, "against_random": against}
                )

    add("whole memory", 1.0, [whole], bank.rows)
    for (rule, kept), ranks in found.items():
        add(rule, kept, ranks, max(1, round(kept * bank.rows)))
    return rows


def mean_values(ranks: list[Ranks], protocol: str, metric: str) -> np.ndarray:
    """[users] a metric's mean over several draws."""
    return np.mean([metric_values(getattr(one, protocol), metric) for one in ranks], axis=0)


def _write(workdir: Path, summary: dict[str, Any]) -> None:
    told = (
        f"{_QUESTION} {summary['read']:,} of {summary['entries']:,} entries were read by a training query, "
        f"{summary['harmful']:.1%} of those harmed and {summary['useful']:.1%} helped; linear and exact effects of one "
        f"memory correlate by {summary['check']:.3f}. Random is the mean of {DRAWS} draws; intervals are over users. "
        f"{summary['protocol'].get('dataset', '')}; {summary['devices']}."
    )
    lines = [flat(row) for row in summary["rows"]]
    write_analysis(
        workdir,
        "memory_usefulness",
        "Which memories harm",
        told,
        summary=summary,
        lines=lines,
        tables=[_table(summary["rows"], protocol) for protocol in Ranks._fields],
        figure=draw_usefulness(summary),
        caption="What is left of the quality when a part of the memory is given up",
    )


def _table(rows: list[dict[str, Any]], protocol: str) -> Table:
    by_case: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["protocol"] == protocol:
            by_case.setdefault((row["rule"], row["kept"]), {})[row["metric"]] = row
    cells = [
        [rule, f"{kept:.0%}"]
        + [number(found[metric]["mean"]) for metric in METRICS]
        + [change_words(found["NDCG@10"][name]) for name in ("change", "against_random")]
        for (rule, kept), found in by_case.items()
    ]
    heads = ("given up", "kept", *METRICS, "NDCG@10 against all (95%)", "against random (95%)")
    return Table(f"Test, {protocol}", heads, cells)


def draw_usefulness(summary: dict[str, Any]) -> Figure:
    """NDCG@10 over the share that is kept, a line per rule, a panel per protocol; intervals of the change."""
    figure = Figure(figsize=(10, 3.9), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(Ranks._fields))
    for axis, protocol in zip(axes, Ranks._fields, strict=True):
        style_axes(axis)
        rows = [
            row
            for row in summary["rows"]
            if (row["protocol"], row["metric"]) == (protocol, "NDCG@10")
        ]
        whole = rows[0]["mean"]
        axis.axhline(whole, color=INK, linewidth=0.8, linestyle=":", label="whole memory")
        for place, (rule, color) in enumerate(_COLORS.items()):
            found = [row for row in rows if row["rule"] == rule]
            x = [row["kept"] - 0.012 * (place - 2) for row in found]
            for at, row in zip(x, found, strict=True):
                ends = [whole + row["change"][end] for end in ("low", "high")]
                axis.plot([at, at], ends, color=color, linewidth=2, alpha=0.5)
            if found:
                y = [whole, *(row["mean"] for row in found)]
                axis.plot([1.0, *x], y, "o-", color=color, markersize=4, linewidth=1, label=rule)
        axis.invert_xaxis()
        axis.set_xticks([1.0, *KEPT], [f"{kept:.0%}" for kept in (1.0, *KEPT)])
        axis.set_xlabel("entries that are kept")
        axis.set_title(f"test NDCG@10, {protocol}; 95% of the change", fontsize=10)
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
