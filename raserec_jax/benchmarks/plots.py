"""The table as a picture: how much longer other ways take, and what bounds ours; and the curves with their slopes."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from raserec_jax.benchmarks.contest import ENOUGH_OF_PRODUCTS, Line
from raserec_jax.benchmarks.curves import curve_lines, slopes
from raserec_jax.report.plot_style import GRID, INK, style_axes

_OURS, _OTHER = "#0072b2", "#8a919c"
_ABOVE = {
    "loc": "lower center",
    "bbox_to_anchor": (0.5, 0.99),
    "ncols": 2,
    "frameon": False,
    "fontsize": 8,
}
"""Of a legend: between title and curves, on none of them."""
_SHARES = (
    ("product_share", "products", "#0072b2"),
    ("recomputed", "recomputed", "#56b4e9"),
    ("exps_share", "exponentials", "#e69f00"),
    ("bytes_share", "memory", "#009e73"),
)


def draw_rows(lines: Sequence[Line]) -> Figure | None:
    """Two panels over the same lines; None where nothing was timed."""
    rows = [line for line in lines if not line.curve and line.rate]
    if not rows:
        return None
    figure = Figure(figsize=(13, 1.4 + 0.3 * len(rows)), dpi=130, layout="constrained")
    ratios, shares = figure.subplots(1, 2, sharey=True)
    _draw_ratios(ratios, rows)
    _draw_shares(shares, rows)
    labels = [f"{line.row}: {line.what}" for line in rows]
    ratios.set_yticks(range(len(rows)), labels, fontsize=8)
    for tick, line in zip(ratios.get_yticklabels(), rows, strict=True):
        tick.set_color(_OURS if line.ratio == 1.0 else INK)
    ratios.set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _draw_ratios(axis: Axes, rows: Sequence[Line]) -> None:
    _across(axis)
    values = [line.ratio or 1.0 for line in rows]
    colors = [_OURS if value == 1.0 else _OTHER for value in values]
    axis.barh(range(len(rows)), [value - 1e-3 for value in values], left=1e-3, color=colors)
    axis.set_xscale("log")
    low, high = min(0.3, *(0.7 * value for value in values)), max(3.0, *values)
    axis.set_xlim(low, 4 * high)
    axis.axvline(1.0, color=INK, linewidth=0.8, linestyle=":")
    for place, line in enumerate(rows):
        words = f" {line.ratio:.2g}x" if line.ratio != 1.0 else " 1"
        rate = f"{line.rate:,.0f}" if line.rate >= 100 else f"{line.rate:.3g}"
        axis.text(
            values[place],
            place,
            f"{words}  ({rate} {line.unit}/s)",
            va="center",
            fontsize=7.5,
            color=INK,
        )
    axis.set_title("time for a unit, by that of the first of the row (blue)", fontsize=9.5)


def _draw_shares(axis: Axes, rows: Sequence[Line]) -> None:
    _across(axis)
    height = 0.8 / len(_SHARES)
    for at, (name, label, color) in enumerate(_SHARES):
        places, values = [], []
        for place, line in enumerate(rows):
            if line.product_share is None:
                continue
            value = (
                line.with_recomputed - line.product_share
                if name == "recomputed"
                else getattr(line, name)
            )
            places.append(place - 0.4 + (at + 0.5) * height)
            values.append(100 * value)
        axis.barh(places, values, height=height, color=color, label=label)
    axis.axvline(100 * ENOUGH_OF_PRODUCTS, color=INK, linewidth=0.8, linestyle=":")
    axis.set_xlim(0, 115)
    axis.set_title("share of what the device was measured to give, %", fontsize=9.5)
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _across(axis: Axes) -> None:
    style_axes(axis)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=GRID)


def draw_curves(lines: Sequence[Line]) -> Figure | None:
    """A panel per curve, time for a unit and memory, both logarithmic; None without curves."""
    curves = curve_lines(lines)
    if not curves:
        return None
    columns = min(3, len(curves))
    deep = -(-len(curves) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * deep), dpi=130, layout="constrained")
    axes = figure.subplots(deep, columns, squeeze=False).ravel()
    for axis, (name, points) in zip(axes, curves.items(), strict=False):
        _draw_curve(axis, name, points)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    return figure


def _draw_curve(axis: Axes, name: str, points: Sequence[Line]) -> None:
    style_axes(axis)
    found = slopes(points)
    timed = [one for one in points if one.rate]
    sized = [one for one in points if one.temp_bytes]
    axis.set_xscale("log")
    if timed:
        axis.set_yscale("log")
        label = "time" if found["seconds"] is None else f"time, slope {found['seconds']:.2f}"
        axis.plot(
            [one.x for one in timed],
            [1e6 / one.rate for one in timed],
            "o-",
            color=_OURS,
            label=label,
        )
        axis.set_ylabel(f"µs for one of the {timed[0].unit}", fontsize=8.5)
    if sized:
        memory = axis.twinx() if timed else axis
        if timed:
            memory.spines[["top", "left"]].set_visible(False)
            memory.tick_params(colors=INK, labelsize=9)
        memory.set_yscale("log")
        slope = found["temp_bytes"]
        label = "memory" if slope is None else f"memory, slope {slope:.2f}"
        memory.plot(
            [one.x for one in sized],
            [one.temp_bytes / 2**20 for one in sized],
            "s--",
            color="#d55e00",
            markersize=4,
            label=label,
        )
        memory.set_ylabel("MiB beside arguments and results", fontsize=8.5)
        handles, labels = axis.get_legend_handles_labels()
        if timed:
            more = memory.get_legend_handles_labels()
            handles, labels = handles + more[0], labels + more[1]
        memory.legend(handles, labels, **_ABOVE)
        _room(memory, [one.temp_bytes / 2**20 for one in sized])
    elif timed:
        axis.legend(**_ABOVE)
    if timed:
        _room(axis, [1e6 / one.rate for one in timed])
    axis.set_xticks([one.x for one in points], [f"{one.x:g}".replace("e+0", "e") for one in points])
    axis.minorticks_off()
    axis.set_title(name, fontsize=9.5, pad=20)


def _room(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of a decade and a half at least: what hardly grows shall look like it."""
    low, high = min(values), max(values)
    middle, half = (low * high) ** 0.5, max(2.0 * (high / low) ** 0.5, 30**0.5)
    axis.set_ylim(middle / half, middle * half)
    axis.yaxis.set_minor_formatter(NullFormatter())
