"""Popularity by hand and the slow way; recent popularity looks back only."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from raserec_jax.baselines import popularity
from raserec_jax.baselines.queries import counted_interactions, part_queries
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import leave_one_out
from tests.baselines.random_logs import random_split

SEEDS = st.integers(0, 2**32 - 1)


def worst_ranks(scores, target, seen):
    """(unfiltered, filtered) by counting; scores by item, entry 0 is padding."""
    above = [i for i in range(1, len(scores)) if i != target and scores[i] >= scores[target]]
    return len(above), len([item for item in above if item not in seen])


def test_popularity_by_hand():
    rows = {"a": "1 2 3 9", "b": "1 2 4 3", "c": "1 5 1 2"}
    columns = [(user, int(item)) for user, items in rows.items() for item in items.split()]
    split = leave_one_out(InteractionLog.from_columns(*zip(*columns, strict=True)))
    counted, queries = counted_interactions(split), part_queries(split, "test")
    # Training counts: item 1 thrice, 2 twice, 5 once; 3, 4 and 9 are held out.
    assert [split.log.item_labels[i] for i in queries.target_ids] == [9, 3, 2]
    unfiltered, filtered = popularity.popularity_ranks(split.log, counted, queries)
    assert unfiltered.tolist() == [5, 5, 1]
    assert filtered.tolist() == [2, 2, 0]


@hypothesis.given(seed=SEEDS, part=st.sampled_from(["valid", "test"]))
@hypothesis.settings(max_examples=30)
def test_popularity_equals_the_slow_way(seed, part):
    split = random_split(seed)
    counted, queries = counted_interactions(split), part_queries(split, part)
    scores = np.bincount(counted.item_ids, minlength=split.log.num_items + 1)
    found = np.stack(popularity.popularity_ranks(split.log, counted, queries))
    for row, user in enumerate(queries.user_ids.tolist()):
        seen = set(split.log.items_of(user)[: queries.end_positions[row]].tolist())
        assert tuple(found[:, row]) == worst_ranks(scores, queries.target_ids[row], seen)


@hypothesis.given(seed=SEEDS, share=st.sampled_from([0.05, 0.3, 1.0]))
@hypothesis.settings(max_examples=30)
def test_recent_popularity_equals_the_slow_way(seed, share):
    """So few interactions that the window moves one at a time."""
    split = random_split(seed)
    counted, queries = counted_interactions(split), part_queries(split, "test")
    by_time = sorted(range(len(counted.item_ids)), key=lambda row: counted.times[row])  # stable
    window = max(1, round(share * len(by_time)))
    found = popularity.recent_popularity_ranks(split.log, counted, queries, share=share)
    for row, user in enumerate(queries.user_ids.tolist()):
        before = [i for i in by_time if counted.times[i] < queries.times[row]][-window:]
        scores = np.bincount(counted.item_ids[before], minlength=split.log.num_items + 1)
        seen = set(split.log.items_of(user)[: queries.end_positions[row]].tolist())
        expected = worst_ranks(scores, queries.target_ids[row], seen)
        assert (found[0][row], found[1][row]) == expected


def test_recent_popularity_never_looks_ahead(monkeypatch):
    """In coarse steps too: other items after a query's time change nothing."""
    monkeypatch.setattr(popularity, "_STEPS_PER_WINDOW", 2)
    split = random_split(3, users=200)
    counted, queries = counted_interactions(split), part_queries(split, "test")
    whole = popularity.recent_popularity_ranks(split.log, counted, queries)
    instant = int(np.median(queries.times))
    later = counted.times >= instant
    assert later.any()
    changed = counted._replace(item_ids=np.where(later, 1, counted.item_ids))
    found = popularity.recent_popularity_ranks(split.log, changed, queries)
    early = queries.times <= instant
    assert early.sum() > 10
    np.testing.assert_array_equal(np.stack(found)[:, early], np.stack(whole)[:, early])
    assert (found[0] != whole[0]).any()


def test_nothing_before_the_first_query_ties_all_items():
    split = random_split(5)
    counted, queries = counted_interactions(split), part_queries(split, "test")
    found = popularity.recent_popularity_ranks(
        split.log, counted, queries._replace(times=np.zeros_like(queries.times))
    )
    assert set(found[0].tolist()) == {split.log.num_items - 1}
    assert popularity.RECENT_SHARE == pytest.approx(0.05)
