"""Vectors on disk: each text once, ever."""

import json

import numpy as np
import pytest

from raserec_jax.errors import DataError
from raserec_jax.semantic.vector_cache import VectorCache


class CountingEncoder:
    """The vector of a text is its length and the number of its a's; stops after `limit` texts."""

    name, revision, width = "models/counting v2", "r1", 2

    def __init__(self, digest="d1", limit=10**9):
        self.digest, self.limit, self.seen = digest, limit, []

    def encode(self, texts):
        if len(self.seen) + len(texts) > self.limit:
            raise KeyboardInterrupt
        self.seen += texts
        return np.array([[len(text), text.count("a")] for text in texts], np.float32)


TEXTS = ["a", "banana", "", "kiwi", "a", "papaya"]
EXPECTED = [[1, 1], [6, 3], [0, 0], [4, 0], [1, 1], [6, 3]]


def encode(tmp_path, encoder, texts=TEXTS, piece=2):
    return VectorCache(tmp_path, encoder).encode(texts, "vectors", piece=piece)


def test_each_distinct_text_is_encoded_once(tmp_path):
    encoder = CountingEncoder()
    assert encode(tmp_path, encoder).tolist() == EXPECTED
    assert sorted(encoder.seen) == ["a", "banana", "kiwi", "papaya"]
    again = CountingEncoder()
    found = encode(tmp_path, again, ["papaya", "new", "a"])
    assert found.tolist() == [[6, 3], [3, 0], [1, 1]]
    assert found.dtype == np.float16
    assert again.seen == ["new"]


def test_an_interrupted_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path, CountingEncoder(limit=2))
    later = CountingEncoder()
    assert encode(tmp_path, later).tolist() == EXPECTED
    assert len(later.seen) == 2


def test_damaged_pieces_are_encoded_again(tmp_path, caplog):
    encode(tmp_path, CountingEncoder())
    first, second = sorted(tmp_path.rglob("*.npy"))
    first.write_bytes(first.read_bytes()[:-1] + b"\1")
    later = CountingEncoder()
    assert encode(tmp_path, later).tolist() == EXPECTED
    assert len(later.seen) == 2
    assert "is damaged; its texts are encoded again" in caplog.text
    assert second.exists()


def test_another_digest_has_vectors_of_its_own(tmp_path):
    encode(tmp_path, CountingEncoder())
    other = CountingEncoder(digest="d2")
    encode(tmp_path, other)
    assert len(other.seen) == 4
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_of_another_encoder_is_refused(tmp_path):
    cache = VectorCache(tmp_path, CountingEncoder())
    path = cache.folder / "encoder.json"
    path.write_text(json.dumps({"name": "other"}))
    with pytest.raises(DataError, match="not the record of the encoder models/counting v2"):
        VectorCache(tmp_path, CountingEncoder())


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    encoder = CountingEncoder()
    encoder.encode = lambda texts: np.full((len(texts), 2), np.nan)
    with pytest.raises(DataError, match="not finite for the text 'banana'"):
        encode(tmp_path, encoder)
