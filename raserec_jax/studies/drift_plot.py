"""Drift as a picture: each model over the time since training, and what it adds to the frozen encoder."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from raserec_jax.report.plot_style import INK, style_axes

_SHOWN = ("unfiltered", "NDCG@10")
COLORS = {
    "encoder": "#8a919c",
    "frozen memory": "#e69f00",
    "fresh memory": "#56b4e9",
    "live memory": "#0072b2",
    "retrained": "#009e73",
    "retrained reader": "#cc79a7",
}


def draw_drift(summary: Mapping[str, Any]) -> Figure:
    """NDCG@10 by window, and its difference to the frozen encoder with a 95% interval over users."""
    figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
    values, changes = figure.subplots(1, 2)
    width = 0.12
    for place, model in enumerate(summary["models"]):
        rows = shown_rows(summary, "window", model)
        x = range(len(rows))
        style = {"color": COLORS.get(model, INK), "label": model}
        values.plot(x, [row["mean"] for row in rows], "o-", markersize=4, **style)
        if model == "encoder":
            continue
        shifted = [at + (place - len(summary["models"]) / 2) * width for at in x]
        for at, row in zip(shifted, rows, strict=True):
            ends = [row["change"]["low"], row["change"]["high"]]
            changes.plot([at, at], ends, color=style["color"], linewidth=2, alpha=0.6)
        changes.plot(shifted, [row["change"]["mean"] for row in rows], "o", markersize=4, **style)
    labels = [f"{one['days']:.0f}\n({one['queries']:,})" for one in summary["windows"]]
    for axis in (values, changes):
        style_axes(axis)
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlabel("days since the cut, middle of the window (queries)")
    changes.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
    values.set_ylim(0, 1.1 * values.get_ylim()[1])
    protocol, metric = _SHOWN
    values.set_title(f"{metric}, {protocol}", fontsize=10)
    changes.set_title("minus the frozen encoder, 95% interval over users", fontsize=10)
    every_model = values.get_legend_handles_labels()
    changes.legend(
        *every_model, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    return figure


def shown_rows(summary: Mapping[str, Any], kind: str, model: str) -> list[Mapping[str, Any]]:
    """Rows of one kind of group and one model, of the metric that is shown."""
    return [
        row
        for row in summary["rows"]
        if (row["kind"], row["model"], row["protocol"], row["metric"]) == (kind, model, *_SHOWN)
    ]
