"""Saved neighbours come back bit for bit, or not at all."""

import numpy as np
import pytest

from raserec_jax.errors import CheckpointError
from raserec_jax.retrieval.retrieved import Retrieved, load_retrieved, masked, save_retrieved

IDS = np.array([[3, 1, 7], [2, 5, 5]], np.int32)
SCORES = np.array([[0.9, 0.5, -np.inf], [0.1, -np.inf, -np.inf]], np.float32)
FOUND = masked(IDS, SCORES, SCORES > -np.inf)


def test_masked_puts_the_agreed_values_where_nothing_was_found():
    np.testing.assert_array_equal(FOUND.ids, [[3, 1, -1], [2, -1, -1]])
    np.testing.assert_array_equal(FOUND.scores, np.array([[0.9, 0.5, 0], [0.1, 0, 0]], np.float32))
    np.testing.assert_array_equal(FOUND.mask, [[True, True, False], [True, False, False]])


@pytest.mark.parametrize("found", [FOUND, masked(IDS[:0], SCORES[:0], SCORES[:0] > 0)])
def test_save_and_load(tmp_path, found):
    path = tmp_path / "neighbors.npz"
    for _ in range(2):  # the second replaces the first
        save_retrieved(path, found, bank_fingerprint="abc")
    for loaded in (load_retrieved(path), load_retrieved(path, bank_fingerprint="abc")):
        for name in Retrieved._fields:
            value = getattr(loaded, name)
            np.testing.assert_array_equal(value, getattr(found, name))
            assert value.dtype == getattr(found, name).dtype
    assert [child.name for child in tmp_path.iterdir()] == ["neighbors.npz"]


def test_neighbours_of_another_bank_are_refused(tmp_path):
    save_retrieved(tmp_path / "n.npz", FOUND, bank_fingerprint="abc")
    with pytest.raises(
        CheckpointError, match="found in bank abc but the bank in use is def; search the bank again"
    ):
        load_retrieved(tmp_path / "n.npz", bank_fingerprint="def")


def test_no_flipped_bit_changes_a_neighbour_silently(tmp_path):
    path = tmp_path / "n.npz"
    save_retrieved(path, FOUND, bank_fingerprint="abc")
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            loaded = load_retrieved(path, bank_fingerprint="abc")
        except CheckpointError:
            refused += 1
            continue
        for name in Retrieved._fields:
            np.testing.assert_array_equal(getattr(loaded, name), getattr(FOUND, name))
    assert refused > len(content) / 6  # the others are dates and the like


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY" + bytes(100), bytes(1000)])
def test_what_is_no_file_of_neighbours_is_refused(tmp_path, content):
    path = tmp_path / "n.npz"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match="n.npz: damaged, or no file of neighbours; search the bank again"
    ):
        load_retrieved(path)


def test_truncated_absent_compressed_and_ill_typed_files(tmp_path):
    path = tmp_path / "n.npz"
    save_retrieved(path, FOUND)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="damaged, or no file of neighbours"):
        load_retrieved(path)
    with pytest.raises(CheckpointError, match="absent.npz: cannot be read"):
        load_retrieved(tmp_path / "absent.npz")
    fingerprint = np.zeros(0, np.uint8)
    np.savez_compressed(path, **FOUND._asdict(), bank_fingerprint=fingerprint)
    with pytest.raises(CheckpointError, match="damaged, or no file of neighbours"):
        load_retrieved(path)
    for wrong in ({"ids": IDS.astype(np.int64)}, {"ids": IDS[:1]}, {"mask": np.ones(2)}):
        np.savez(path, **(FOUND._asdict() | wrong), bank_fingerprint=fingerprint)
        with pytest.raises(CheckpointError, match="n.npz: no file of neighbours"):
            load_retrieved(path)


def test_objects_are_never_unpickled(tmp_path):
    objects = np.array([[1, 2]], object)
    np.savez(
        tmp_path / "n.npz",
        ids=objects,
        scores=objects,
        mask=objects,
        bank_fingerprint=np.zeros(0, np.uint8),
    )
    with pytest.raises(CheckpointError, match="damaged, or no file of neighbours"):
        load_retrieved(tmp_path / "n.npz")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="n.npz: the neighbours cannot be written"):
        save_retrieved(tmp_path / "absent" / "n.npz", FOUND)
