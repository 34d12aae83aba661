"""From the query vectors of a split to the two protocols that are always reported together.

`unfiltered`: every item competes with the target, also those the user has met. `filtered`: items of
the user's history are left out, never the target. Histories come as one flat log (offsets and item
ids), on the host; scores and table may live on the device.
"""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from raserec_jax.constants import METRIC_CUTOFFS
from raserec_jax.evaluation.histories import by_history_width
from raserec_jax.evaluation.item_scores import ITEM_CHUNK, Scores
from raserec_jax.evaluation.metrics import metrics_from_ranks
from raserec_jax.evaluation.ranking import rank_targets


def evaluate_ranks(
    unfiltered: Int[Array | np.ndarray, " users"],
    filtered: Int[Array | np.ndarray, " users"],
    cutoffs: Sequence[int] = METRIC_CUTOFFS,
) -> dict[str, dict[str, float]]:
    """{"unfiltered": {"HR@1": ...}, "filtered": {...}} from the ranks of `rank_targets`.

    Raises:
      ValueError: no ranks, or a negative rank.
    """
    return {
        "unfiltered": metrics_from_ranks(unfiltered, cutoffs),
        "filtered": metrics_from_ranks(filtered, cutoffs),
    }


def rank_histories(
    scores: Scores,
    item_table: Float[Array | np.ndarray, "rows dim"],
    target_ids: Int[Array | np.ndarray, " queries"],
    offsets: Int[np.ndarray, " users_and_one"],
    item_ids: Int[np.ndarray, " interactions"],
    end_positions: Int[np.ndarray, " queries"],
    user_ids: Int[np.ndarray, " queries"] | None = None,
    *,
    user_chunk: int | None = None,
    item_chunk: int = ITEM_CHUNK,
    mesh: Mesh | None = None,
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]:
    """Ranks of a split's targets; what precedes a target in its user's sequence counts as seen.

    Args:
      scores: row i scores the items for query i; with a repeat_bias, repeat_ids are filled in here.
      item_table: [V + 1, dim], row 0 = padding.
      target_ids: 1..V.
      offsets, item_ids: the log by user, as in `seen_items`.
      end_positions: how many of the user's items lie before the target.
      user_ids: user of each query; None: query i belongs to user i.
      user_chunk, item_chunk, mesh: as in `rank_targets`.

    Returns:
      (unfiltered, filtered) 0-based ranks, int32, on the host.

    Raises:
      ValueError: as `rank_targets` and `seen_items`.
    """
    user_ids = np.arange(len(end_positions)) if user_ids is None else user_ids
    unfiltered = np.empty(len(user_ids), np.int32)
    filtered = np.empty(len(user_ids), np.int32)
    groups = by_history_width(scores, offsets, item_ids, end_positions, user_ids)
    for rows, part, seen_ids in groups:
        unfiltered[rows], filtered[rows] = rank_targets(
            part,
            item_table,
            target_ids[rows],
            seen_ids,
            user_chunk=user_chunk,
            item_chunk=item_chunk,
            mesh=mesh,
        )
    return unfiltered, filtered
