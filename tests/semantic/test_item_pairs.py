"""Pairs for training a text encoder: what follows what in training, and batches without a text twice."""

import collections
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import leave_one_out, split_log
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.semantic.item_pairs import (
    _one_round,
    distinct_texts,
    following_pairs,
    pair_batches,
)


def log_of(histories, timestamps=None):
    users = [f"u{row}" for row, items in enumerate(histories) for _ in items]
    items = [item for history in histories for item in history]
    return InteractionLog.from_columns(users, items, timestamp=timestamps, name="small")


def named(split, pairs):
    labels = split.log.item_labels
    return [(str(labels[a]), str(labels[b])) for a, b in pairs.tolist()]


def texts_of(split, **said):
    return ["", *(said.get(str(label), f"text {label}") for label in split.log.item_labels[1:])]


def test_pairs_by_hand():
    split = leave_one_out(log_of(["abcdXY", "baabcXZ"]))
    texts = texts_of(split)
    assert named(split, following_pairs(split, texts, 1)) == [
        ("a", "b"),
        ("b", "c"),
        ("c", "d"),
        ("b", "a"),
        ("a", "b"),  # not (a, a)
        ("b", "c"),
    ]
    further = named(split, following_pairs(split, texts, 2))
    assert collections.Counter(further[6:]) == collections.Counter(
        [("a", "c"), ("b", "d"), ("b", "a"), ("a", "b"), ("a", "c")]
    )


def test_items_without_text_and_equal_texts_make_no_pair():
    split = leave_one_out(log_of(["abcdXY"]))
    assert named(split, following_pairs(split, texts_of(split, b="text c", d=""), 1)) == [
        ("a", "b")
    ]
    with pytest.raises(DataError, match="no two items with different texts follow each other"):
        following_pairs(split, texts_of(split, a="", c=""), 1)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("by_time", [False, True])
def test_held_out_interactions_make_no_pair(window, by_time):
    draw = np.random.default_rng(1)
    histories = [draw.permutation(40)[: draw.integers(3, 12)].tolist() for _ in range(60)]
    settings = types.SimpleNamespace(
        split="leave_one_out", split_times=(0.7, 0.85), cold_users="keep", cold_items="keep"
    )
    times = None
    if by_time:
        settings.split = "global_time"
        times = np.concatenate([np.sort(draw.integers(0, 1000, len(h))) for h in histories])
    split = split_log(log_of(histories, times), settings)
    log = split.log
    expected = collections.Counter()
    for user in range(log.num_users):
        first = int(log.offsets[user])
        training = log.item_ids[first : first + int(split.train_end[user])].tolist()
        for place, item in enumerate(training):
            expected.update((before, item) for before in training[max(0, place - window) : place])
    assert 0 < sum(expected.values()) < window * log.num_interactions
    found = following_pairs(split, texts_of(split), window)
    assert collections.Counter(map(tuple, found.tolist())) == expected


def test_equal_texts_have_equal_numbers():
    assert distinct_texts(["", "a", "b", "a", ""]).tolist() == [0, 1, 2, 1, 0]


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 12)).filter(lambda pair: pair[0] != pair[1]),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 12),
    st.integers(2, 4),
    st.integers(0, 3),
)
def test_no_text_stands_twice_in_a_batch(pairs, steps, batch, seed):
    texts = np.array(pairs, np.int32)
    try:
        rows = pair_batches(texts, steps, batch, seed)
    except ConfigError as error:
        assert f"tune.batch={batch} is too large" in str(error)
        return
    assert rows.shape == (steps, batch)
    for row in rows:
        used = texts[row].ravel().tolist()
        assert len(set(used)) == len(used)
    assert np.array_equal(rows, pair_batches(texts, steps, batch, seed))


def test_all_pairs_come_before_any_comes_again():
    texts = np.arange(1, 81, dtype=np.int32).reshape(40, 2)
    rows = pair_batches(texts, 25, 4, 0)
    for start in (0, 10):
        assert sorted(rows[start : start + 10].ravel().tolist()) == list(range(40))
    assert not np.array_equal(rows[:10], rows[10:20])
    assert not np.array_equal(rows, pair_batches(texts, 25, 4, 1))


def test_a_pair_that_has_to_wait_comes_first_in_the_next_batch():
    sides = [[1, 2], [1, 3], [4, 1], [5, 6], [7, 8], [9, 10], [11, 12]]
    assert _one_round(sides, 9, 2) == [[0, 3], [1, 4], [2, 5]]


def test_a_batch_that_cannot_be_filled_is_refused():
    texts = np.array([(1, 2), (2, 3), (3, 1)], np.int32)
    with pytest.raises(ConfigError, match=r"tune.batch=2 is too large: of the 3 pairs"):
        pair_batches(texts, 1, 2, 0)
