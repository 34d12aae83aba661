"""Neighbour tables against brute force."""

import numpy as np
import pytest

from raserec_jax.errors import ConfigError
from raserec_jax.semantic import neighbors
from raserec_jax.semantic.neighbors import history_neighbors, item_neighbors, nearest_rows
from raserec_jax.semantic.piece_cache import PieceCache
from raserec_jax.semantic.ready_vectors import unit

DRAW = np.random.default_rng(0)
VECTORS = unit(DRAW.normal(size=(70, 6))).astype(np.float16)
VECTORS[[0, 9, 33]] = 0
VECTORS[20:26] = VECTORS[20]  # equal texts


def brute_force(vectors, may_see, top_k):
    rows = unit(vectors)
    cosines = rows @ rows.T
    real = np.any(vectors != 0, axis=1)
    cosines[~(may_see & real[None] & real[:, None])] = -np.inf
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :top_k]
    return np.where(np.take_along_axis(cosines, ids, axis=1) > -np.inf, ids, -1), cosines


def same_neighbors(found, expected, cosines):
    """Ids may differ only where cosines are equal."""
    assert np.array_equal(found == -1, expected == -1)
    rows = np.arange(len(found))[:, None]
    assert np.allclose(
        np.where(found < 0, 0, cosines[rows, found]),
        np.where(expected < 0, 0, cosines[rows, expected]),
        atol=1e-5,
    )
    for row in found:
        assert len(set(row[row >= 0])) == np.sum(row >= 0)


def test_items_see_all_but_themselves():
    found = item_neighbors(VECTORS, 4)
    expected, cosines = brute_force(VECTORS, ~np.eye(70, dtype=bool), 4)
    same_neighbors(found, expected, cosines)
    assert found.dtype == np.int32
    assert np.all(found[[0, 9, 33]] == -1)
    assert not np.isin(found, [0, 9, 33]).any()
    assert not np.any(found == np.arange(70)[:, None])
    assert found[25].tolist() == [20, 21, 22, 23]  # the lower row first


@pytest.mark.parametrize("own", [False, True])
def test_histories_of_the_same_user_are_left_out_unless_asked_for(own):
    users = np.arange(70, dtype=np.int32) // 7
    found = history_neighbors(VECTORS, users, 50, 5, own_histories=own)
    may_see = ~np.eye(70, dtype=bool) if own else users[:, None] != users[None]
    expected, cosines = brute_force(VECTORS, may_see, 5)
    same_neighbors(found, expected[:50], cosines)
    assert found.max() >= 50  # the pool is larger than the queries


def test_fewer_rows_than_neighbours():
    found = item_neighbors(np.eye(3, dtype=np.float16), 5)
    assert (found >= 0).sum(axis=1).tolist() == [2, 2, 2]
    assert np.all(item_neighbors(np.zeros((3, 2), np.float16), 2) == -1)
    alone = np.zeros((3, 2), np.float16)
    alone[1] = 1
    assert np.all(item_neighbors(alone, 2) == -1)
    with pytest.raises(ConfigError, match="top_k=0 is too small"):
        item_neighbors(VECTORS, 0)


def test_a_search_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbors, "_QUERIES", 20)
    whole = item_neighbors(VECTORS, 3)
    pieces = PieceCache(tmp_path / "p", "k" * 64)
    write, written = pieces.write, []

    def stopping(number, array):
        write(number, array)
        written.append(number)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(pieces, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        nearest_rows(VECTORS, np.arange(70), queries=70, top_k=3, pieces=pieces)
    monkeypatch.setattr(
        pieces, "write", lambda number, array: (write(number, array), written.append(number))
    )
    found = nearest_rows(VECTORS, np.arange(70), queries=70, top_k=3, pieces=pieces)
    assert np.array_equal(found, whole)
    assert written == [0, 20, 40, 60]
    pieces.clear()
    assert not (tmp_path / "p").exists()


def test_pieces_of_another_key_and_damaged_ones_are_not_read(tmp_path):
    pieces = PieceCache(tmp_path, "a" * 64)
    pieces.write(3, np.arange(4))
    assert pieces.read(3).tolist() == [0, 1, 2, 3]
    assert PieceCache(tmp_path, "b" * 64).read(3) is None
    (path,) = tmp_path.rglob("*.piece")
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    assert pieces.read(3) is None
    PieceCache(tmp_path, "b" * 64).write(0, np.arange(2))
    assert [p.name for p in tmp_path.rglob("*.piece")] == ["000000000.piece"]
