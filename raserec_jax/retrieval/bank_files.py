"""Files of a memory bank: segments of plain arrays under a signed manifest, each written whole or not at all.

Nothing here knows what a column means; `memory_bank` says which segments there are and when they are replaced.
"""

import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np

from raserec_jax.errors import CheckpointError

PathLike = str | os.PathLike

BANK_FORMAT = "raserec_jax memory bank 1"
COLUMNS = ("keys", "target_ids", "user_ids", "lengths", "times")
_SEGMENT_NAME = re.compile(r"[0-9]{6,}")
_LEFTOVER_NAME = re.compile(r"[0-9]{6,}|\.unfinished-.*")


def manifest_bytes(manifest: dict) -> bytes:
    """The one way to write this manifest, its own digest included: any other bytes are damage."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**manifest, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(folder: pathlib.Path) -> dict:
    """The manifest of a bank's folder, checked against its own digest.

    Raises:
      CheckpointError: none there, unreadable, damaged or foreign.
    """
    path = folder / "manifest.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: no memory bank here (no manifest.json); give the folder that a bank was saved to"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a bank"
        ) from error
    try:
        manifest = json.loads(content)
        known = manifest["format"] == BANK_FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise CheckpointError(
            f"{path}: damaged, or not the manifest of a {BANK_FORMAT}; remove the folder and build the bank again"
        )
    unsigned = {name: value for name, value in manifest.items() if name != "sha256"}
    if manifest_bytes(unsigned) != content:
        raise CheckpointError(
            f"{path}: damaged, its content is not what was written; remove the folder and build the bank again"
        )
    return manifest


def listed_segments(folder: pathlib.Path, repair: bool) -> list[dict]:
    """The manifest's entries of the segments there; none if there is no manifest, or a damaged one to be replaced."""
    if not (folder / "manifest.json").exists():
        return []
    try:
        return read_manifest(folder)["segments"]
    except CheckpointError as error:
        if not repair:
            raise
        _say_written_again(error)
        return []


def is_damaged(folder: pathlib.Path, segment: dict) -> bool:
    """Whether a segment cannot be read as the manifest says; then one line tells that it is written again."""
    try:
        read_segment(folder, segment)
    except CheckpointError as error:
        _say_written_again(error)
        return True
    return False


def _say_written_again(error: CheckpointError) -> None:
    """One line: the file and the reason, without the way out, which is being taken."""
    logging.getLogger("raserec_jax").warning("written again: %s", str(error).rpartition("; ")[0])


def _npy_header(column: np.ndarray) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(column))
    return header.getvalue()


def file_entry(column: np.ndarray) -> dict:
    """What the manifest says of a file: enough to know it again without reading it."""
    digest = hashlib.sha256(_npy_header(column))
    digest.update(column.data)
    return {"shape": list(column.shape), "dtype": column.dtype.str, "sha256": digest.hexdigest()}


def write_segment(segments: pathlib.Path, name: str, columns: dict[str, np.ndarray]) -> None:
    """Writes a folder of columns, each flushed, which gets its name by a rename once all of it is on disk."""
    unfinished = segments / f".unfinished-{name}"
    unfinished.mkdir()
    for column_name, column in columns.items():
        with open(unfinished / f"{column_name}.npy", "wb") as file:
            file.write(_npy_header(column))
            file.write(column.data)
            file.flush()
            os.fsync(file.fileno())
    _flush_folder(unfinished)
    os.rename(unfinished, segments / name)
    _flush_folder(segments)


def read_segment(folder: pathlib.Path, segment: dict) -> dict[str, np.ndarray]:
    """A segment's columns by name.

    Raises:
      CheckpointError: a file is missing, damaged, or not what the manifest says.
    """
    if not _SEGMENT_NAME.fullmatch(segment["name"]):  # never out of the folder
        raise CheckpointError(
            f"{folder}/manifest.json: {segment['name']!r:.80} is not the name of a segment"
        )
    columns = {}
    for file_name, entry in segment["files"].items():
        if file_name.removesuffix(".npy") not in COLUMNS:
            raise CheckpointError(
                f"{folder}/manifest.json: {file_name!r:.80} is not a file of a segment"
            )
        path = folder / "segments" / segment["name"] / file_name
        columns[file_name.removesuffix(".npy")] = _read_column(path, entry)
    return columns


def _read_column(path: pathlib.Path, entry: dict) -> np.ndarray:
    again = "remove the folder of the bank and build it again"
    try:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise CheckpointError(
                    f"{path}: damaged, its SHA-256 is not the one in manifest.json; {again}"
                )
            size = file.tell()
            file.seek(0)
            column = read_npy(file, size)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {again}") from error
    except (ValueError, SyntaxError) as error:
        raise CheckpointError(f"{path}: not a plain .npy array ({error}); {again}") from error
    if [list(column.shape), column.dtype.str] != [entry["shape"], entry["dtype"]]:
        raise CheckpointError(
            f"{path}: {column.dtype} {column.shape} is not what manifest.json says; {again}"
        )
    return column


def remove_unlisted(folder: pathlib.Path, listed: list[dict]) -> None:
    """Removes what unfinished or replaced saves left; a file that no save of ours makes is kept."""
    names = {segment["name"] for segment in listed}
    for path in (folder / "segments").iterdir():
        if path.name not in names and _LEFTOVER_NAME.fullmatch(path.name):
            shutil.rmtree(path)
    (folder / ".unfinished-manifest.json").unlink(missing_ok=True)


def replace_file(path: pathlib.Path, write: Callable[[io.BufferedIOBase], object]) -> None:
    """Writes a file through a temporary one, flushed and renamed: whole or not at all."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    with open(unfinished, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    _flush_folder(path.parent)


def read_npy(file: io.BufferedIOBase, size: int) -> np.ndarray:
    """Reads a plain .npy of `size` bytes; allocates only after the header agrees with the size.

    Raises:
      ValueError: not such a file.
    """
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not a version 1.0 .npy file")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    count = int(np.prod(shape, dtype=object))  # Python integers: a lying shape must not wrap around
    if dtype.hasobject or fortran_order or count * dtype.itemsize != size - file.tell():
        raise ValueError(f"its header says {dtype} {shape}, which {size} bytes cannot be")
    content = bytearray(file.read(count * dtype.itemsize))
    return np.frombuffer(content, dtype).reshape(shape)


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder and what is above it, each flushed into its parent."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
