"""Distinct values and stable orders: equal to NumPy's plain ones, whichever way they are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raserec_jax.data import sorting
from raserec_jax.data.sorting import distinct, group_text, present, stable_order

words = st.text("ab\u00e9", min_size=1, max_size=12).map(lambda text: text.encode())
wide = st.integers(-(2**63), 2**63 - 1)
columns = st.one_of(
    st.lists(words, max_size=30).map(lambda ids: np.array(ids, "S80")),
    st.lists(words, min_size=1, max_size=30).map(np.array),
    st.lists(st.text(max_size=3).filter(lambda text: "\0" not in text), max_size=9).map(
        lambda ids: np.array(ids, np.str_)
    ),
    st.lists(wide, max_size=30).map(lambda ids: np.array(ids, np.int64)),
    st.lists(st.integers(-5, 5), max_size=30).map(lambda ids: np.array(ids, np.int64)),
)


@given(columns)
def test_distinct_is_unique(values):
    labels, codes = distinct(values)
    expected_labels, expected_codes = np.unique(values, return_inverse=True)
    assert labels.tolist() == expected_labels.tolist()
    assert labels.dtype.kind == values.dtype.kind
    assert codes.tolist() == expected_codes.tolist()
    assert codes.dtype == np.int32


@given(st.lists(words, min_size=1, max_size=30))
def test_groups_are_those_of_equal_text(values):
    labels, codes = group_text(np.array(values))
    assert labels[codes].tolist() == values
    assert len(set(labels.tolist())) == len(labels)


@pytest.mark.parametrize("multiplier", [0, 1, 2**63])
def test_texts_with_one_hash_are_told_apart(monkeypatch, multiplier):
    monkeypatch.setattr(sorting, "_MIX", np.uint64(multiplier))
    values = np.array([f"{n:08}{7 - n:08}".encode() for n in (3, 1, 3, 0)] + [b"x", b"x"] * 2)
    labels, codes = distinct(values)
    assert labels[codes].tolist() == values.tolist()
    assert labels.tolist() == sorted(set(values.tolist()))


def test_present():
    labels, codes = present(np.array([7, 2, 7], np.int32), 9)
    assert (labels.tolist(), codes.tolist(), codes.dtype) == ([2, 7], [1, 0, 1], np.int32)


keys = st.one_of(
    st.none(),
    st.lists(st.integers(0, 3), min_size=20, max_size=20),
    st.lists(wide, min_size=20, max_size=20),
    st.lists(st.floats(-1e300, 1e300), min_size=20, max_size=20),
)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), keys)
def test_stable_order_is_lexsort(codes, keys):
    codes = np.array(codes, np.int32)
    keys = None if keys is None else np.array(keys[: codes.size])
    order = stable_order(codes, keys)
    expected = np.lexsort((codes,) if keys is None else (keys, codes))
    found = np.arange(codes.size) if order is None else order
    assert found.tolist() == expected.tolist()
    assert (order is None) == (expected.tolist() == list(range(codes.size)))
