"""Pictures of a run, drawn without a display: losses, validation, stages side by side, groups of users, attention."""

import io
import os
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raserec_jax.metric_writer import read_metrics
from raserec_jax.report.attention_plots import draw_attention, draw_sample_attention
from raserec_jax.report.group_plots import draw_groups
from raserec_jax.report.plot_style import GRID, INK, STAGE_COLORS, style_axes
from raserec_jax.report.results import write_bytes_atomic
from raserec_jax.report.tables import PROTOCOLS, STAGE_LABELS, Gain, Row, gain_list, table_rows

PLOTS_FOLDER = "plots"
_BAR_METRICS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
_VALIDATION_KEY = re.compile(r"(?:.*/)?(?:HR|NDCG|MRR)@[0-9]+")
_PREFERRED = ("NDCG@10", "HR@10", "MRR@10")
_SMOOTHED_FROM = 60  # points; fewer are drawn as they are


def write_plots(
    workdir: str | os.PathLike,
    results: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]] = (),
) -> list[pathlib.Path]:
    """Draws what metrics.jsonl, the results and the samples allow into workdir/plots; returns the files.

    Raises:
      CheckpointError: metrics.jsonl is damaged.
    """
    records = read_metrics(workdir)
    figures = {
        "comparison.png": draw_comparison(results),
        "groups.png": draw_groups(results),
        "attention.png": draw_attention(results),
        "attention_samples.png": draw_sample_attention(samples),
        "validation.png": draw_validation(records),
        "loss.png": draw_losses(records),
    }
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(pathlib.Path(workdir) / PLOTS_FOLDER / name)
            write_bytes_atomic(paths[-1], png_of(figure))
    return paths


def draw_losses(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """One panel per stage: the loss, and its parts where they were logged; None without losses."""
    by_stage = {stage: _curves(records, stage, _is_loss, "step") for stage in _stages(records)}
    by_stage = {stage: curves for stage, curves in by_stage.items() if curves}
    if not by_stage:
        return None
    figure, axes = _panels(len(by_stage), height=3.4)
    for axis, (stage, curves) in zip(axes, by_stage.items(), strict=True):
        color = STAGE_COLORS.get(stage, INK)
        for rank, (name, (steps, losses)) in enumerate(sorted(curves.items(), key=_main_first)):
            style = ("-", "--", ":", "-.")[rank % 4]  # the sum is drawn through, its parts are not
            _draw_smoothed(
                axis, steps, losses, color=color, label=name.removeprefix("train/"), linestyle=style
            )
        axis.set_title(STAGE_LABELS.get(stage, stage))
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8.5, frameon=False)
    axes[0].set_ylabel("loss")
    return figure


def draw_validation(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Validation metric by epoch: stage 1 left, what follows it right; None without validations."""
    stages = [stage for stage in _stages(records) if _validation(records, stage)]
    groups = [[s for s in stages if s == "pretrain"], [s for s in stages if s != "pretrain"]]
    groups = [group for group in groups if group]
    if not groups:
        return None
    figure, axes = _panels(len(groups), height=3.8)
    for axis, group in zip(axes, groups, strict=True):
        for stage in group:
            _draw_stage_validation(axis, records, stage)
        axis.set_title(" and ".join(STAGE_LABELS.get(stage, stage) for stage in group))
        axis.set_xlabel(_x_name(records, group[0]))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
    return figure


def draw_comparison(results: Mapping[str, Any]) -> Figure | None:
    """Test metrics of all stages side by side, and what memory added; None without test metrics."""
    rows = {row.stage: row for row in table_rows(results, "test") if row.stage != "baseline"}
    if not rows:
        return None
    gains = [gain for gain in gain_list(results) if gain.stage == "finetune"]
    widths = (5, 5, 3.2) if gains else (1, 1)
    figure, axes = _panels(len(widths), height=4.0, widths=widths)
    for axis, protocol in zip(axes, PROTOCOLS, strict=False):
        _draw_bars(axis, list(rows.values()), protocol)
    top = max(axis.get_ylim()[1] for axis in axes[:2])
    for axis in axes[:2]:
        axis.set_ylim(0, top)
    if gains:
        _draw_gain(axes[2], gains[0])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _draw_bars(axis: Axes, rows: list[Row], protocol: str) -> None:
    width = 0.84 / len(rows)
    for place, row in enumerate(rows):
        values = [row.value(protocol, metric) or 0.0 for metric in _BAR_METRICS]
        x = np.arange(len(values)) + (place - (len(rows) - 1) / 2) * width
        style = {"color": STAGE_COLORS[row.stage], "label": STAGE_LABELS[row.stage]}
        bars = axis.bar(x, values, 0.92 * width, **style)
        labels = [f"{value:.4f}".lstrip("0") for value in values]
        axis.bar_label(bars, labels, rotation=90, padding=3, fontsize=7.5, color=INK)
    axis.margins(y=0.22)
    axis.set_xticks(range(len(_BAR_METRICS)), _BAR_METRICS)
    axis.set_title(f"Test, {protocol}")


def _draw_gain(axis: Axes, gain: Gain) -> None:
    """Intervals of RaSeRec minus what it is held against, a line per metric and protocol."""
    metrics = list(dict.fromkeys(name for part in gain.metrics.values() for name in part))
    metrics = [name for name in _BAR_METRICS if name in metrics] or metrics
    color = STAGE_COLORS["finetune"]
    for shift, (protocol, part) in zip((-0.12, 0.12), gain.metrics.items(), strict=False):
        shown = [(place, part[name]) for place, name in enumerate(metrics) if name in part]
        means, lows, highs = ([found[key] for _, found in shown] for key in ("mean", "low", "high"))
        axis.errorbar(
            means,
            [place + shift for place, _ in shown],
            xerr=[np.subtract(means, lows), np.subtract(highs, means)],
            fmt="o",
            color=color,
            mfc=color if protocol == "unfiltered" else "white",
            capsize=3,
            label=protocol,
        )
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(metrics)), metrics)
    axis.set_ylim(len(metrics) - 0.5, -0.5)
    axis.grid(axis="x", color=GRID)
    axis.grid(visible=False, axis="y")
    axis.locator_params(axis="x", nbins=4)
    against = STAGE_LABELS.get(gain.against, gain.against).lower()
    axis.set_title(f"RaSeRec minus {against}\n(95% interval)", fontsize=10)
    if len(gain.metrics) > 1:
        axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.06), ncols=2, frameon=False)


def _draw_stage_validation(axis: Axes, records: Sequence[Mapping[str, Any]], stage: str) -> None:
    for name, (x, values) in sorted(_validation(records, stage).items()):
        style = "--" if _is_filtered(name) else "-"
        color = STAGE_COLORS.get(stage, INK)
        protocol = "filtered" if _is_filtered(name) else "unfiltered"
        label = f"{STAGE_LABELS.get(stage, stage)}, {protocol}"
        axis.set_ylabel(f"validation {name.rpartition('/')[2]}")
        marker = "o" if len(x) < 40 else ""
        axis.plot(x, values, style, color=color, label=label, marker=marker, markersize=3)
        best = int(np.argmax(values))
        axis.plot(x[best], values[best], "o", color=color, markersize=7, mfc="white", mew=1.6)


def _validation(records: Sequence[Mapping[str, Any]], stage: str) -> dict[str, tuple]:
    """Curves of the preferred metric among those logged, by key: one or both protocols."""
    curves = _curves(records, stage, _VALIDATION_KEY.fullmatch, _x_name(records, stage))
    for metric in (*_PREFERRED, *sorted({name.rpartition("/")[2] for name in curves})):
        chosen = {name: curve for name, curve in curves.items() if name.endswith(metric)}
        if chosen:
            return chosen
    return {}


def _is_filtered(name: str) -> bool:
    return "filtered" in name.split("/")


def _is_loss(name: str) -> bool:
    last = name.rpartition("/")[2]
    return not name.startswith("valid") and (last.endswith("loss") or last.startswith("info_nce"))


def _main_first(curve: tuple[str, Any]) -> tuple[bool, str]:
    return curve[0].rpartition("/")[2] != "loss", curve[0]


def _stages(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """In the order of first appearance."""
    return list(dict.fromkeys(record["stage"] for record in records if "stage" in record))


def _x_name(records: Sequence[Mapping[str, Any]], stage: str) -> str:
    epochs = [r.get("epoch") for r in records if r.get("stage") == stage and _has_validation(r)]
    return "epoch" if epochs and None not in epochs else "step"


def _has_validation(record: Mapping[str, Any]) -> bool:
    return any(_VALIDATION_KEY.fullmatch(name) for name in record)


def _curves(records, stage, wanted, x_name) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (x, values), by x; of lines for the same x the last wins: a resumed run repeats."""
    points: dict[str, dict[float, float]] = {}
    for record in records:
        if record.get("stage") != stage:
            continue
        for name, value in record.items():
            if wanted(name) and isinstance(value, (int, float)):
                points.setdefault(name, {})[record[x_name]] = value
    return {
        name: (np.array(sorted(curve)), np.array([curve[x] for x in sorted(curve)]))
        for name, curve in points.items()
    }


def _draw_smoothed(axis: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """The points, faint, under their running mean, where there are many."""
    if len(y) >= _SMOOTHED_FROM:
        axis.plot(x, y, alpha=0.25, linewidth=0.8, color=style["color"])
        window = max(3, len(y) // 30)
        y = np.convolve(y, np.full(window, 1 / window), mode="valid")
        x = x[(window - 1) // 2 :][: len(y)]
    axis.plot(x, y, linewidth=1.6, marker="o" if len(y) < 20 else "", markersize=3, **style)


def _panels(count: int, *, height: float, widths: Sequence[int | float] = ()):
    """A figure with `count` panels in a row, and the panels."""
    figure = Figure(figsize=(10 if count > 1 else 6, height), dpi=150, layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, width_ratios=widths or None)[0]
    for axis in axes:
        style_axes(axis)
    return figure, axes


def png_of(figure: Figure) -> bytes:
    """The picture as a file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box
        # No version in the file: the same run gives the same picture.
        figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
