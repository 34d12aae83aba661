"""Columns in pieces: as if they had come whole."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data import collecting
from raserec_jax.data.collecting import IdCollector, NumberCollector
from raserec_jax.data.labels import densify

integers = st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 3), max_size=6).map(
    lambda ids: np.array(ids, np.int64)
)
texts = st.lists(
    st.sampled_from(["1", "2", "01", "a", "ab", "\u00e9", "x" * 30]), min_size=1, max_size=6
).map(lambda ids: np.array([text.encode() for text in ids]))
pieces = st.lists(integers | texts, min_size=1, max_size=6)


def names(piece):
    return [value.decode() if isinstance(value, bytes) else str(value) for value in piece.tolist()]


@given(pieces, st.sampled_from([1, 2**27]))
def test_ids_are_numbered_as_if_whole(parts, merge_at):
    collector = IdCollector("item")
    collector._merge_at = merge_at  # the smaller merges after every piece
    for part in parts:
        collector.add(part)
    codes, labels = collector.finish()
    expected_codes, expected_labels = densify(
        [name for part in parts for name in names(part)], "item"
    )
    assert codes.tolist() == expected_codes.tolist()
    assert labels.tolist() == expected_labels.tolist()
    assert codes.dtype == np.int32


def test_labels_in_wait_stay_few(monkeypatch):
    monkeypatch.setattr(collecting, "_PENDING_BYTES", 1000)
    collector = IdCollector("user")
    for _ in range(200):
        collector.add(np.array([b"a", b"b", b"c"]))
        assert sum(labels.nbytes for labels in collector._labels) <= 3000
    codes, labels = collector.finish()
    assert (labels.tolist(), codes.tolist()) == (["a", "b", "c"], [0, 1, 2] * 200)


def test_numbers():
    collector = NumberCollector()
    for piece in (np.array([2**60 + 1, 2]), np.array([]), np.array([3.0, 4.0])):
        collector.add(piece)
    whole = collector.finish()
    assert (whole.dtype, whole.tolist()) == (np.int64, [2**60 + 1, 2, 3, 4])
    collector.add(np.array([1, 2]))
    collector.add(np.array([0.5]))
    assert collector.finish().tolist() == [1.0, 2.0, 0.5]
