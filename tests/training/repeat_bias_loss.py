"""The loss of one target with repeat bias, written out."""

import numpy as np


def loss_by_definition(query, params, history, target):
    """Cross-entropy with the bias on what the history has, in float64."""
    scores = np.asarray(query, np.float64) @ np.asarray(params["item_table"], np.float64).T
    scores[list(set(history))] += 10.0 * float(params["repeat_bias"])
    scores[0] = -np.inf
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target])
