"""Groups of test users as a picture: popularity of the target left, length of the history right."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raserec_jax.report.plot_style import INK, STAGE_COLORS, style_axes
from raserec_jax.report.tables import HEADLINE_METRIC, PROTOCOLS, STAGE_LABELS

_STAGES = ("pretrain", "control", "finetune")
_PANELS = {
    "popularity": "training interactions of the target (groups of equal mass)",
    "length": "items of the history",
}


def draw_groups(results: Mapping[str, Any]) -> Figure | None:
    """The headline metric of stage 1, control and RaSeRec by group, a row per protocol; None without groups."""
    groups = results.get("groups") or {}
    parts = {name: [one for one in groups.get(name) or [] if one.get("models")] for name in _PANELS}
    parts = {name: found for name, found in parts.items() if found}
    if not parts:
        return None
    figure = Figure(figsize=(10, 6.4), dpi=150, layout="constrained")
    widths = [max(len(found), 3) for found in parts.values()]
    axes = figure.subplots(
        len(PROTOCOLS), len(parts), squeeze=False, sharex="col", width_ratios=widths
    )
    for row, protocol in zip(axes, PROTOCOLS, strict=True):
        for axis, (name, found) in zip(row, parts.items(), strict=True):
            style_axes(axis)
            _draw_bars(axis, found, protocol)
            axis.tick_params(labelbottom=True)
            if protocol == PROTOCOLS[-1]:
                axis.set_xlabel(_PANELS[name])
        row[0].set_ylabel(f"test {HEADLINE_METRIC}, {protocol}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _draw_bars(axis: Axes, groups: Sequence[Mapping[str, Any]], protocol: str) -> None:
    stages = [stage for stage in _STAGES if any(stage in one["models"] for one in groups)]
    width = 0.84 / max(len(stages), 1)
    for place, stage in enumerate(stages):
        found = [(one["models"].get(stage) or {}).get(protocol) or {} for one in groups]
        values = [one.get(HEADLINE_METRIC) or 0.0 for one in found]
        x = np.arange(len(values)) + (place - (len(stages) - 1) / 2) * width
        style = {"color": STAGE_COLORS[stage], "label": STAGE_LABELS[stage]}
        bars = axis.bar(x, values, 0.92 * width, **style)
        labels = [f"{value:.4f}".removeprefix("0") for value in values]
        axis.bar_label(bars, labels, rotation=90, padding=3, fontsize=7.5, color=INK)
    axis.margins(y=0.24)
    names = [f"{one['label']}\n{one['queries']:,} users" for one in groups]
    axis.set_xticks(range(len(names)), names)
