"""Queries in groups: by the popularity of the target, by the length of the history; metrics of each group from ranks.

Groups are ranges of whole numbers. Equal-mass ranges are cut between distinct values only, so that equal values share
a group; where one value holds more than its part of the mass there are fewer groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from raserec_jax.evaluation.evaluator import evaluate_ranks

LENGTH_EDGES = (7, 11)
"""Histories of fewer than 7 items, of 7 to 10, of more than 10: the RaSeRec paper's partition."""

BINS = 5
"""Equal-mass groups."""

CUTOFFS = (10,)


class Group(NamedTuple):
    """A range of values and the queries in it.

    Fields:
      label: such as "< 7", "7–10", "> 10".
      low, high: smallest and largest value of the range; None where it is open.
      mean: of the members' values; None without members.
      rows: [members] int, which queries.
    """

    label: str
    low: int | None
    high: int | None
    mean: float | None
    rows: np.ndarray


def popularity_groups(
    item_counts: Int[np.ndarray, " items_and_one"],
    target_ids: Int[np.ndarray, " queries"],
    bins: int = BINS,
) -> list[Group]:
    """Groups by how often the target occurs in training, least popular first.

    Args:
      item_counts: [V + 1] training interactions of each item; entry 0, padding, is 0.
      target_ids: 1..V.
      bins: ranges that hold about the same number of training interactions each.
    """
    edges = equal_mass_edges(item_counts[1:], item_counts[1:], bins)
    return value_groups(item_counts[target_ids], edges)


def length_groups(
    lengths: Int[np.ndarray, " queries"], edges: Sequence[int] = LENGTH_EDGES
) -> list[Group]:
    """Groups by the number of items before the target, shortest first."""
    return value_groups(lengths, edges)


def length_quantiles(lengths: Int[np.ndarray, " queries"], bins: int = BINS) -> list[Group]:
    """Groups of about the same number of queries by the number of items before the target, shortest first."""
    return value_groups(lengths, equal_mass_edges(lengths, np.ones_like(lengths), bins))


def equal_mass_edges(
    values: Int[np.ndarray, " entries"], masses: Int[np.ndarray, " entries"], bins: int
) -> list[int]:
    """The smallest value of each range but the first, for at most `bins` ranges of about equal mass."""
    distinct, place = np.unique(values, return_inverse=True)
    mass = np.bincount(place, masses)
    middle = np.cumsum(mass) - mass / 2  # a value belongs where the middle of its mass lies
    bin_of = np.minimum(bins * middle / max(mass.sum(), 1), bins - 1).astype(int)
    return distinct[1:][np.diff(bin_of) > 0].tolist()


def value_groups(values: Int[np.ndarray, " queries"], edges: Sequence[int]) -> list[Group]:
    """Groups below the first edge, from each edge to the next, from the last on; those without members too."""
    lows, highs = [None, *edges], [*(edge - 1 for edge in edges), None]
    group_of = np.searchsorted(np.asarray(edges), values, side="right")
    groups = []
    for place, (low, high) in enumerate(zip(lows, highs, strict=True)):
        rows = np.flatnonzero(group_of == place)
        mean = float(np.mean(values[rows])) if len(rows) else None
        groups.append(Group(_label(low, high), low, high, mean, rows))
    return groups


def group_metrics(
    groups: Sequence[Group],
    ranks: Mapping[str, Sequence[Int[np.ndarray, " queries"]]],
    cutoffs: Sequence[int] = CUTOFFS,
) -> list[dict[str, Any]]:
    """What results.json says of each group.

    Args:
      groups: of the queries that the ranks are of.
      ranks: model -> (unfiltered, filtered) 0-based ranks.
      cutoffs: of the metrics.

    Returns:
      [{"label", "low", "high", "mean", "queries", "models": {model: {"unfiltered": {"HR@10", ...}, "filtered"}}}, ...];
      a group without members has no models.
    """
    return [
        {
            "label": label,
            "low": low,
            "high": high,
            "mean": mean,
            "queries": len(rows),
            "models": {
                name: evaluate_ranks(*(np.asarray(part)[rows] for part in parts), cutoffs)
                for name, parts in ranks.items()
                if len(rows)
            },
        }
        for label, low, high, mean, rows in groups
    ]


def _label(low: int | None, high: int | None) -> str:
    if low is None:
        return "all" if high is None else f"< {high + 1}"
    if high is None:
        return f"> {low - 1}"
    return str(low) if low == high else f"{low}–{high}"
