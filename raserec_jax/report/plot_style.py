"""Colours and axes that all pictures share."""

from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart also by the colour-blind; RaSeRec stands out.
STAGE_COLORS = {
    "pretrain": "#8a919c",
    "control": "#e69f00",
    "mixing": "#009e73",
    "finetune": "#0072b2",
    "combined": "#cc79a7",
}
CHANNEL_COLORS = {"history_to_target": "#0072b2", "target_to_history": "#d55e00"}
INK, GRID = "#333333", "#e3e5e8"


def style_axes(axis: Axes) -> None:
    """Two spines and faint lines behind what is drawn."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#9aa0a8")
    axis.tick_params(colors=INK, labelsize=9)
    axis.grid(axis="y", color=GRID)
    axis.set_axisbelow(True)
