"""Original ids <-> dense ids."""

import numpy as np
import pytest

from raserec_jax.data.labels import LabelIndex, as_names, densify


@pytest.mark.parametrize(
    ("values", "codes", "labels"),
    [
        ([10, 9, 10], [1, 0, 1], [9, 10]),
        (["10", "9", "10"], [1, 0, 1], [9, 10]),  # as numbers: 9 before 10
        ([b"10", b"-9"], [1, 0], [-9, 10]),
        (["10", "9", "x"], [0, 1, 2], ["10", "9", "x"]),  # as text: 10 before 9
        (["1", "01"], [1, 0], ["01", "1"]),
        (["1", "+1", "1.0", "1_0"], [1, 0, 2, 3], ["+1", "1", "1.0", "1_0"]),
        (["-0", "0"], [0, 1], ["-0", "0"]),
        (["1", "\u0661"], [0, 1], ["1", "\u0661"]),  # an Arabic 1 is another name
        ([2**63 - 1, -(2**63)], [1, 0], [-(2**63), 2**63 - 1]),
        (np.array([2**64 - 1, 3], np.uint64), [0, 1], ["18446744073709551615", "3"]),
        ([10**30, 1], [1, 0], ["1", str(10**30)]),
        (np.array([1, "a"], object), [0, 1], ["1", "a"]),
        ([b"\xc3\xa9", b"z"], [1, 0], ["z", "é"]),
        (np.array([5, 4], np.uint8), [1, 0], [4, 5]),
    ],
)
def test_densify(values, codes, labels):
    found_codes, found_labels = densify(values, "item")
    assert found_labels.tolist() == labels
    assert found_codes.tolist() == codes
    assert found_codes.dtype == np.int32
    assert found_labels.dtype == np.int64 or found_labels.dtype.kind == "U"
    assert LabelIndex(found_labels).find(values, "item").tolist() == codes


def test_names_and_unknown_labels():
    assert as_names([1, 2], "item").tolist() == as_names(["1", "2"], "item").tolist()
    assert LabelIndex(np.array(["a"])).find(["", "b", "a"], "item").tolist() == [-1, -1, 0]
    assert LabelIndex(np.zeros(0, np.int64)).find([3], "item").tolist() == [-1]
