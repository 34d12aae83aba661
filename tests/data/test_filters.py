"""k-core: by hand, against a loop, and its fixpoint."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data.filters import k_core
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import DataError


def test_filters_until_nothing_changes():
    # Item 3 goes (one user), then user c has one item left and goes, then item 2 has a and b.
    users = ["a", "a", "b", "b", "c", "c"]
    items = [1, 2, 1, 2, 2, 3]
    log = k_core(InteractionLog.from_columns(users, items, timestamp=[5, 4, 3, 2, 1, 0]), 2)
    assert log.user_labels.tolist() == ["a", "b"]
    assert log.item_labels.tolist() == [0, 1, 2]
    assert log.item_ids.tolist() == [2, 1, 2, 1]
    assert log.timestamps.tolist() == [4, 5, 2, 3]


def naive_k_core(rows, k):
    while True:
        users = collections.Counter(user for user, _ in rows)
        items = collections.Counter(item for _, item in rows)
        kept = [(user, item) for user, item in rows if users[user] >= k and items[item] >= k]
        if len(kept) == len(rows):
            return kept
        rows = kept


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60),
    st.integers(0, 5),
)
def test_equals_a_loop(rows, k):
    rows = sorted(rows, key=lambda row: row[0])
    users, items = zip(*rows, strict=True)
    log = InteractionLog.from_columns(users, items)
    expected = naive_k_core(rows, k)
    if not expected:
        with pytest.raises(DataError, match="no user left"):
            k_core(log, k)
        return
    core = k_core(log, k)
    found = zip(core.user_labels[core.user_ids], core.labels_of(core.item_ids), strict=True)
    assert [(int(user), int(item)) for user, item in found] == expected
    assert core.lengths.min() >= k
    assert np.bincount(core.item_ids)[1:].min() >= k
    assert k_core(core, k) is core


def test_small_k_keeps_everything_and_large_k_is_refused():
    log = InteractionLog.from_columns([1, 1, 2], [4, 5, 4], name="shop")
    assert k_core(log, 1) is log
    assert k_core(log, 0) is log
    message = r"shop: no user left with at least 5 .* a user has 2, an item 2.*min_interactions"
    with pytest.raises(DataError, match=message):
        k_core(log)
