"""Files of a memory: segments of plain arrays under a signed manifest, each written whole or not at all.

Nothing here knows what a column means; `memory_bank` and `memory_store` say which segments there are and when they are
replaced, and name their `Kind` of folder.
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
from typing import NamedTuple

import numpy as np

from raserec_jax.durable import flush_path
from raserec_jax.errors import CheckpointError

PathLike = str | os.PathLike

_SEGMENT_NAME = re.compile(r"[0-9]{6,}")
_LEFTOVER_NAME = re.compile(r"[0-9]{6,}|\.unfinished-.*")
_LARGEST_MANIFEST = 2**26  # bytes; more is no manifest of ours


class Kind(NamedTuple):
    """A kind of folder.

    format: stands in its manifest.  columns: names that its segments may have.
    name, way_out: for messages.
    indent: of the manifest's JSON; None writes it in one line, many times as fast.
    """

    format: str
    columns: tuple[str, ...]
    name: str
    way_out: str
    indent: int | None = None


def manifest_bytes(manifest: dict, kind: Kind) -> bytes:
    """The one way to write this manifest, its own digest included: any other bytes are damage."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    signed = {**manifest, "sha256": digest}
    return (json.dumps(signed, indent=kind.indent, sort_keys=True) + "\n").encode()


def read_manifest(folder: pathlib.Path, kind: Kind) -> dict:
    """The manifest of a folder, checked against its own digest.

    Raises:
      CheckpointError: none there, unreadable, damaged or foreign.
    """
    path = folder / "manifest.json"
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            content = file.read(_LARGEST_MANIFEST + 1)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: no {kind.name} here (no manifest.json); give the folder that one was saved to"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a {kind.name}"
        ) from error
    try:
        manifest = json.loads(content)
        known = manifest["format"] == kind.format and len(content) <= _LARGEST_MANIFEST
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise CheckpointError(
            f"{path}: damaged, or not the manifest of a {kind.format}; {kind.way_out}"
        )
    unsigned = {name: value for name, value in manifest.items() if name != "sha256"}
    if manifest_bytes(unsigned, kind) != content:
        raise CheckpointError(
            f"{path}: damaged, its content is not what was written; {kind.way_out}"
        )
    return manifest


def _without_waiting(path: str | pathlib.Path, flags: int) -> int:
    """An opener: a pipe in place of a file is empty, not awaited."""
    return os.open(path, flags | os.O_NONBLOCK)


def listed_segments(folder: pathlib.Path, kind: Kind, repair: bool) -> list[dict]:
    """The manifest's entries of the segments there; none if there is no manifest, or a damaged one to be replaced."""
    if not (folder / "manifest.json").exists():
        return []
    try:
        return read_manifest(folder, kind)["segments"]
    except CheckpointError as error:
        if not repair:
            raise
        _say_written_again(error)
        return []


def is_damaged(folder: pathlib.Path, segment: dict, kind: Kind) -> bool:
    """Whether a segment cannot be read as the manifest says; then one line tells that it is written again."""
    try:
        read_segment(folder, segment, kind)
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
    flush_path(unfinished)
    os.rename(unfinished, segments / name)
    flush_path(segments)


def read_segment(
    folder: pathlib.Path, segment: dict, kind: Kind, *, mapped: bool = False
) -> dict[str, np.ndarray]:
    """A segment's columns by name, each checked against its digest; mapped into memory instead of read, if asked.

    Raises:
      CheckpointError: a file is missing, damaged, or not what the manifest says.
    """
    manifest = folder / "manifest.json"
    name = segment.get("name")
    if not (isinstance(name, str) and _SEGMENT_NAME.fullmatch(name)):  # never out of the folder
        raise CheckpointError(f"{manifest}: {name!r:.80} is not the name of a segment")
    for path in (folder / "segments", folder / "segments" / name):
        if path.is_symlink():
            raise CheckpointError(f"{path}: a link, expected a folder; {kind.way_out}")
    columns = {}
    for file_name, entry in segment["files"].items():
        column_name = file_name.removesuffix(".npy")
        if column_name not in kind.columns:
            raise CheckpointError(f"{manifest}: {file_name!r:.80} is not a file of a segment")
        path = folder / "segments" / name / f"{column_name}.npy"
        columns[column_name] = _read_column(path, entry, kind.way_out, mapped)
    return columns


def _read_column(path: pathlib.Path, entry: dict, way_out: str, mapped: bool) -> np.ndarray:
    try:
        descriptor = _without_waiting(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise CheckpointError(
                    f"{path}: damaged, its SHA-256 is not the one in manifest.json; {way_out}"
                )
            size = file.tell()
            file.seek(0)
            column = (map_npy if mapped else read_npy)(file, size)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {way_out}") from error
    except (ValueError, SyntaxError) as error:
        raise CheckpointError(f"{path}: not a plain .npy array ({error}); {way_out}") from error
    if [list(column.shape), column.dtype.str] != [entry["shape"], entry["dtype"]]:
        raise CheckpointError(
            f"{path}: {column.dtype} {column.shape} is not what manifest.json says; {way_out}"
        )
    return column


def remove_unlisted(folder: pathlib.Path, listed: list[dict]) -> None:
    """Removes what unfinished or replaced saves left, to last; a file that no save of ours makes is kept.

    Raises:
      CheckpointError: the folder of the segments is a link: what lies elsewhere is never removed.
      OSError: something cannot be removed.
    """
    segments = folder / "segments"
    if segments.is_symlink():
        raise CheckpointError(f"{segments}: a link, expected a folder; put the folder itself there")
    names = {segment["name"] for segment in listed}
    left = [
        path
        for path in segments.iterdir()
        if path.name not in names and _LEFTOVER_NAME.fullmatch(path.name)
    ]
    left = [path for path in left if path.is_dir() and not path.is_symlink()]
    for path in left:
        shutil.rmtree(path)
    if left:
        flush_path(segments)
    (folder / ".unfinished-manifest.json").unlink(missing_ok=True)


def replace_file(path: pathlib.Path, write: Callable[[io.BufferedIOBase], object]) -> None:
    """Writes a file through a temporary one, flushed and renamed: whole or not at all."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    with open(unfinished, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    flush_path(path.parent)


def read_npy(file: io.BufferedIOBase, size: int) -> np.ndarray:
    """Reads a plain .npy of `size` bytes; allocates only after the header agrees with the size.

    Raises:
      ValueError: not such a file.
    """
    shape, dtype = _plain_header(file, size)
    content = bytearray(file.read(size - file.tell()))
    return np.frombuffer(content, dtype).reshape(shape)


def map_npy(file: io.BufferedIOBase, size: int) -> np.ndarray:
    """As `read_npy`, but read-only and read from the file when used; it stays readable when the file is removed."""
    shape, dtype = _plain_header(file, size)
    if size == file.tell():  # nothing to map
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype, "r", file.tell(), shape)


def _plain_header(file: io.BufferedIOBase, size: int) -> tuple[tuple[int, ...], np.dtype]:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not a version 1.0 .npy file")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    count = int(np.prod(shape, dtype=object))  # Python integers: a lying shape must not wrap around
    if dtype.hasobject or fortran_order or count * dtype.itemsize != size - file.tell():
        raise ValueError(f"its header says {dtype} {shape}, which {size} bytes cannot be")
    return shape, dtype


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder and what is above it, each flushed into its parent."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_path(folder.parent)
