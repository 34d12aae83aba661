"""What a model recommends, over all users: how much of the catalogue, and how popular it is."""

import numpy as np
from jaxtyping import Array, Int


def recommended_statistics(
    top_ids: Int[Array | np.ndarray, "queries k"], item_counts: Int[np.ndarray, " items_and_one"]
) -> dict[str, float]:
    """Coverage and mean popularity of the recommended items.

    Args:
      top_ids: each query's best items, 0 = none, as `top_items` gives them.
      item_counts: [V + 1] training interactions of each item; entry 0 is padding.

    Returns:
      {"coverage@k": share of the catalogue that is in anyone's list, in [0, 1],
       "mean_popularity@k": training interactions of the items in the lists, mean over places}.

    Raises:
      ValueError: no item is recommended to anyone.
    """
    ids = np.asarray(top_ids)
    places = np.bincount(ids.ravel(), minlength=len(item_counts))
    places[0] = 0
    if not places.any():
        raise ValueError("the lists are empty; expected at least one recommended item")
    k = ids.shape[1]
    return {
        f"coverage@{k}": float(np.count_nonzero(places) / (len(item_counts) - 1)),
        f"mean_popularity@{k}": float(places @ item_counts / places.sum()),
    }
