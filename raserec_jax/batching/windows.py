"""Windows: which stretch of which history goes through the encoder in one piece, and which places have targets.

All histories lie one after the other in one flat array, so a window is (start, length) in it, and the item after a
place is the next entry. Training, the memory bank and evaluation differ only in their windows. Host, NumPy.
"""

from typing import NamedTuple

import numpy as np

from raserec_jax.data.splits import Split

LONG_HISTORY_MODES = ("chunked", "exact")


class Windows(NamedTuple):
    """Stretches of the flat item array; int32 [windows] each.

    starts: index of the first item in `log.item_ids`.
    lengths: items, 1..max_len.
    num_targets: the last so many places have a target: the item that follows them.
    """

    starts: np.ndarray
    lengths: np.ndarray
    num_targets: np.ndarray


class Examples(NamedTuple):
    """One row per training target, in the order of the log; int32 [examples] each.

    target_places: index of the target in `log.item_ids`; the history is what precedes it.
    target_ids: the item there.
    user_ids: whose history it is.
    lengths: items of the whole history, 1..; a window keeps the last max_len of them.
    """

    target_places: np.ndarray
    target_ids: np.ndarray
    user_ids: np.ndarray
    lengths: np.ndarray


def training_examples(split: Split) -> Examples:
    """Every training prefix with its next item (places 1..train_end-1 of each user)."""
    return _examples(split, np.ones_like(split.train_end), split.train_end)


def later_examples(split: Split) -> Examples:
    """Pairs after training that are known before the test: they join the memory for it."""
    return _examples(split, np.maximum(split.train_end, 1), split.memory_end)


def _examples(split: Split, begin: np.ndarray, end: np.ndarray) -> Examples:
    """Examples whose targets lie at each user's places begin..end-1."""
    log = split.log
    place = np.arange(log.num_interactions) - log.offsets[log.user_ids]
    is_target = (place >= begin[log.user_ids]) & (place < end[log.user_ids])
    places = np.flatnonzero(is_target).astype(np.int32)
    return Examples(
        places, log.item_ids[places], log.user_ids[places], place[places].astype(np.int32)
    )


def query_windows(starts: np.ndarray, lengths: np.ndarray, max_len: int) -> Windows:
    """One window per history: its last max_len items, read at the end.

    Args:
      starts: [windows] index of the history's first item.
      lengths: [windows] items of the history, >= 1.
      max_len: longest window.
    """
    kept = np.minimum(lengths, max_len)
    starts = starts + lengths - kept
    return Windows(
        starts.astype(np.int32), kept.astype(np.int32), np.ones(len(kept), dtype=np.int32)
    )


def prefix_windows(examples: Examples, max_len: int) -> Windows:
    """One window per training target, as published: the last max_len items before it."""
    return query_windows(examples.target_places - examples.lengths, examples.lengths, max_len)


def user_windows(split: Split, max_len: int, long_history: str) -> Windows:
    """Few windows per user that cover every training target once (DESIGN: one pass encodes every prefix).

    A user with at most max_len training places is one window. Beyond that, `chunked` moves a window of max_len by
    max_len // 2, each target scored once with at least max_len // 2 items of context; `exact` gives each later
    target its own window, the last max_len items before it, as the published window does.

    Raises:
      ValueError: unknown long_history.
    """
    if long_history not in LONG_HISTORY_MODES:
        raise ValueError(
            f"long_history={long_history!r} is unknown; use one of {LONG_HISTORY_MODES}"
        )
    places = np.maximum(split.train_end.astype(np.int64) - 1, 0)  # places with a target, per user
    step = 1 if long_history == "exact" else max(max_len - max_len // 2, 1)
    extra = -(-np.maximum(places - max_len, 0) // step)  # windows after the first
    count = np.where(places > 0, 1 + extra, 0)
    user = np.repeat(np.arange(len(places)), count)
    index = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    ends = np.minimum(max_len + index * step, places[user])
    starts = np.maximum(ends - max_len, 0)
    previous_ends = np.where(index > 0, max_len + (index - 1) * step, 0)
    return Windows(
        (split.log.offsets[user] + starts).astype(np.int32),
        (ends - starts).astype(np.int32),
        (ends - previous_ends).astype(np.int32),
    )
