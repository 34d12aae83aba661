"""The best items for every query of a split, by both protocols."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from raserec_jax.constants import PAD_ID
from raserec_jax.evaluation.evaluator import seen_items
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.top_items import top_items

_NARROWEST = 64


def recommended_items(
    scores: Scores,
    item_table: Float[Array | np.ndarray, "rows dim"],
    k: int,
    target_ids: Int[np.ndarray, " queries"],
    offsets: Int[np.ndarray, " users_and_one"],
    item_ids: Int[np.ndarray, " interactions"],
    end_positions: Int[np.ndarray, " queries"],
    user_ids: Int[np.ndarray, " queries"],
) -> tuple[Int[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]:
    """The k best of all items, and of those that are new to the user.

    As for ranks, the target stays in the filtered list though the user has met it.

    Args:
      scores: row i scores the items for query i; with a repeat_bias, repeat_ids are filled in here.
      item_table, k: as in `top_items`.
      target_ids, offsets, item_ids, end_positions, user_ids: as in `rank_histories`.

    Returns:
      (unfiltered, filtered) item ids, best first, int32, on the host; 0 where nothing is left.

    Raises:
      ValueError: as `top_items` and `seen_items`.
    """
    found = np.zeros((2, len(end_positions), k), np.int32)
    # Histories of like length together, so that a long one does not widen the table of seen items for all.
    steps = np.ceil(np.log2(np.maximum(end_positions, 1) / _NARROWEST) / 2.0)
    widths = _NARROWEST * 4 ** np.maximum(steps, 0).astype(np.int64)
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        seen = seen_items(offsets, item_ids, end_positions[rows], user_ids[rows])
        seen = np.pad(seen, ((0, 0), (0, int(width) - seen.shape[1])))
        part = jax.tree.map(lambda a, rows=rows: a[rows], scores.by_user())
        part = part._replace(mix=scores.mix, repeat_bias=scores.repeat_bias)
        if scores.repeat_bias is not None:
            part = part._replace(repeat_ids=seen)
        excluded = np.where(seen == target_ids[rows, None], PAD_ID, seen)
        for kind, exclude_ids in enumerate((None, excluded)):
            found[kind, rows] = top_items(part, item_table, k, exclude_ids)[0]
    return found[0], found[1]
