"""Early stopping: a small frozen state and a pure update."""

from typing import NamedTuple


class EarlyStopping(NamedTuple):
    """Best value so far and how long ago it was.

    best: highest value seen; -inf before the first.
    best_epoch: 0-based epoch of it; -1 before the first.
    epochs_since: epochs since then.
    """

    best: float = float("-inf")
    best_epoch: int = -1
    epochs_since: int = 0


def update(state: EarlyStopping, value: float, epoch: int) -> EarlyStopping:
    """The state after `epoch` reached `value`; only a strictly higher value is an improvement."""
    if value > state.best:
        return EarlyStopping(value, epoch, 0)
    return state._replace(epochs_since=state.epochs_since + 1)


def should_stop(state: EarlyStopping, patience: int) -> bool:
    """True once more than `patience` epochs passed without improvement, as in the published code; 0 = never."""
    return patience > 0 and state.epochs_since > patience
