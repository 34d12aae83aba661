"""Item vectors made elsewhere: an .npy of [rows, width] and a text file with the item id of each row."""

import hashlib
import os

import numpy as np

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.sources import PathLike, text_blocks
from raserec_jax.errors import DataError


def read_vectors(path: PathLike, ids_path: PathLike, log: InteractionLog) -> np.ndarray:
    """Reads vectors and puts them into the order of a log.

    Args:
      path: .npy, [rows, width] of floats; never a pickle.
      ids_path: one original item id per line, UTF-8, as many as rows; no header.
      log: whose items; rows of others are dropped.

    Returns:
      [items + 1, width] float16, unit length; zeros for items without a vector.

    Raises:
      DataError: a file is missing, damaged, of another shape or size than it says; ids that do not match in number, or
        occur twice; a vector that is not finite; or no item of the log has one.
    """
    vectors = _read_npy(path)
    ids = _read_ids(ids_path)
    if len(ids) != len(vectors):
        raise DataError(
            f"{ids_path}: {len(ids)} ids for the {len(vectors)} vectors of {path}; expected one id per row"
        )
    items = log.item_ids_of(np.array(ids))
    known = np.flatnonzero(items)
    if not known.size:
        raise DataError(
            f"{ids_path}: vectors of another item set: none of its {len(ids)} ids is among the {log.num_items} items "
            f"of {log.name}; ids must be spelled as in the interactions, such as "
            f"{log.item_labels[1].item()!r:.80} (here {ids[0]!r:.80})"
        )
    order = np.argsort(items[known], kind="stable")
    twice = np.flatnonzero(np.diff(items[known][order]) == 0)
    if twice.size:
        line = int(known[order[twice[0] + 1]]) + 1
        raise DataError(
            f"{ids_path}, line {line}: item {ids[line - 1]!r:.80} occurs twice; keep one vector per item"
        )
    chosen = np.asarray(vectors[known], np.float32)
    bad = np.flatnonzero(~np.isfinite(chosen).all(axis=1))
    if bad.size:
        raise DataError(
            f"{path}, row {known[bad[0]]}: a vector with NaN or infinity; repair or drop that row"
        )
    result = np.zeros((log.num_items + 1, chosen.shape[1]), np.float16)
    result[items[known]] = unit(chosen)
    return result


def files_digest(*paths: PathLike) -> str:
    """SHA-256 over the contents of files.

    Raises:
      DataError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return digest.hexdigest()


def unit(vectors: np.ndarray) -> np.ndarray:
    """[rows, width] float32 scaled to length 1, whatever their size; zero rows stay zero."""
    vectors = np.asarray(vectors, np.float32)
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    vectors = vectors / np.where(largest > 0, largest, 1)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return vectors / np.where(lengths > 0, lengths, 1)


def _read_npy(path: PathLike) -> np.ndarray:
    """A memory map, after the header was compared with the size of the file: a lying one asks for any memory."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0
            reader = reader if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
            expected = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except Exception:  # NumPy's parser answers a crafted header with errors of many kinds
        raise DataError(f"{path}: not an .npy file of numbers; save it with numpy.save") from None
    if dtype.kind != "f" or len(shape) != 2 or not all(shape):
        raise DataError(
            f"{path}: {dtype} of shape {shape}, expected floats of shape [rows, width]; save such an array"
        )
    if expected != size:
        raise DataError(
            f"{path}: {size} bytes but its header says {expected}; truncated or damaged, save it again"
        )
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_ids(path: PathLike) -> list[str]:
    return [
        line for block in text_blocks(path) for line in block.content.decode("utf-8").splitlines()
    ]
