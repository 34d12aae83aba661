"""Vectors made elsewhere."""

import numpy as np
import pytest

from raserec_jax.errors import DataError
from raserec_jax.semantic.ready_vectors import read_vectors
from tests.semantic.small_text import ITEMS, small_split

LOG = small_split().log


def write(tmp_path, vectors, ids):
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    return tmp_path / "v.npy", tmp_path / "ids.txt"


def test_vectors_come_in_the_order_of_the_log(tmp_path):
    found = read_vectors(
        *write(tmp_path, np.array([[3.0, 4], [0, 2], [9, 9]]), ["i05", "i02", "z"]), LOG
    )
    expected = np.zeros((ITEMS + 1, 2))
    expected[5], expected[2] = (0.6, 0.8), (0, 1)
    assert np.allclose(found, expected, atol=1e-3)
    assert found.dtype == np.float16


@pytest.mark.parametrize(
    ("vectors", "ids", "words"),
    [
        (np.ones((2, 3)), ["i01"], "1 ids for the 2 vectors"),
        (np.ones((2, 3)), ["x", "y"], "vectors of another item set: none of its 2 ids"),
        (np.ones((3, 3)), ["i01", "i02", "i01"], "line 3: item 'i01' occurs twice"),
        (np.array([[1.0], [np.inf]]), ["i01", "i02"], "row 1: a vector with NaN or infinity"),
        (np.ones((2, 3), np.int64), ["i01", "i02"], r"int64 of shape \(2, 3\), expected floats"),
        (np.ones(2), ["i01", "i02"], r"of shape \(2,\), expected floats of shape \[rows, width\]"),
    ],
)
def test_unusable_vectors_are_refused(tmp_path, vectors, ids, words):
    with pytest.raises(DataError, match=words):
        read_vectors(*write(tmp_path, vectors, ids), LOG)


def test_damaged_files_are_refused(tmp_path):
    path, ids = write(tmp_path, np.ones((2, 3)), ["i01", "i02"])
    content = path.read_bytes()
    for damaged, words in (
        (content[:-8], "its header says 176"),
        (content.replace(b"(2, 3)", b"(9**9, 3)"[:6]), "not an .npy file|header says"),
        (b"PK\3\4 a zip", "not an .npy file of numbers"),
        (b"", "not an .npy file of numbers"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=words):
            read_vectors(path, ids, LOG)
    with pytest.raises(DataError, match="No such file"):
        read_vectors(tmp_path / "none.npy", ids, LOG)


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "v.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    (tmp_path / "ids.txt").write_text("i01\ni02\n")
    with pytest.raises(DataError, match="object of shape .* expected floats"):
        read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", LOG)
