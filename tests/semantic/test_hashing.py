"""The encoder without a model."""

import hashlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from raserec_jax.errors import ConfigError
from raserec_jax.semantic.encoders import Encoder, identity_key
from raserec_jax.semantic.hashing import HashingEncoder

CATALOGUE = [
    "OPI nail lacquer red",
    "OPI nail lacquer blue",
    "green tea, loose leaves",
    "black tea bags",
    "shampoo for dry hair",
]
ENCODER = HashingEncoder(CATALOGUE, width=256)


def test_like_texts_are_near():
    vectors = ENCODER.encode(["nail lacquer", "Nail LACQUER!", "nail lacquers", *CATALOGUE])
    cosines = vectors @ vectors.T
    assert np.allclose(cosines[0, 1], 1, atol=1e-6)
    assert cosines[0, 2] > 0.3  # the spelling of another form
    assert cosines[0, 3:5].min() > 0.5
    assert np.abs(cosines[0, 5:]).max() < 0.2


def test_rare_words_weigh_more():
    encoder = HashingEncoder(["OPI", "OPI a", "OPI b", "OPI leaves"], width=4096)
    both, rare, common = encoder.encode(["OPI leaves", "leaves", "OPI"])
    assert both @ rare > both @ common


def test_products_of_hashed_vectors_are_those_of_words():
    """Signed hashing keeps inner products without bias: over many pairs without a common word they average to 0."""
    texts = [f"word{i} term{i}" for i in range(200)]
    encoder = HashingEncoder(texts, width=64, char_ngrams=())
    vectors = encoder.encode(texts)
    cosines = (vectors @ vectors.T)[~np.eye(200, dtype=bool)]
    assert abs(cosines.mean()) < 0.01
    assert cosines.std() < 1.3 / 8  # about 1 / sqrt(width)


def test_vectors_are_the_same_on_every_machine():
    found = np.round(ENCODER.encode(CATALOGUE) * 1000).astype(np.int32)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "7dd1421e70c62910"


@hypothesis.given(st.lists(st.text(), max_size=5))
def test_any_text_has_a_unit_vector_or_none(texts):
    vectors = ENCODER.encode(texts)
    assert vectors.shape == (len(texts), 256)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
    one_by_one = [ENCODER.encode([text])[0] for text in texts]
    assert np.allclose(vectors, np.array(one_by_one).reshape(vectors.shape), atol=1e-6)


def test_more_texts_than_a_chunk():
    texts = [f"item number {i}" for i in range(1100)]
    vectors = ENCODER.encode(texts)
    assert np.allclose(vectors[[0, 600, 1099]], ENCODER.encode([texts[0], texts[600], texts[1099]]))


def test_digest_covers_settings_and_catalogue():
    others = [
        HashingEncoder(CATALOGUE, width=128),
        HashingEncoder(CATALOGUE[1:], width=256),
        HashingEncoder(CATALOGUE, width=256, char_weight=0.5),
    ]
    keys = {identity_key(encoder) for encoder in (ENCODER, *others)}
    assert len(keys) == 4
    assert identity_key(HashingEncoder(list(reversed(CATALOGUE)), width=256)) in keys
    assert isinstance(ENCODER, Encoder)


@pytest.mark.parametrize("settings", [{"width": 4}, {"word_ngrams": (), "char_ngrams": ()}])
def test_useless_settings_are_refused(settings):
    with pytest.raises(ConfigError, match="the width must be at least 8, and some n-grams given"):
        HashingEncoder(CATALOGUE, **settings)
