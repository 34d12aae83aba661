"""HashingEncoder: vectors from words and character n-grams alone, with no model and nothing to download.

Signed feature hashing (Weinberger et al. 2009, arXiv 0902.2206) of words, runs of words and character n-grams, each
weighted by (1 + log count) * idf, summed and scaled to length 1. The idf comes from the catalogue's own texts. A floor
for models of language, and what tests run on. Same texts, same vectors, on every machine.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from raserec_jax.errors import ConfigError

_WORD = re.compile(r"\w+")
_LONGEST_WORD = 40  # characters; what is longer is no word
_BUCKETS = 2**18  # of features, for the idf
_CHUNK = 512  # texts whose features are in memory at a time
_MULTIPLIERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))


class HashingEncoder:
    """Texts -> unit vectors; an `encoders.Encoder`.

    Attributes:
      width: of the vectors.
      name, revision, digest: what made a vector; the digest covers the settings and the idf.
    """

    revision = "1"

    def __init__(
        self,
        fitted_on: Sequence[str],
        *,
        width: int = 384,
        char_ngrams: Sequence[int] = (3, 4),
        word_ngrams: Sequence[int] = (1, 2),
        char_weight: float = 0.3,
    ):
        """Learns the idf.

        Args:
          fitted_on: texts of the catalogue; empty ones are ignored.
          width: of the vectors, 8 or more.
          char_ngrams: lengths of n-grams within a word and its borders; none: words only.
          word_ngrams: lengths of runs of words.
          char_weight: of character n-grams against words: those find spellings, words find topics.

        Raises:
          ConfigError: a width below 8, or no n-grams at all.
        """
        if width < 8 or not (word_ngrams or char_ngrams):
            raise ConfigError(
                f"hashing encoder of width {width} with word n-grams {tuple(word_ngrams)} and character n-grams "
                f"{tuple(char_ngrams)}; the width must be at least 8, and some n-grams given"
            )
        self.name, self.width = "hashing", width
        self._word_ngrams, self._char_weight = tuple(word_ngrams), char_weight
        self._vocabulary = _Vocabulary(tuple(char_ngrams))
        texts = list(dict.fromkeys(filter(None, fitted_on)))
        counts = np.zeros(_BUCKETS, np.int64)
        for _, features, _ in self._chunks(texts):
            counts += np.bincount(features % _BUCKETS, minlength=_BUCKETS)
        # As scikit-learn's smooth idf: 1 for what every text has, most for what none has.
        self._idf = (1 + np.log((1 + len(texts)) / (1 + counts))).astype(np.float32)
        settings = (self.revision, width, tuple(char_ngrams), self._word_ngrams, char_weight)
        self.digest = hashlib.sha256(repr(settings).encode() + counts.tobytes()).hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[n, width] float32, unit length; zeros for a text without a word."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        for start, (rows, features, weights) in enumerate(self._chunks(texts)):
            start *= _CHUNK
            values = weights * self._idf[features % _BUCKETS] * (1 - 2 * ((features >> 33) & 1))
            places = rows * self.width + (features >> 34) % self.width
            count = min(_CHUNK, len(texts) - start)
            summed = np.bincount(places, values, count * self.width)
            vectors[start : start + count] = summed.reshape(count, self.width)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(lengths > 0, lengths, 1)

    def _chunks(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of _CHUNK texts at a time: row within the chunk, feature and weight of each distinct feature of a text."""
        for start in range(0, len(texts), _CHUNK):
            yield self._weighted(*self._features(texts[start : start + _CHUNK]))

    def _features(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, hashes, is character n-gram), an entry for every occurrence."""
        words = [self._vocabulary.places_of(_WORD.findall(text.casefold())) for text in texts]
        rows = np.repeat(np.arange(len(texts)), [len(found) for found in words])
        places = np.fromiter((place for found in words for place in found), np.int64, len(rows))
        parts = []
        hashes = self._vocabulary.word_hashes[places]
        for length in self._word_ngrams:
            if length > len(rows):
                continue
            run, last = hashes[: len(rows) - length + 1], rows[length - 1 :]
            for offset in range(1, length):
                run = _mixed(run * _MULTIPLIERS[0] + hashes[offset : offset + len(run)])
            same = rows[: len(run)] == last
            parts.append((rows[: len(run)][same], run[same], False))
        gram_rows, grams = self._vocabulary.grams_of(rows, places)
        parts.append((gram_rows, grams, True))
        kinds = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
        rows, hashes = (np.concatenate([part[i] for part in parts]) for i in range(2))
        return rows, (hashes >> np.uint64(1)).astype(np.int64), kinds

    def _weighted(self, rows: np.ndarray, features: np.ndarray, is_gram: np.ndarray):
        order = np.lexsort((features, rows))
        rows, features, is_gram = rows[order], features[order], is_gram[order]
        is_new = np.ones(len(rows), bool)
        is_new[1:] = (rows[1:] != rows[:-1]) | (features[1:] != features[:-1])
        firsts = np.flatnonzero(is_new)
        counts = np.diff(firsts, append=len(rows))
        weights = (1 + np.log(counts)) * np.where(is_gram[firsts], self._char_weight, 1.0)
        return rows[firsts], features[firsts], weights.astype(np.float32)


class _Vocabulary:
    """Words met so far with the hash of each and those of its character n-grams; hashing is what costs."""

    def __init__(self, char_ngrams: tuple[int, ...]):
        self._char_ngrams = char_ngrams
        self._places: dict[str, int] = {}
        self._hashes: list[int] = []
        self._grams: list[int] = []
        self._ends: list[int] = []
        self._arrays: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def places_of(self, words: list[str]) -> list[int]:
        places = self._places
        return [places[word] if word in places else self._add(word) for word in words]

    @property
    def word_hashes(self) -> np.ndarray:
        return self._as_arrays()[0]

    def grams_of(self, rows: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each word's row once per n-gram of the word, and the n-grams."""
        _, grams, ends = self._as_arrays()
        starts = np.concatenate([[0], ends])[places]
        counts = ends[places] - starts
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(rows, counts), grams[np.repeat(starts, counts) + offsets]

    def _add(self, word: str) -> int:
        place = self._places[word] = len(self._places)
        marked = f"<{word[:_LONGEST_WORD]}>"
        self._hashes.append(_hash(f"word {word}"))
        for length in self._char_ngrams:
            self._grams += [_hash(marked[i : i + length]) for i in range(len(marked) - length + 1)]
        self._ends.append(len(self._grams))
        self._arrays = None
        return place

    def _as_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._arrays is None:
            self._arrays = (
                np.array(self._hashes, np.uint64),
                np.array(self._grams, np.uint64),
                np.array(self._ends, np.int64),
            )
        return self._arrays


def _hash(feature: str) -> int:
    """64 bits that are the same on every machine."""
    content = feature.encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spreads every bit over all others (two rounds of splitmix64's finaliser)."""
    for multiplier in _MULTIPLIERS:
        hashes = (hashes ^ (hashes >> np.uint64(30))) * multiplier
    return hashes ^ (hashes >> np.uint64(31))
