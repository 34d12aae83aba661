"""The best items for every query of a split, by both protocols."""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from raserec_jax.constants import PAD_ID
from raserec_jax.evaluation.histories import by_history_width
from raserec_jax.evaluation.item_scores import Scores
from raserec_jax.evaluation.top_items import top_items


def recommended_items(
    scores: Scores,
    item_table: Float[Array | np.ndarray, "rows dim"],
    k: int,
    target_ids: Int[np.ndarray, " queries"],
    offsets: Int[np.ndarray, " users_and_one"],
    item_ids: Int[np.ndarray, " interactions"],
    end_positions: Int[np.ndarray, " queries"],
    user_ids: Int[np.ndarray, " queries"],
    mesh: Mesh | None = None,
) -> tuple[Int[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]:
    """The k best of all items, and of those that are new to the user.

    As for ranks, the target stays in the filtered list though the user has met it.

    Args:
      scores: row i scores the items for query i; with a repeat_bias, repeat_ids are filled in here.
      item_table, k: as in `top_items`.
      target_ids, offsets, item_ids, end_positions, user_ids: as in `rank_histories`.
      mesh: as in `rank_targets`.

    Returns:
      (unfiltered, filtered) item ids, best first, int32, on the host; 0 where nothing is left.

    Raises:
      ValueError: as `top_items` and `seen_items`.
    """
    found = np.zeros((2, len(end_positions), k), np.int32)
    groups = by_history_width(scores, offsets, item_ids, end_positions, user_ids)
    for rows, part, seen in groups:
        excluded = np.where(seen == target_ids[rows, None], PAD_ID, seen)
        for kind, exclude_ids in enumerate((None, excluded)):
            found[kind, rows] = top_items(part, item_table, k, exclude_ids, mesh=mesh)[0]
    return found[0], found[1]
