"""A version on its way to the disk: the segment, then the manifest; and which segments are folded into the new one."""

import pathlib
import time

import numpy as np

from raserec_jax.errors import CheckpointError
from raserec_jax.store.files import (
    file_entry,
    make_folder,
    manifest_bytes,
    remove_unlisted,
    replace_file,
    write_segment,
)
from raserec_jax.store.layout import STORE
from raserec_jax.store.lock import locked
from raserec_jax.store.reading import segment_rows

MOST_SEGMENTS = 16
FOLDED_AT_LEAST = 8


def write_store(folder: pathlib.Path, manifest: dict, columns: dict[str, np.ndarray]) -> None:
    """Writes a store of one segment into a folder that holds none.

    Raises:
      CheckpointError: it holds one, or cannot be written.
    """
    try:
        make_folder(folder / "segments")
        with locked(folder, 0.0):
            if (folder / "manifest.json").exists():
                raise CheckpointError(
                    f"{folder}: holds a memory already; open it, or give another folder"
                )
            remove_unlisted(folder, [])
            write_version(folder, manifest, columns)
    except OSError as error:
        raise unwritten(folder, error) from error


def write_version(folder: pathlib.Path, manifest: dict, columns: dict[str, np.ndarray]) -> None:
    """The segment, then the manifest that lists it behind those that it lists already; raises OSError."""
    number = manifest["next_segment"]
    if columns:
        files = {f"{name}.npy": file_entry(column) for name, column in columns.items()}
        name = f"{number:06d}"
        write_segment(folder / "segments", name, columns)
        segments = [*manifest["segments"], {"name": name, "files": files}]
        manifest = {**manifest, "segments": segments, "next_segment": number + 1}
    manifest = {name: value for name, value in manifest.items() if name != "sha256"}
    content = manifest_bytes(manifest, STORE)
    replace_file(folder / "manifest.json", lambda file: file.write(content))


def first_to_fold(segments: list[dict], rows: int) -> int:
    """From which segment on they are folded into the new one of so many rows; their number if none is.

    At least the last few, and before them all that are no larger than what is folded anyway.
    """
    if len(segments) < MOST_SEGMENTS:
        return len(segments)
    first, folded = len(segments), rows
    while first > 0:
        size = max(segment_rows(segments[first - 1]).values(), default=0)
        if len(segments) - first >= FOLDED_AT_LEAST and size > folded:
            break
        first, folded = first - 1, folded + size
    return first


def line(version: int, what: str) -> dict:
    """An entry of the manifest's history."""
    return {"version": version, "at": int(time.time()), "what": what}


def unwritten(folder: pathlib.Path, error: OSError) -> CheckpointError:
    """What to raise when a change could not be written."""
    return CheckpointError(
        f"{folder}: the memory cannot be written ({error.strerror or error}); it is as before; "
        "free space, or check its permissions"
    )
