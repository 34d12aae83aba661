"""A study as pictures: points with intervals against the reference, or a curve; entropy by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raserec_jax.report.plot_style import GRID, INK, style_axes
from raserec_jax.report.tables import PROTOCOLS

_INTERVALS = "95% interval of the difference to {}, user by user"
_REFERENCE, _OTHER, _WORSE, _BETTER = "#8a919c", "#0072b2", "#d55e00", "#009e73"


def draw_study(summary: Mapping[str, Any]) -> Figure:
    """The study's metric on the test, a panel per protocol."""
    if summary["axis"]:
        return _draw_curve(summary)
    variants = summary["variants"]
    figure = Figure(figsize=(10, 1.3 + 0.42 * len(variants)), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(PROTOCOLS), sharey=True)
    for axis, protocol in zip(axes, PROTOCOLS, strict=True):
        _draw_points(axis, variants, protocol, summary["metric"])
        axis.set_title(f"test {summary['metric']}, {protocol}", fontsize=10)
    axes[0].set_yticks(range(len(variants)), [one["label"] for one in variants])
    axes[0].invert_yaxis()
    named = any(one["against"] for one in variants)
    words = _INTERVALS.format("the first, or to what the table names" if named else "the first")
    figure.suptitle(f"{words}; orange below it, green above", fontsize=8.5, color=INK)
    return figure


def _draw_points(
    axis: Axes, variants: Sequence[Mapping[str, Any]], protocol: str, metric: str
) -> None:
    style_axes(axis)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=GRID)
    before = variants[0]["test"][protocol][metric]["mean"]
    axis.axvline(before, color=INK, linewidth=0.8, linestyle=":")
    for place, one in enumerate(variants):
        mean, color = one["test"][protocol][metric]["mean"], _REFERENCE
        if one["change"] is not None:
            change = one["change"][protocol][metric]
            color = _WORSE if change["high"] < 0 else _BETTER if change["low"] > 0 else _OTHER
            low, high = (mean - change["mean"] + change[end] for end in ("low", "high"))
            axis.plot([low, high], [place, place], color=color, linewidth=2.2, alpha=0.6)
        axis.plot([mean], [place], "o", color=color, markersize=7)
        axis.annotate(
            f"{mean:.4f}".removeprefix("0"),
            (mean, place),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
        )
    axis.set_ylim(-0.7, len(variants) - 0.5)
    axis.margins(x=0.08)


def _draw_curve(summary: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 3.8), dpi=150, layout="constrained")
    variants = sorted(summary["variants"], key=lambda one: one["value"])
    for axis, protocol in zip(figure.subplots(1, len(PROTOCOLS)), PROTOCOLS, strict=True):
        style_axes(axis)
        x = [one["value"] for one in variants]
        found = [one["test"][protocol][summary["metric"]] for one in variants]
        y = [one["mean"] for one in found]
        changes = [one["change"] and one["change"][protocol][summary["metric"]] for one in variants]
        for at, mean, change in zip(x, y, changes, strict=True):
            if change is not None:
                ends = [mean - change["mean"] + change[end] for end in ("low", "high")]
                axis.plot([at, at], ends, color=_OTHER, linewidth=2.2, alpha=0.6)
        axis.plot(x, y, "o-", color=_OTHER, markersize=4)
        reference = summary["variants"][0]
        axis.plot(
            [reference["value"]],
            [reference["test"][protocol][summary["metric"]]["mean"]],
            "o",
            color=INK,
            markersize=6,
            label=reference["label"],
        )
        if x[0] > 0 and x[-1] / x[0] >= 20:
            axis.set_xscale("log")
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
        axis.set_xlabel(summary["axis"])
        axis.set_title(f"test {summary['metric']}, {protocol}", fontsize=10)
        axis.margins(y=0.2)
        axis.legend(frameon=False, fontsize=8.5)
    figure.suptitle(_INTERVALS.format(reference["label"]), fontsize=8.5, color=INK)
    return figure


def draw_entropy(summary: Mapping[str, Any]) -> Figure | None:
    """Entropy of the synthesizer's weights by epoch, 1 = uniform; None where no variant has a synthesizer."""
    curves = [(one["label"], one["curves"].get("attention_entropy")) for one in summary["variants"]]
    curves = [(label, values) for label, values in curves if values]
    if not curves:
        return None
    figure = Figure(figsize=(7.5, 3.6), dpi=150, layout="constrained")
    axis = figure.subplots()
    style_axes(axis)
    for label, values in curves:
        axis.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=label)
    axis.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.set_ylabel("entropy of the weights, share of uniform")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_new_items(summary: Mapping[str, Any]) -> Figure:
    """NDCG@20 over the share of new items that are back: all targets, known ones, new ones."""
    figure = Figure(figsize=(11, 3.8), dpi=150, layout="constrained")
    levels = summary["levels"]
    x = [level["share"] for level in levels]
    panels = ("all", "known", "new")
    for axis, kind in zip(figure.subplots(1, len(panels)), panels, strict=True):
        style_axes(axis)
        for method, color in (("bare", _REFERENCE), ("semantic", _OTHER)):
            y = [_of_kind(level, method, kind) for level in levels]
            axis.plot(x, y, "o-", color=color, markersize=4, label=method)
        axis.set_xticks(x, [f"{value:.0%}" for value in x])
        axis.set_xlabel("share of the new items that are back")
        axis.set_title(f"{kind} targets, test NDCG@20, unfiltered", fontsize=9.5)
        axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
    axis.legend(frameon=False, fontsize=8.5)
    return figure


def _of_kind(level: Mapping[str, Any], method: str, kind: str) -> float:
    found, queries = level["metrics"][method]["unfiltered"], level["queries"]
    kinds = [kind] if kind != "all" else list(found)
    total = sum(queries[one] for one in kinds if one in found)
    mass = sum(queries[one] * found[one]["NDCG@20"] for one in kinds if one in found)
    return mass / total if total else float("nan")
