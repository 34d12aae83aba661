"""What does memory cost? Time and bytes per recommendation with and without it, by size of the bank and by K.

Beside the cost stands the quality of that very memory, so that it can be told what a millisecond buys. Entries are left
out at random; the reader stays as it was trained.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from ml_collections import ConfigDict

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.storage import PathLike
from raserec_jax.evaluation.metrics import bootstrap_mean, metric_values
from raserec_jax.recommend.histories import UNKNOWN_USER
from raserec_jax.recommend.loading import Method
from raserec_jax.recommend.model import Model
from raserec_jax.recommend.scoring import LARGEST_BATCH
from raserec_jax.report.plot_style import INK, style_axes
from raserec_jax.report.tables import number
from raserec_jax.retrieval.memory_bank import COLUMNS, MemoryBank
from raserec_jax.studies.analysis_page import Table, change_words, flat, write_analysis
from raserec_jax.studies.trained_run import TrainedRun, trained_run

SHARES = (0.1, 0.25, 0.5, 1.0)
TOP_K = (5, 20, 50)
METRIC = "NDCG@10"
_REPEATS = {LARGEST_BATCH: 7, 1: 25}
_QUESTION = (
    "What does memory cost, and what does it give? Median time of encoding, search, reading and the ten best items, on "
    "the host's clock; bytes of the model's parameters and of the memory's columns; quality on the test with the "
    "memory of training, unfiltered, against the encoder alone."
)


def run_memory_cost(
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int = 0,
    run: PathLike | None = None,
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
) -> dict[str, Any]:
    """Trains a run or reads a finished one and measures it; writes memory_cost.* into the workdir.

    Args:
      as `trained_run`; `config.evaluation.bootstrap_samples` serves the intervals.

    Returns:
      {"model_bytes", "rows": [{"entries": 0 = no memory, "top_k", "bytes": of the memory, "batch_ms": per
      recommendation in a batch of LARGEST_BATCH, "single_ms": alone, "mean": of METRIC, "change": minus no memory}],
      "protocol", "devices"}.

    Raises:
      as `trained_run`.
    """
    trained = trained_run(config, workdir, seed=seed, run=run, log=log, item_text=item_text)
    part, bank = trained.memory.test_train_bank, trained.memory.train_bank
    settings = {"samples": config.evaluation.bootstrap_samples, "seed": seed}
    plain = metric_values(trained.ranks_without(part).unfiltered, METRIC)
    rows = [
        {"entries": 0, "top_k": 0, "bytes": 0}
        | _milliseconds(trained, None, 0)
        | {"mean": float(plain.mean()), "change": None}
    ]
    order = np.random.default_rng([seed, 23]).permutation(bank.rows)
    for share in SHARES:
        smaller = bank.select(np.sort(order[: max(1, round(share * bank.rows))]))
        found = trained.searched(part, smaller, max(TOP_K))
        for top_k in TOP_K:
            if top_k > smaller.rows:
                continue
            ranks = trained.ranks_with(found, smaller, top_k)
            values = metric_values(ranks.unfiltered, METRIC)
            rows.append(
                {"entries": smaller.rows, "top_k": top_k, "bytes": bank_bytes(smaller)}
                | _milliseconds(trained, smaller, top_k)
                | {"mean": float(values.mean())}
                | {"change": bootstrap_mean(values - plain, **settings)}
            )
            print(_words(rows[-1]), flush=True)
    params = (trained.opened.encoder_params, trained.reader_params)
    summary = {
        "model_bytes": sum(int(leaf.nbytes) for leaf in jax.tree.leaves(params)),
        "rows": rows,
        "protocol": trained.protocol,
        "devices": trained.devices,
    }
    _write(Path(workdir), summary)
    return summary


def bank_bytes(bank: MemoryBank) -> int:
    """Of all columns."""
    columns = (getattr(bank, name) for name in COLUMNS)
    return sum(column.nbytes for column in columns if column is not None)


def _milliseconds(trained: TrainedRun, bank: MemoryBank | None, top_k: int) -> dict[str, float]:
    """Median time per recommendation, of the very code that recommends: a full batch, and one history alone."""
    opened, part = trained.opened, trained.memory.test
    config = ConfigDict(opened.config.to_dict())
    config.memory.top_k = max(top_k, 1)
    method = Method("pretrain", None, None)
    if bank is not None:
        method = Method("finetune", trained.reader_params, None)
    model = Model(opened._replace(config=config), method, bank)
    ends, users = part.evaluation.end_positions, part.evaluation.user_ids
    time_rank = None
    if config.memory.eligibility == "before":
        time_rank = np.iinfo(np.int32).max
    allowed = np.arange(opened.log.num_items + 1) > 0
    found = {}
    for name, batch in (("batch_ms", LARGEST_BATCH), ("single_ms", 1)):
        histories = [
            opened.log.items_of(int(user))[:end]
            for user, end in zip(users[:batch], ends[:batch], strict=True)
        ]
        asking = np.full(len(histories), UNKNOWN_USER, np.int32)

        def recommend(histories=histories, asking=asking):
            scored = model.score(histories, asking, time_rank, model.memory)
            return model.best(
                scored, min(10, opened.log.num_items), exclude_seen=True, allowed=allowed
            )

        recommend()  # compiles
        times = []
        for _ in range(_REPEATS[batch]):
            began = time.perf_counter()
            recommend()
            times.append(time.perf_counter() - began)
        found[name] = 1000.0 * float(np.median(times)) / len(histories)
    return found


def _words(row: dict[str, Any]) -> str:
    return (
        f"{row['entries']:,} entries, K {row['top_k']}: {row['batch_ms']:.3f} ms in a batch, "
        f"{row['single_ms']:.2f} ms alone, {METRIC} {row['mean']:.4f}"
    )


def _write(workdir: Path, summary: dict[str, Any]) -> None:
    cells = [
        [
            f"{row['entries']:,}" if row["entries"] else "no memory",
            str(row["top_k"] or "–"),
            f"{row['bytes'] / 2**20:.1f}",
            f"{row['batch_ms']:.3f}",
            f"{row['single_ms']:.2f}",
            number(row["mean"]),
            change_words(row["change"]),
        ]
        for row in summary["rows"]
    ]
    heads = ("entries", "K", "memory, MiB", f"ms in a batch of {LARGEST_BATCH}", "ms alone", METRIC)
    told = (
        f"{_QUESTION} The model has {summary['model_bytes'] / 2**20:.1f} MiB. "
        f"{summary['protocol'].get('dataset', '')}; {summary['devices']}."
    )
    write_analysis(
        workdir,
        "memory_cost",
        "What memory costs",
        told,
        summary=summary,
        lines=[flat(row) for row in summary["rows"]],
        tables=[Table("Cost and gain", (*heads, "against no memory (95%)"), cells)],
        figure=draw_cost(summary),
        caption="Time per recommendation, and quality, by size of the memory",
    )


def draw_cost(summary: dict[str, Any]) -> Figure:
    """Time in a batch, time alone and quality over the entries, a line per K."""
    figure = Figure(figsize=(13, 3.8), dpi=150, layout="constrained")
    panels = (
        ("batch_ms", f"ms per recommendation, batch of {LARGEST_BATCH}"),
        ("single_ms", "ms per recommendation, alone"),
        ("mean", f"test {METRIC}, unfiltered; 95% of the change"),
    )
    plain, rows = summary["rows"][0], summary["rows"][1:]
    colors = dict(zip(TOP_K, ("#56b4e9", "#0072b2", "#009e73"), strict=True))
    for axis, (name, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        style_axes(axis)
        axis.axhline(plain[name], color=INK, linewidth=0.8, linestyle=":", label="no memory")
        for top_k, color in colors.items():
            found = [row for row in rows if row["top_k"] == top_k]
            x = [row["entries"] for row in found]
            y = [row[name] for row in found]
            axis.plot(x, y, "o-", color=color, markersize=4, label=f"K = {top_k}")
            for row in found if name == "mean" else ():
                ends = [plain[name] + row["change"][end] for end in ("low", "high")]
                shifted = row["entries"] + 0.012 * (TOP_K.index(top_k) - 1) * rows[-1]["entries"]
                axis.plot([shifted, shifted], ends, color=color, linewidth=2, alpha=0.4)
        if name != "mean":
            axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_xlabel("entries of the memory")
        axis.set_title(title, fontsize=9.5)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
