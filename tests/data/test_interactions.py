"""InteractionLog: order, ids, statistics, fingerprint; each by hand or as a property."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import DataError

USERS = ["b", "a", "b", "a", "b"]
ITEMS = [30, 9, 7, 30, 9]


def small_log(**columns):
    return InteractionLog.from_columns(USERS, ITEMS, **columns)


def sequences(log):
    """Original items of each original user, oldest first."""
    return {
        label: log.labels_of(log.items_of(user)).tolist()
        for user, label in enumerate(log.user_labels.tolist())
    }


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, {"a": [9, 30], "b": [30, 7, 9]}),
        ({"timestamp": [3, 2, 1, 1, 2]}, {"a": [30, 9], "b": [7, 9, 30]}),
        ({"timestamp": [1, 1, 1, 1, 0]}, {"a": [9, 30], "b": [9, 30, 7]}),  # ties: rows' order
        ({"position": [2, 1, 1, 0, 0], "timestamp": [0] * 5}, {"a": [30, 9], "b": [9, 7, 30]}),
        ({"position": [0.5, 1, 0.25, 2, -1]}, {"a": [9, 30], "b": [9, 7, 30]}),
    ],
    ids=["rows", "time", "time_ties", "position_wins", "fractions"],
)
def test_order_within_a_user(columns, expected):
    assert sequences(small_log(**columns)) == expected


def test_arrays_by_hand():
    log = small_log(timestamp=[5, 5, 7, 9, 7])
    assert log.user_ids.tolist() == [0, 0, 1, 1, 1]
    assert log.item_ids.tolist() == [2, 3, 3, 1, 2]
    assert log.item_labels.tolist() == [0, 7, 9, 30]
    assert log.user_labels.tolist() == ["a", "b"]
    assert log.timestamps.tolist() == [5, 9, 5, 7, 7]
    assert log.time_ranks.tolist() == [0, 2, 0, 1, 1]
    assert log.offsets.tolist() == [0, 2, 5]
    assert log.lengths.tolist() == [2, 3]
    assert (log.num_users, log.num_items, log.num_interactions) == (2, 3, 5)
    assert log.user_ids.dtype == log.item_ids.dtype == log.time_ranks.dtype == np.int32
    assert log.offsets.dtype == log.timestamps.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        log.item_ids[0] = 1


def test_statistics_by_hand():
    # Neighbours: a has 1 pair (5, 9), b has 2 pairs (5, 7), (7, 7): one tie of three.
    assert small_log(timestamp=[5, 5, 7, 9, 7]).statistics() == {
        "users": 2,
        "items": 3,
        "interactions": 5,
        "average_length": 2.5,
        "sparsity": pytest.approx(1 - 5 / 6),
        "tie_share": pytest.approx(1 / 3),
    }
    assert small_log().statistics()["tie_share"] is None
    assert small_log().time_ranks is None
    lonely = InteractionLog.from_columns([1, 2], [1, 2], timestamp=[1, 1])
    assert lonely.statistics()["tie_share"] == 0.0


def test_times_keep_fractions_and_drop_needless_ones():
    assert small_log(timestamp=[1.0, 2.0, 3.0, 4.0, 5.0]).timestamps.dtype == np.int64
    assert small_log(timestamp=[1.5, 2.0, 3.0, 4.0, 5.0]).timestamps.dtype == np.float64
    assert small_log(timestamp=np.arange(5, dtype=np.uint32)).timestamps.dtype == np.int64


def test_ids_both_ways_by_hand():
    log = small_log()
    assert log.item_id_of(9) == log.item_id_of("9") == 2
    assert [log.item_id_of(label) for label in (0, 8, "09", "x", "")] == [None] * 5
    assert log.user_id_of("a") == 0
    assert log.user_id_of("c") is None
    assert log.item_ids_of(["30", "31", "7"]).tolist() == [3, 0, 1]
    assert log.item_ids_of([]).tolist() == []
    assert log.user_ids_of(np.array(["b", "z"])).tolist() == [1, -1]
    assert log.labels_of([[3, 0]]).tolist() == [[30, 0]]
    assert InteractionLog.from_columns(["x"], ["y"]).labels_of([1, 0]).tolist() == ["y", ""]
    for wrong in ([4], [-1]):
        with pytest.raises(DataError, match=r"outside 0\.\.3 of log"):
            log.labels_of(wrong)


def test_select_makes_ids_dense():
    log = small_log(timestamp=[5, 6, 7, 8, 9]).select(np.array([False, True, False, True, True]))
    assert sequences(log) == {"a": [30], "b": [7, 9]}
    assert log.item_ids.tolist() == [3, 1, 2]
    only_b = log.select(log.user_ids == 1)
    assert (only_b.user_labels.tolist(), only_b.item_labels.tolist()) == (["b"], [0, 7, 9])
    assert only_b.user_ids.tolist() == [0, 0]
    with pytest.raises(DataError, match="none of its 3 interactions is left"):
        log.select(np.zeros(3, bool))


labels = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(min_size=1, max_size=5))
plain_labels = labels.filter(lambda label: "\0" not in str(label))  # NumPy strips them at the end
rows = st.lists(st.tuples(plain_labels, plain_labels, st.integers(0, 9)), min_size=1, max_size=30)


@settings(max_examples=40)
@given(rows, st.randoms(use_true_random=False))
def test_ids_round_trip_and_fingerprint_ignores_row_order(table, random):
    # The same spelling names the same user, whether it came as an integer or a string.
    order = {}
    for user, _, _ in table:
        order[str(user)] = order.get(str(user), 0) + 1
    positions, seen = [], {}
    for user, _, _ in table:
        positions.append(seen.get(str(user), 0))
        seen[str(user)] = positions[-1] + 1
    log = from_rows([(*row, position) for row, position in zip(table, positions, strict=True)])
    shuffled = [(*row, position) for row, position in zip(table, positions, strict=True)]
    random.shuffle(shuffled)
    assert from_rows(shuffled).fingerprint() == log.fingerprint()

    expected = {}
    for user, item, _ in table:
        expected.setdefault(str(user), []).append(str(item))
    assert {str(u): list(map(str, i)) for u, i in sequences(log).items()} == expected
    for dense, label in enumerate(log.item_labels[1:].tolist(), start=1):
        assert log.item_id_of(label) == log.item_id_of(str(label)) == dense
    for dense, label in enumerate(log.user_labels.tolist()):
        assert log.user_id_of(label) == dense
    assert log.item_labels[1:].tolist() == sorted(log.item_labels[1:].tolist())


def from_rows(table):
    users, items, times, positions = zip(*table, strict=True)
    return InteractionLog.from_columns(
        [str(user) for user in users],
        [str(item) for item in items],
        position=positions,
        timestamp=times,
    )


def test_fingerprint_tells_contents_apart():
    logs = [
        small_log(),
        small_log(timestamp=[1, 2, 3, 4, 5]),
        small_log(timestamp=[1, 2, 3, 4, 6]),
        small_log(timestamp=[1.5, 2, 3, 4, 5]),
        small_log(position=[5, 4, 3, 2, 1]),
        InteractionLog.from_columns(["c", "a", "c", "a", "c"], ITEMS),
        InteractionLog.from_columns(USERS, [30, 8, 7, 30, 8]),
        InteractionLog.from_columns(USERS, ["x30", "x9", "x7", "x30", "x9"]),
    ]
    assert len({log.fingerprint() for log in logs}) == len(logs)
    renamed = dataclasses.replace(logs[0], name="other")
    assert renamed.fingerprint() == logs[0].fingerprint()
    # What filtering leaves must not depend on how long the dropped labels were.
    log = InteractionLog.from_columns(["a", "bbbbbb"], ["c", "dddddd"])
    alone = InteractionLog.from_columns(["a"], ["c"])
    assert log.select(log.user_ids == 0).fingerprint() == alone.fingerprint()


@pytest.mark.parametrize(
    ("users", "items", "columns", "message"),
    [
        ([], [], {}, "log: no interactions"),
        ([1, 2], [1], {}, "1 items for 2 users"),
        ([1, 2], [1, 2], {"timestamp": [1]}, "1 timestamps for 2 users"),
        ([1, 2], [1, 2], {"position": [1], "timestamp": [1, 2]}, "1 positions for 2 users"),
        ([1.0], [1], {}, "user ids must be integers or strings, got float64"),
        ([1], [None], {}, "item ids must be integers or strings, got None"),
        ([True], [1], {}, "user ids must be integers or strings, got bool"),
        ([[1, 2]], [1], {}, r"user ids must be one flat column, got shape \(1, 2\)"),
        ([[1, 2], [1]], [1], {}, "user ids must be one flat column, got nested lists"),
        (["a", ""], [1, 2], {}, "empty user id"),
        (["a"], [b"\xff"], {}, "is not UTF-8"),
        ([1], [1], {"timestamp": ["2014"]}, "timestamp: expected one flat column of numbers"),
        ([1], [1], {"timestamp": [float("nan")]}, "timestamp: nan in row 0, expected a finite"),
        ([1, 1], [1, 2], {"timestamp": [0.5, float("inf")]}, "timestamp: inf in row 1"),
        ([1], [1], {"position": [2.0**63]}, "expected a finite number below"),
        ([1], [1], {"timestamp": np.array([2**63], np.uint64)}, "expected a finite number below"),
    ],
)
def test_bad_columns(users, items, columns, message):
    with pytest.raises(DataError, match=message):
        InteractionLog.from_columns(users, items, **columns)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("user_ids", np.zeros(0, np.int32), "flat columns of one length"),
        ("item_ids", np.ones(4, np.int32), "flat columns of one length"),
        ("user_ids", np.array([0, 0, 1, 1, 1], np.int64), "must be int32"),
        ("user_ids", np.array([0, 1, 0, 1, 1], np.int32), r"sorted and within 0\.\.1"),
        ("user_ids", np.array([0, 0, 1, 1, 2], np.int32), r"sorted and within 0\.\.1"),
        ("item_ids", np.array([0, 1, 2, 3, 3], np.int32), r"within 1\.\.3: 0 is padding"),
        ("item_ids", np.array([1, 1, 2, 3, 4], np.int32), r"within 1\.\.3: 0 is padding"),
        ("timestamps", np.array([1, 2, 3, 4, np.nan]), "timestamps must be finite"),
        ("timestamps", np.array([1]), "timestamps must be finite"),
        ("user_labels", np.array(["b", "a"]), "user_labels must be increasing"),
        ("user_labels", np.array([0.5, 1.5]), "user_labels must be increasing"),
        ("item_labels", np.array(7), "must be flat"),
        ("item_labels", np.zeros(0, np.int64), "must be flat"),
        ("item_labels", np.array([0, 7, 7, 9]), "item_labels must be increasing"),
    ],
)
def test_invalid_arrays(field, value, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(small_log(), **{field: value})
