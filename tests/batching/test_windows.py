"""Windows: every training target is covered once, with the context that its mode promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.batching.windows import (
    prefix_windows,
    query_windows,
    training_examples,
    user_windows,
)
from tests.small_logs import random_split

lengths_of_users = st.lists(st.integers(1, 40), min_size=1, max_size=8)
max_lens = st.integers(1, 14)


def target_places(windows):
    """Place in the log of each target that a window scores, and how many items of the window precede it."""
    places, contexts = [], []
    for start, length, targets in zip(*windows, strict=True):
        for offset in range(length - targets, length):
            places.append(int(start) + offset + 1)
            contexts.append(offset + 1)
    order = np.argsort(places, kind="stable")
    return np.array(places, int)[order], np.array(contexts, int)[order]


@pytest.mark.parametrize("mode", ["chunked", "exact"])
@given(lengths=lengths_of_users, max_len=max_lens)
def test_every_training_target_is_covered_once(mode, lengths, max_len):
    split = random_split(lengths)
    windows = user_windows(split, max_len, mode)
    examples = training_examples(split)
    places, contexts = target_places(windows)
    np.testing.assert_array_equal(places, examples.target_places)
    assert ((windows.lengths >= 1) & (windows.lengths <= max_len)).all()
    # No window reaches beyond its user's history, on either side.
    assert (contexts <= examples.lengths).all()
    if mode == "exact":
        np.testing.assert_array_equal(contexts, np.minimum(examples.lengths, max_len))
    else:
        assert (contexts >= np.minimum(examples.lengths, max_len // 2)).all()
        within = examples.lengths <= max_len  # the first window has all there is
        np.testing.assert_array_equal(contexts[within], examples.lengths[within])


@given(lengths=lengths_of_users, max_len=max_lens)
def test_exact_windows_are_prefix_windows_beyond_max_len(lengths, max_len):
    split = random_split(lengths)
    windows = user_windows(split, max_len, "exact")
    prefixes = prefix_windows(training_examples(split), max_len)
    later = training_examples(split).lengths > max_len
    of_prefixes = sorted(zip(*(field[later].tolist() for field in prefixes), strict=True))
    per_user = np.searchsorted(split.log.offsets, windows.starts, side="right") - 1
    beyond = windows.starts > split.log.offsets[per_user]
    assert sorted(zip(*(field[beyond].tolist() for field in windows), strict=True)) == of_prefixes


def test_by_hand():
    split = random_split([12])  # ten training items, targets at places 1..9
    chunked = user_windows(split, 4, "chunked")
    assert [field.tolist() for field in chunked] == [[0, 2, 4, 5], [4] * 4, [4, 2, 2, 1]]
    exact = user_windows(split, 4, "exact")
    assert [field.tolist() for field in exact] == [[0, 1, 2, 3, 4, 5], [4] * 6, [4] + [1] * 5]
    odd = user_windows(split, 5, "chunked")  # moved by three, two items of context at least
    assert [field.tolist() for field in odd] == [[0, 3, 4], [5] * 3, [5, 3, 1]]
    assert {field.dtype for field in (*chunked, *exact)} == {np.dtype(np.int32)}


def test_training_examples_by_hand():
    split = random_split([2, 1, 5], seed=3)
    examples = training_examples(split)
    assert examples.target_places.tolist() == [1, 4, 5]
    assert examples.target_ids.tolist() == split.log.item_ids[[1, 4, 5]].tolist()
    assert examples.user_ids.tolist() == [0, 2, 2]
    assert examples.lengths.tolist() == [1, 1, 2]


def test_query_windows_keep_the_last_items():
    windows = query_windows(np.array([0, 7, 9]), np.array([7, 2, 4]), 3)
    assert [field.tolist() for field in windows] == [[4, 7, 10], [3, 2, 3], [1, 1, 1]]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="long_history='last' is unknown; use one of"):
        user_windows(random_split([5]), 4, "last")
