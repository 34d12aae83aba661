"""Retrieved: what a search found; and a file of it, so that a run can be repeated from the same neighbours."""

import functools
import io
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from raserec_jax.constants import NO_ROW
from raserec_jax.errors import CheckpointError
from raserec_jax.retrieval.arrays import AnyArray
from raserec_jax.store.files import PathLike, read_npy, replace_file

_MEMBERS = ("ids", "scores", "mask", "bank_fingerprint")


class Retrieved(NamedTuple):
    """The best rows each query may see, best first; on equal scores the lower row first. On the host.

    ids: [queries, top_k] int32, rows of the bank, -1 = none; scores: [queries, top_k] float32, cosines, 0 where
    there is none; mask: [queries, top_k] bool, which are real. Missing ones stand at the end of a row.
    """

    ids: AnyArray
    scores: AnyArray
    mask: AnyArray


def masked(ids: np.ndarray, scores: np.ndarray, mask: np.ndarray) -> Retrieved:
    """A Retrieved from host arrays, with the agreed values where `mask` is False."""
    return Retrieved(
        ids=np.where(mask, ids, NO_ROW).astype(np.int32),
        scores=np.where(mask, scores, 0).astype(np.float32),
        mask=np.asarray(mask),
    )


def save_retrieved(path: PathLike, retrieved: Retrieved, *, bank_fingerprint: str = "") -> None:
    """Writes an .npz without pickles, whole or not at all.

    Args:
      path: an older file there is replaced.
      retrieved: what a search gave.
      bank_fingerprint: `MemoryBank.fingerprint` of the bank that was searched.

    Raises:
      CheckpointError: the file cannot be written.
    """
    members = {name: np.asarray(value) for name, value in retrieved._asdict().items()}
    members["bank_fingerprint"] = np.frombuffer(bank_fingerprint.encode(), np.uint8)
    path = pathlib.Path(path)
    try:
        replace_file(path, functools.partial(_write_npz, members=members))
    except OSError as error:
        raise CheckpointError(
            f"{path}: the neighbours cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error


def load_retrieved(path: PathLike, *, bank_fingerprint: str | None = None) -> Retrieved:
    """Reads what `save_retrieved` wrote.

    Args:
      path: as given to `save_retrieved`.
      bank_fingerprint: if given, the neighbours must have been found in this bank.

    Raises:
      CheckpointError: the file is missing, damaged or foreign, or belongs to another bank.
    """
    path = pathlib.Path(path)
    try:
        members = _read_npz(path)
        ids, scores, mask = (members[name] for name in Retrieved._fields)
        found_in = members["bank_fingerprint"].tobytes().decode()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); search the bank again"
        ) from error
    except (
        ValueError,
        SyntaxError,
        LookupError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise CheckpointError(
            f"{path}: damaged, or no file of neighbours; search the bank again"
        ) from error
    types = (ids.dtype, scores.dtype, mask.dtype) == (np.int32, np.float32, np.bool_)
    if not types or not ids.shape == scores.shape == mask.shape or ids.ndim != 2:
        raise CheckpointError(f"{path}: no file of neighbours; search the bank again")
    if bank_fingerprint is not None and bank_fingerprint != found_in:
        raise CheckpointError(
            f"{path}: these neighbours were found in bank {found_in:.16} but the bank in use is "
            f"{bank_fingerprint:.16}; search the bank again"
        )
    return Retrieved(ids, scores, mask)


def _write_npz(file, members: dict[str, np.ndarray]) -> None:
    np.savez(file, **members)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Member by member through zip's checksum, then through `read_npy`: a damaged file never gets as far as NumPy."""
    arrays = {}
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        size = path.stat().st_size
        for name in _MEMBERS:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise ValueError("not an archive that np.savez makes")
            with archive.open(info) as member:
                content = member.read()
            arrays[name] = read_npy(io.BytesIO(content), len(content))
    return arrays
