"""The scoring rule of evaluation the slow way: all scores at once, in NumPy float64."""

import numpy as np


def dense_scores(
    query,
    item_table,
    sparse_ids=None,
    sparse_mass=None,
    mix=None,
    repeat_ids=None,
    repeat_bias=None,
):
    """[users, items + 1]; column 0, padding, is NaN: whoever looks at it shows."""
    scores = query.astype(np.float64) @ item_table.astype(np.float64).T
    if repeat_bias is not None:
        for row, column in np.argwhere(repeat_ids > 0):
            scores[row, repeat_ids[row, column]] += repeat_bias
    if mix is not None:
        scores[:, 0] = -np.inf
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = (1 - mix) * scores / scores.sum(axis=1, keepdims=True)
        for row, column in np.argwhere(sparse_ids > 0):
            scores[row, sparse_ids[row, column]] += mix * sparse_mass[row, column]
    scores[:, 0] = np.nan
    return scores


def sorted_ranks(scores, target_ids, seen_ids):
    """(unfiltered, filtered) by a full sort of each row; among equals the target comes last."""
    item_ids = np.arange(scores.shape[1])
    ranks = np.empty((2, len(scores)), np.int32)
    for row, target in enumerate(target_ids):
        unseen = ~np.isin(item_ids, seen_ids[row]) | (item_ids == target)
        for kind, listed in enumerate((item_ids > 0, (item_ids > 0) & unseen)):
            order = np.lexsort((item_ids == target, -scores[row]))
            ranks[kind, row] = order[listed[order]].tolist().index(target)
    return ranks
