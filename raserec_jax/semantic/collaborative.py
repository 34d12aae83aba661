"""Item vectors from who took what together, in place of text: what SRA-CL is compared with ("without semantics").

Positive pointwise mutual information of two items in one training history, factored (Levy and Goldberg 2014: what
word2vec factors implicitly). How the paper built this variant is not told; this one needs no trained encoder.
"""

import hashlib

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from raserec_jax.data.splits import Split
from raserec_jax.errors import DataError

REVISION = "1"
LONGEST_HISTORY = 200
"""Latest items of a history that count: pairs grow with its square."""


def collaborative_vectors(split: Split, width: int) -> np.ndarray:
    """[items + 1, width] float32, unit length; zeros in row 0 and for items that share no training history.

    Args:
      split: only its training part is looked at.
      width: of the vectors; columns beyond the rank are zero.

    Raises:
      DataError: no two items share a training history.
    """
    log = split.log
    places = np.arange(log.num_interactions) - log.offsets[log.user_ids]
    end = split.train_end[log.user_ids]
    kept = (places < end) & (places >= end - LONGEST_HISTORY)
    shape = (log.num_users, log.num_items + 1)
    taken = scipy.sparse.csr_matrix(
        (np.ones(kept.sum(), np.float32), (log.user_ids[kept], log.item_ids[kept])), shape
    )
    taken.data[:] = 1.0  # an item taken twice counts once
    together = (taken.T @ taken).tocoo()
    other = together.row != together.col
    rows, columns, counts = (x[other] for x in (together.row, together.col, together.data))
    if not counts.size:
        raise DataError(
            f"{log.name}: no two items share a training history, so there are no collaborative vectors; use another "
            "semantic.encoder"
        )
    of_item = np.bincount(rows, counts, shape[1])
    information = np.log(counts * counts.sum() / (of_item[rows] * of_item[columns]))
    positive = information > 0
    matrix = scipy.sparse.csr_matrix(
        (information[positive].astype(np.float32), (rows[positive], columns[positive])),
        (shape[1], shape[1]),
    )
    rank = min(width, shape[1] - 1)
    left, strength, _ = scipy.sparse.linalg.svds(matrix, rank, v0=np.ones(shape[1], np.float32))
    vectors = np.zeros((shape[1], width), np.float32)
    vectors[:, :rank] = left * np.sqrt(np.maximum(strength, 0.0))
    vectors[of_item == 0] = 0.0  # a factorisation leaves rounding there
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 1e-6, lengths, np.inf)


def collaborative_facts(split: Split, width: int, split_digest: str) -> dict[str, str]:
    """Name, revision and digest, as of an encoder of texts."""
    made_of = repr((REVISION, LONGEST_HISTORY, width, split.log.fingerprint(), split_digest))
    digest = hashlib.sha256(made_of.encode()).hexdigest()
    return {"name": "collaborative", "revision": REVISION, "digest": digest}
