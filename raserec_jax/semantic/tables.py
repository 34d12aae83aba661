"""SemanticTables: the vectors and neighbours that SRA-CL trains with, and their folder on disk. NumPy only.

A history id is a row of the pool: row p < P is the p-th of `batching.windows.training_examples(split)`, so tables
belong to one log and one split; loading them for another is refused. SRA-CL eqs. (5) and (10).
"""

import hashlib
from typing import NamedTuple

import numpy as np

from raserec_jax.batching.windows import Examples, training_examples
from raserec_jax.constants import NO_ROW, PAD_ID
from raserec_jax.data.splits import Split
from raserec_jax.data.storage import PathLike, load_arrays, save_arrays
from raserec_jax.errors import DataError
from raserec_jax.semantic.settings import POOLS

KIND = "SemanticTables"
_ARRAYS = ("item_vectors", "history_vectors", "neighbor_item_ids", "neighbor_history_ids")


class SemanticTables(NamedTuple):
    """Frozen text vectors and neighbours of one log and split; P training examples, R >= P pool rows.

    item_vectors: [items + 1, width] float16, unit length; zeros in row 0 and for items without text.
    history_vectors: [R, width] float16, unit length, zeros where no item has text; R = P for the pool "training".
    neighbor_item_ids: [items + 1, top_k] int32, -1 = none, best first, never the item itself; row 0 has none.
    neighbor_history_ids: [P, top_k] int32 rows of the pool, -1 = none, best first, never itself.
    pool: one of POOLS; `pool_examples` tells the windows of its rows.
    """

    item_vectors: np.ndarray
    history_vectors: np.ndarray
    neighbor_item_ids: np.ndarray
    neighbor_history_ids: np.ndarray
    pool: str

    def save(self, folder: PathLike, split: Split, provenance: dict | None = None) -> None:
        """Writes .npy files and manifest.json with the SHA-256 of each, whole or not at all.

        Args:
          folder: replaced if it holds tables.
          split: that the tables were made for; the fingerprints of its log and of itself are kept.
          provenance: what made them, for the manifest: embedder name, revision, digest, settings; JSON values.

        Raises:
          DataError: the tables do not fit the split, or the folder cannot be written.
        """
        check_tables(self, split)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        header = {
            "pool": self.pool,
            "log": split.log.fingerprint(),
            "log_name": split.log.name,
            "split": split_fingerprint(split),
            "provenance": provenance or {},
        }
        names = [f"{name}.npy" for name in _ARRAYS]
        save_arrays(folder, arrays, kind=KIND, header=header, own_files=names)

    @classmethod
    def load(cls, folder: PathLike, split: Split | None = None) -> "SemanticTables":
        """Reads what `save` wrote; every digest is checked.

        Args:
          folder: as given to `save`.
          split: that they are to be used with; None: any.

        Raises:
          DataError: missing, damaged or foreign files, or tables of another log or split.
        """
        return load_with_manifest(folder, split)[0]


def load_with_manifest(folder: PathLike, split: Split | None = None) -> tuple[SemanticTables, dict]:
    """The tables and the manifest, whose `provenance` is what `save` was given; as `SemanticTables.load`."""
    arrays, manifest = load_arrays(folder, kind=KIND, required=_ARRAYS)
    pool = manifest.get("pool")
    if pool not in POOLS:
        raise DataError(
            f"{folder}: pool {pool!r:.80} is none of {', '.join(POOLS)}; run launch/embed_text.py again"
        )
    tables = SemanticTables(**arrays, pool=pool)
    if split is not None:
        _refuse_other_data(folder, manifest, split)
        check_tables(tables, split, str(folder))
    return tables, manifest


def pool_examples(split: Split, pool: str) -> Examples:
    """The histories behind the rows of the pool: what precedes each `target_places`.

    First the P training examples, in their own order. For "published" then every user's validation input, in the
    order of users, then every user's test input; these have the held-out items as targets, which nothing but their
    place may be taken from.

    Raises:
      DataError: an unknown pool.
    """
    if pool not in POOLS:
        raise DataError(f"pool={pool!r} is unknown; use one of {', '.join(POOLS)}")
    training = training_examples(split)
    if pool == "training":
        return training
    parts = [
        training,
        *(_held_out(split, at) for at in (split.valid_position, split.test_position)),
    ]
    return Examples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def split_fingerprint(split: Split) -> str:
    """SHA-256 over which places of the log are for training, validation and test, in hex."""
    digest = hashlib.sha256(split.name.encode())
    for places in (split.train_end, split.valid_position, split.test_position):
        digest.update(np.ascontiguousarray(places, np.int64).tobytes())
    return digest.hexdigest()


def check_tables(tables: SemanticTables, split: Split, where: str = "semantic tables") -> None:
    """Checks shapes, types and ids against a split.

    Raises:
      DataError: what does not fit.
    """
    items, rows = split.log.num_items + 1, len(pool_examples(split, tables.pool).lengths)
    examples = len(training_examples(split).lengths)
    vectors = (tables.item_vectors, tables.history_vectors)
    ids = (tables.neighbor_item_ids, tables.neighbor_history_ids)
    fits = all(array.ndim == 2 for array in (*vectors, *ids))
    fits = fits and [len(array) for array in (*vectors, *ids)] == [items, rows, items, examples]
    fits = (
        fits and vectors[0].shape[1] == vectors[1].shape[1] and ids[0].shape[1] == ids[1].shape[1]
    )
    if not fits:
        raise DataError(
            f"{where}: arrays of shapes {', '.join(str(array.shape) for array in (*vectors, *ids))} do not fit "
            f"{items - 1} items and {examples} training examples; run launch/embed_text.py again"
        )
    types = [array.dtype for array in (*vectors, *ids)] == [np.float16] * 2 + [np.int32] * 2
    finite = types and all(bool(np.isfinite(array).all()) for array in vectors)
    if not finite:
        raise DataError(
            f"{where}: vectors must be finite float16 and neighbours int32; run launch/embed_text.py again"
        )
    for array, below in ((ids[0], items), (ids[1], rows)):
        own = np.arange(len(array), dtype=np.int32)[:, None]
        if array.size and (array.min() < NO_ROW or array.max() >= below or np.any(array == own)):
            raise DataError(
                f"{where}: a neighbour is outside 0..{below - 1} or its own; run launch/embed_text.py again"
            )
    if np.any(ids[0] == PAD_ID):
        raise DataError(f"{where}: padding is an item's neighbour; run launch/embed_text.py again")


def _held_out(split: Split, position: np.ndarray) -> Examples:
    """One example per user that has such a target."""
    log = split.log
    users = np.flatnonzero(position > 0).astype(np.int32)
    places = (log.offsets[users] + position[users]).astype(np.int32)
    return Examples(places, log.item_ids[places], users, position[users].astype(np.int32))


def _refuse_other_data(folder: PathLike, manifest: dict, split: Split) -> None:
    for name, given in (("log", split.log.fingerprint()), ("split", split_fingerprint(split))):
        found = manifest.get(name)
        if found != given:
            raise DataError(
                f"{folder}: these tables belong to another {name} ({found!s:.12} of {manifest.get('log_name')!s:.60}, "
                f"here {given:.12} of {split.log.name}); run launch/embed_text.py for this one"
            )
