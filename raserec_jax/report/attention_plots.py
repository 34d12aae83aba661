"""What the reader attends to, as pictures: over all test users, and memory by memory for a few of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raserec_jax.report.attention import CHANNEL_LABELS, attention_of
from raserec_jax.report.plot_style import CHANNEL_COLORS, INK, STAGE_COLORS, style_axes

_MEMORIES_SHOWN = 10  # of a sample, the heaviest
_ITEM_LETTERS = 38
_ROW, _HEAD, _FOOT = 0.235, 0.92, 0.16  # inches: of a memory, above and below a sample's
_CELLS = (8.0, 1.9)  # inches: left edge and width of the heat map
_SOFT = "#70777f"
_UNIFORM = {"color": INK, "linewidth": 1.0, "linestyle": "--"}


def draw_attention(results: Mapping[str, Any]) -> Figure | None:
    """Weight by rank, its evenness, and its mass on the next item, a colour per channel; None without attention."""
    attention = attention_of(results)
    channels = attention.get("channels") or {}
    if not channels:
        return None
    figure = Figure(figsize=(10, 3.9), dpi=150, layout="constrained")
    figure.get_layout_engine().set(wspace=0.04)
    axes = figure.subplots(1, 3, width_ratios=(4, 4, 3))
    for axis in axes:
        style_axes(axis)
    _draw_ranks(axes[0], channels)
    _draw_evenness(axes[1], channels)
    _draw_next_item(axes[2], attention)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _draw_ranks(axis: Axes, channels: Mapping[str, Mapping[str, Any]]) -> None:
    for name, channel in channels.items():
        mean, low, high = (np.array(channel[key], float) for key in ("mean", "low", "high"))
        ranks, color = np.arange(1, len(mean) + 1), CHANNEL_COLORS.get(name, INK)
        label = CHANNEL_LABELS.get(name, name)
        axis.fill_between(ranks, low, high, color=color, alpha=0.15, linewidth=0)
        axis.plot(ranks, mean, color=color, label=label, marker="o", markersize=3)
    axis.axhline(1 / len(ranks), label="uniform", **_UNIFORM)
    axis.set_ylim(bottom=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("rank of the memory by similarity")
    axis.set_title("Mean weight, and 10 to 90% of users", fontsize=10)


def _draw_evenness(axis: Axes, channels: Mapping[str, Mapping[str, Any]]) -> None:
    left = 0.95
    for name, channel in channels.items():
        shares = 100 * np.array(channel["effective"], float)
        color = CHANNEL_COLORS.get(name, INK)
        edges = np.linspace(0, 1, len(shares) + 1)
        axis.stairs(shares, edges, color=color, fill=True, alpha=0.15)
        axis.stairs(shares, edges, color=color, linewidth=1.6)
        left = min([left, *edges[:-1][shares >= 0.05]])
    axis.axvline(1.0, **_UNIFORM)
    axis.set_xlim(left, 1.0 + 0.02 * (1.0 - left))
    axis.set_ylim(bottom=0)
    axis.set_xlabel("memories in effect, of those retrieved")
    axis.set_ylabel("% of users")
    axis.set_title("Evenness: exp(entropy) / memories", fontsize=10)


def _draw_next_item(axis: Axes, attention: Mapping[str, Any]) -> None:
    """Mass on the memories that the next item followed, with interval; the dashed line is their share."""
    told = attention.get("next_item") or {}
    found = {
        name: channel["next_item"]
        for name, channel in attention["channels"].items()
        if channel.get("next_item")
    }
    axis.set_title("Weight on memories of\nthe item that came next", fontsize=10)
    if not found:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "no memory of it\nwas retrieved", ha="center", transform=axis.transAxes)
        return
    for place, (name, one) in enumerate(found.items()):
        axis.errorbar(
            place,
            one["mass"],
            yerr=[[one["mass"] - one["low"]], [one["high"] - one["mass"]]],
            fmt="o",
            color=CHANNEL_COLORS.get(name, INK),
            capsize=4,
        )
        axis.annotate(
            _weight(one["mass"]),
            (place, one["mass"]),
            xytext=(9, -3),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
        )
    axis.axhline(told["share"], **_UNIFORM)
    axis.set_xticks(range(len(found)), [f"channel {place + 1}" for place in range(len(found))])
    axis.set_xlim(-0.6, len(found) - 0.3)
    axis.margins(y=0.25)
    axis.set_xlabel(f"dashed: their share; {told['queries']:,} users", fontsize=9)


def draw_sample_attention(samples: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Heat maps memories x channel, one per sample user; None without samples that tell the attention."""
    shown = [sample for sample in samples if _heaviest(sample)]
    if not shown:
        return None
    counts = [len(_heaviest(sample)) for sample in shown]
    height = sum(counts) * _ROW + len(shown) * (_HEAD + _FOOT)  # inches
    figure = Figure(figsize=(10, height), dpi=150)
    largest = max(max(one["attention"].values()) for sample in shown for one in _heaviest(sample))
    top = height
    for sample, count in zip(shown, counts, strict=True):
        bottom = top - _HEAD - count * _ROW
        axis = figure.add_axes(
            (_CELLS[0] / 10, bottom / height, _CELLS[1] / 10, count * _ROW / height)
        )
        _draw_cells(axis, _heaviest(sample), largest)
        _write_memories(axis, sample)
        top = bottom - _FOOT
    return figure


def _draw_cells(axis: Axes, memories: Sequence[Mapping[str, Any]], largest: float) -> None:
    channels = list(memories[0]["attention"])
    cells = np.array([[one["attention"].get(name, 0.0) for name in channels] for one in memories])
    axis.imshow(cells, cmap="Blues", vmin=0.0, vmax=1.3 * largest or 1.0, aspect="auto")
    axis.spines[:].set_visible(False)
    axis.set_xticks(range(len(channels)), [f"channel {n + 1}" for n in range(len(channels))])
    axis.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axis.tick_params(axis="x", labelsize=8, colors=_SOFT, pad=2)
    axis.set_yticks([])
    axis.set_yticks(np.arange(len(memories) + 1) - 0.5, minor=True)
    axis.grid(which="minor", axis="y", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    for (row, column), weight in np.ndenumerate(cells):
        ink = "white" if weight > 0.75 * largest else INK
        axis.text(column, row, _weight(weight), ha="center", va="center", size=7.5, color=ink)


def _write_memories(axis: Axes, sample: Mapping[str, Any]) -> None:
    """Left of the cells: whose they are, and a line per memory."""
    memories, target, total = _heaviest(sample), sample.get("target"), len(sample["memories"])
    for row, memory in enumerate(memories):
        hit = target is not None and memory.get("then") == target
        style = {"color": STAGE_COLORS["mixing"], "weight": "bold"} if hit else {}
        _write(axis, 0.35, row, f"{memory['rank']}.", ha="right", color=_SOFT)
        _write(axis, 0.42, row, _had(memory.get("history") or [], 80), color="#555b63")
        then = _cut(memory.get("then", ""), _ITEM_LETTERS)
        _write(axis, _CELLS[0] - 0.1, row, then, ha="right", **style)
    user, next_item = _cut(sample.get("user", ""), 40), _cut(target or "?", 80)
    _write(axis, 0.12, -3.1, f"User {user} took next: {next_item}", size=8.5, weight="bold")
    _write(axis, 0.12, -2.1, f"had: {_had(sample.get('history') or [], 140)}")
    which = f"{len(memories)} heaviest of" if len(memories) < total else "all"
    note = f"{which} {total} memories (uniform weight {_weight(1 / total)}), with rank: what its user had"
    _write(axis, 0.12, -1.0, note, color=_SOFT)
    _write(axis, _CELLS[0] - 0.1, -1.0, "and took then", ha="right", color=_SOFT)


def _heaviest(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Memories whose attention is told, by weight, with their rank."""
    ranked = [
        {**memory, "rank": rank}
        for rank, memory in enumerate(sample.get("memories") or [], start=1)
        if memory.get("attention")
    ]
    return sorted(ranked, key=lambda one: -(one.get("weight") or 0.0))[:_MEMORIES_SHOWN]


def _had(titles: Sequence[Any], letters: int) -> str:
    """The newest of a history, as many as there is room for."""
    text, left = "", len(titles)
    for title in reversed(titles):
        longer = _cut(title, _ITEM_LETTERS) + (f", {text}" if text else "")
        if text and len(longer) > letters:
            break
        text, left = longer, left - 1
    return f"… {text}" if left else text


def _cut(text: Any, letters: int) -> str:
    """On one line, and no longer than that."""
    text = " ".join(str(text).split())
    return text if len(text) <= letters else text[: letters - 1].rstrip(" ,;-") + "…"


def _weight(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _write(axis: Axes, x: float, row: int | float, text: str, **style: Any) -> None:
    """Text in a row, x in inches from the left. A title is no mathematics, whatever it contains."""
    style = {"size": 7.5, "color": INK, "va": "center", **style}
    x = (x - _CELLS[0]) / _CELLS[1]
    transform = axis.get_yaxis_transform()
    axis.text(x, row, text, parse_math=False, transform=transform, clip_on=False, **style)
