"""Nearest-neighbour mixing, the trained reader, and both together: whom does which help, how much of it is freshness?

Nothing is computed but groups and intervals: the ranks of finished runs hold it all. Freshness is what a model gains
when the pairs between training and test (leave-one-out: the validation items) are in the memory too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from raserec_jax.baselines.queries import part_queries
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split, split_log
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.evaluation.groups import length_groups, popularity_groups
from raserec_jax.evaluation.metrics import bootstrap_mean, metric_values
from raserec_jax.recommend.loading import open_workdir
from raserec_jax.report.plot_style import INK, STAGE_COLORS, style_axes
from raserec_jax.report.results import read_json
from raserec_jax.report.tables import PROTOCOLS, STAGE_LABELS, number
from raserec_jax.studies.analysis_page import Table, change_words, flat, write_analysis
from raserec_jax.training.comparing import read_ranks
from raserec_jax.training.pipeline import read_data, train
from raserec_jax.training.testing import training_popularity

MODELS = ("mixing", "finetune", "combined")
METRICS = ("HR@10", "NDCG@10")
_HEADS = {"all": "All test queries", "popularity": "By popularity", "length": "By length"}
_QUESTION = (
    "Nearest-neighbour mixing, the trained reader, and both together: whom does which help? Changes are against the "
    "encoder trained on as long without memory (or stage 1, if that was left out), freshness is what the pairs between "
    "training and test add to the memory; 95% intervals over users."
)


def run_mixing_groups(
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int = 0,
    runs: Sequence[PathLike] = (),
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
) -> dict[str, Any]:
    """Trains under both splits (in WORKDIR/leave_one_out and WORKDIR/global_time), or reads finished runs.

    Args:
      config, log, item_text: as `train`; without times there is only the first split.
      workdir: gets mixing_groups.*.
      runs: finished workdirs to be read in place of a training; nothing there is changed.

    Returns:
      {"rows": [{"run": its split, "kind": "all", "popularity" or "length", "group", "queries", "model", "protocol",
      "metric", "mean", "change": minus the control, "fresh": minus the same with the memory of training alone}] with
      {"mean", "low", "high"} or None, "weights": {split: {"mixing", "combined"}} of the neighbours, chosen on
      validation, "protocol": of the first run, "devices"}.

    Raises:
      CheckpointError: a run is damaged, or has no test of a reader and a mixture.
      ConfigError: two runs of one split, or of different data sets; else as `train`.
    """
    if not runs:
        if log is None:
            log, item_text = read_data(config)
        runs = []
        for name in ("leave_one_out", "global_time")[: 1 if log.timestamps is None else 2]:
            print(f"\n=== {name}", flush=True)
            one = config.copy_and_resolve_references()
            one.seed, one.data.split = seed, name
            if name == "global_time":
                one.memory.eligibility = "before"
            runs.append(Path(workdir) / name)
            train(one, log, runs[-1], item_text=item_text)
    rows, told, weights = [], [], {}
    for run in map(Path, runs):
        opened, results = open_workdir(run), read_json(run / "results.json")
        ranks, _ = read_ranks(run)
        missing = [model for model in MODELS if f"{model}/unfiltered" not in ranks]
        if missing:
            raise CheckpointError(
                f"{run}: its test has no {', '.join(missing)}; run launch/train.py with this --workdir to its end"
            )
        split = split_log(opened.log, opened.config.data)
        dataset = results["protocol"].get("dataset")
        if split.name in weights or (told and dataset != told[0]["protocol"].get("dataset")):
            raise ConfigError(
                f"{run}: is of {dataset} under {split.name}, and the runs before it of "
                f"{told[0]['protocol'].get('dataset')} under {', '.join(weights)}; --study=mixing_groups compares the "
                "splits of one data set, so give --runs one run of each split"
            )
        settings = {"samples": config.evaluation.bootstrap_samples, "seed": seed}
        rows += group_rows(split, ranks, **settings)
        weights[split.name] = {
            model: results["stages"][model]["weight"] for model in ("mixing", "combined")
        }
        told.append(results)
    summary = {
        "rows": rows,
        "weights": weights,
        "protocol": told[0]["protocol"],
        "devices": told[0]["devices"],
    }
    _write(Path(workdir), summary)
    return summary


def group_rows(
    split: Split, ranks: Mapping[str, np.ndarray], *, samples: int, seed: int
) -> list[dict[str, Any]]:
    """The rows of one run.

    Args:
      ranks: MODEL/PROTOCOL -> 0-based rank of each test query, as in ranks.npz.
    """
    queries = part_queries(split, "test")
    groups = [("all", "all", np.arange(len(queries.user_ids)))]
    for kind, members in (
        ("popularity", popularity_groups(training_popularity(split), queries.target_ids)),
        ("length", length_groups(queries.end_positions)),
    ):
        groups += [(kind, group.label, group.rows) for group in members if len(group.rows)]
    before = "control" if "control/unfiltered" in ranks else "pretrain"
    rows = []
    for kind, label, members in groups:
        for model in (before, *MODELS):
            for protocol in PROTOCOLS:
                for metric in METRICS:

                    def values(name: str, metric=metric, protocol=protocol, members=members):
                        found = ranks.get(f"{name}/{protocol}")
                        return None if found is None else metric_values(found[members], metric)

                    own, stale = values(model), values(f"{model}_train_bank")
                    change, fresh = (
                        None
                        if other is None
                        else bootstrap_mean(own - other, samples=samples, seed=seed)
                        for other in (None if model == before else values(before), stale)
                    )
                    rows.append(
                        {"run": split.name, "kind": kind, "group": label, "queries": len(members)}
                        | {"model": model, "protocol": protocol, "metric": metric}
                        | {"mean": float(own.mean()), "change": change, "fresh": fresh}
                    )
    return rows


def _write(workdir: Path, summary: dict[str, Any]) -> None:
    rows = summary["rows"]
    weights = ", ".join(
        f"{run} {found['mixing']:g} and, with the reader, {found['combined']:g}"
        for run, found in summary["weights"].items()
    )
    tables = [
        _table(rows, run, kind, protocol)
        for run in dict.fromkeys(row["run"] for row in rows)
        for kind in _HEADS
        for protocol in PROTOCOLS
    ]
    write_analysis(
        workdir,
        "mixing_groups",
        "Mixing and reader, by group",
        f"{_QUESTION} Weight of the neighbours, chosen on validation: {weights}. "
        f"{summary['protocol'].get('dataset', '')}; {summary['devices']}.",
        summary=summary,
        lines=[flat(row) for row in rows],
        tables=tables,
        figure=draw_groups(rows),
        caption="Change of NDCG@10, unfiltered, against the encoder without memory",
    )


def _table(rows: list[dict[str, Any]], run: str, kind: str, protocol: str) -> Table:
    cells = [
        [
            row["group"],
            f"{row['queries']:,}",
            STAGE_LABELS.get(row["model"], row["model"]),
            number(row["mean"]),
            change_words(row["change"]),
            change_words(row["fresh"]),
        ]
        for row in rows
        if (row["run"], row["kind"], row["protocol"], row["metric"])
        == (run, kind, protocol, "NDCG@10")
    ]
    heads = ("group", "queries", "model", "NDCG@10", "change", "of it freshness")
    return Table(f"{_HEADS[kind]}, {run}, {protocol}", heads, cells)


def draw_groups(rows: list[dict[str, Any]]) -> Figure:
    """Changes against the encoder without memory, with intervals: a line of panels per split, a panel per kind."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure = Figure(figsize=(13, 3.6 * len(runs)), dpi=150, layout="constrained")
    panels = figure.subplots(len(runs), len(_HEADS), squeeze=False, width_ratios=(0.45, 1, 1))
    for line, run in zip(panels, runs, strict=True):
        for axis, (kind, head) in zip(line, _HEADS.items(), strict=True):
            style_axes(axis)
            axis.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
            labels: list[str] = []
            for place, model in enumerate(MODELS):
                found = [
                    row
                    for row in rows
                    if (row["run"], row["kind"], row["model"], row["protocol"], row["metric"])
                    == (run, kind, model, "unfiltered", "NDCG@10")
                ]
                labels = [f"{row['group']}\n({row['queries']:,})" for row in found]
                color = STAGE_COLORS[model]
                for at, row in enumerate(found):
                    x, change = at + 0.2 * (place - 1), row["change"]
                    axis.plot(
                        [x, x],
                        [change["low"], change["high"]],
                        color=color,
                        linewidth=2.2,
                        alpha=0.6,
                    )
                    name = STAGE_LABELS.get(model, model) if at == 0 else None
                    axis.plot([x], [change["mean"]], "o", color=color, markersize=5, label=name)
            axis.set_xticks(range(len(labels)), labels)
            axis.set_xlim(-0.5, len(labels) - 0.5)
            axis.tick_params(axis="x", labelsize=8)
            axis.set_title(f"{head}, {run}", fontsize=9.5)
        line[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
