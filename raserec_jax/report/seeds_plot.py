"""Several seeds as a picture: bars of the mean with the standard deviation, a dot per seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from raserec_jax.report.plot_style import INK, STAGE_COLORS, style_axes
from raserec_jax.report.tables import PROTOCOLS

_METRICS = ("HR@10", "NDCG@10")


def draw_seeds(summary: Mapping[str, Any]) -> Figure | None:
    """A panel per metric and protocol; of a stage the row with the largest bank. None without stages."""
    rows = {row["stage"]: row for row in summary["rows"] if row["stage"] in STAGE_COLORS}
    if not rows:
        return None
    figure = Figure(figsize=(10, 3.9), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(_METRICS) * len(PROTOCOLS))
    panels = [(metric, protocol) for metric in _METRICS for protocol in PROTOCOLS]
    for axis, (metric, protocol) in zip(axes, panels, strict=True):
        style_axes(axis)
        for place, (stage, row) in enumerate(rows.items()):
            found = row[protocol].get(metric)
            if found is None:
                continue
            label = row["label"].partition(",")[0]
            axis.bar(place, found["mean"], 0.82, color=STAGE_COLORS[stage], label=label)
            axis.errorbar(place, found["mean"], yerr=found["std"] or 0.0, color=INK, capsize=4)
            values = found["values"]
            x = place + np.linspace(-0.2, 0.2, len(values)) * (len(values) > 1)
            axis.plot(x, values, "o", color=INK, markersize=3.5, mfc="white", mew=0.9)
            axis.annotate(
                f"{found['mean']:.4f}".removeprefix("0"),
                (place, max(*values, found["mean"] + (found["std"] or 0.0))),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=INK,
            )
        axis.margins(y=0.12)
        axis.set_xticks([])
        axis.set_title(f"{metric}, {protocol}", fontsize=10)
    for pair in (axes[:2], axes[2:]):
        top = max(axis.get_ylim()[1] for axis in pair)
        for axis in pair:
            axis.set_ylim(0, top)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure
