"""Arrays in a folder, whole or not at all: .npy files and a manifest with the SHA-256 of each.

A save goes to a temporary folder beside the target, is flushed to disk and renamed; a kill at any
moment leaves either the former content or the new one.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from raserec_jax.durable import flush_path
from raserec_jax.errors import DataError

PathLike = str | os.PathLike
MANIFEST = "manifest.json"
_VERSION = 1


def save_arrays(
    folder: PathLike,
    arrays: Mapping[str, np.ndarray],
    *,
    kind: str,
    header: dict,
    own_files: Iterable[str],
) -> None:
    """Writes one .npy file per array and the manifest; replaces a folder of the same kind.

    Args:
      folder: target; parents are created.
      arrays: name -> array without Python objects; file NAME.npy.
      kind: what the folder holds, checked by `load_arrays`.
      header: further JSON entries of the manifest.
      own_files: names that may stand in a folder that is to be replaced; anything else is
        somebody's and is kept.

    Raises:
      DataError: the folder holds other files, or cannot be written.
    """
    files = {f"{name}.npy": _npy_bytes(array) for name, array in arrays.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = manifest_bytes(kind, header, digests)
    with replaced_folder(folder, {MANIFEST, *own_files}) as temporary:
        for name, content in files.items():
            write_flushed(temporary / name, content)


@contextlib.contextmanager
def replaced_folder(folder: PathLike, own_files: Iterable[str]) -> Iterator[pathlib.Path]:
    """Context with an empty folder to be filled with flushed files; without an error it becomes `folder`.

    Args:
      folder: target; parents are created.
      own_files: as `save_arrays`.

    Raises:
      DataError: the folder holds other files, or something cannot be written.
    """
    target = pathlib.Path(os.path.realpath(folder))  # a link stays, what it points to is replaced
    try:
        _refuse_foreign(target, set(own_files))
        target.parent.mkdir(parents=True, exist_ok=True)
        with _new_content(target) as temporary:
            yield temporary
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "choose another folder or free space"
        ) from error


def manifest_bytes(kind: str, header: dict, digests: Mapping[str, str]) -> bytes:
    """What MANIFEST says of a folder: its kind, further JSON entries, and the SHA-256 of each file."""
    manifest = {"kind": kind, "version": _VERSION, **header, "sha256": dict(digests)}
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def load_arrays(
    folder: PathLike, *, kind: str, required: Iterable[str], optional: Iterable[str] = ()
) -> tuple[dict[str, np.ndarray], dict]:
    """Reads what `save_arrays` wrote, checking every digest.

    Returns:
      (arrays by name, manifest).

    Raises:
      DataError: not such a folder, or a file of it is missing, damaged or foreign.
    """
    place = _find_folder(pathlib.Path(folder))
    manifest = _read_manifest(place, kind)
    digests = manifest["sha256"]
    arrays = {}
    for name in (*required, *(name for name in optional if f"{name}.npy" in digests)):
        arrays[name] = _read_npy(place / f"{name}.npy", digests.get(f"{name}.npy"))
    return arrays, manifest


def read_manifest(folder: PathLike, kind: str) -> dict:
    """The manifest of a folder of that kind.

    Raises:
      DataError: not such a folder, or its manifest is damaged or foreign.
    """
    return _read_manifest(_find_folder(pathlib.Path(folder)), kind)


def write_file(path: PathLike, content: bytes) -> None:
    """Writes a single file, whole or not at all.

    Raises:
      DataError: it cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            write_flushed(temporary, content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_path(path.parent)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "choose another folder or free space"
        ) from error


def save_files(folder: PathLike, files: Mapping[str, bytes]) -> None:
    """Makes a folder of these files, whole or not at all; parents are made too.

    Raises:
      DataError: there is something already, or it cannot be written.
    """
    with replaced_folder(folder, ()) as temporary:
        for name, content in files.items():
            write_flushed(temporary / name, content)


def is_saved_folder(folder: PathLike) -> bool:
    """Whether `load_arrays` has something to look at there."""
    place = pathlib.Path(folder)
    try:
        return any(os.path.isfile(where / MANIFEST) for where in (place, _previous(place)))
    except ValueError:  # a NUL in the path
        return False


def _previous(folder: pathlib.Path) -> pathlib.Path:
    """Where the former content waits while the new one is renamed into place."""
    folder = pathlib.Path(os.path.realpath(folder))
    return folder.with_name(f".{folder.name}.previous")


def _refuse_foreign(folder: pathlib.Path, own_files: set[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the name of a folder to write to")
    foreign = sorted(set(os.listdir(folder)) - own_files) if folder.exists() else []
    if foreign:
        raise DataError(
            f"{folder}: holds {foreign[0]!r}, which saving would delete; "
            "choose a new or an empty folder"
        )


@contextlib.contextmanager
def _new_content(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Context with an empty folder to be filled with flushed files; it then takes the place of `folder`."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        flush_path(temporary)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames `temporary` to `folder`; a kill between the renames leaves `_previous`, which "
    "loading finds."""
    previous = _previous(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
        try:
            os.rename(temporary, folder)
        except OSError:
            os.rename(previous, folder)
            raise
    else:
        os.rename(temporary, folder)
    flush_path(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _find_folder(folder: pathlib.Path) -> pathlib.Path:
    if folder.exists() or not _previous(folder).exists():
        return folder
    return _previous(folder)


def _read_manifest(folder: pathlib.Path, kind: str) -> dict:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no {kind} here (no {MANIFEST}); give the folder that was saved"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give the folder that was saved"
        ) from error
    except (ValueError, RecursionError):
        raise DataError(
            f"{path}: damaged, not JSON; save the {kind} again from its source"
        ) from None
    known = isinstance(manifest, dict) and isinstance(manifest.get("sha256"), dict)
    if not known or manifest.get("kind") != kind:
        raise DataError(f"{path}: not the manifest of a {kind}; give the folder of one")
    if manifest.get("version") != _VERSION:
        raise DataError(
            f"{path}: version {manifest.get('version')!r:.80}, expected {_VERSION}; "
            f"save the {kind} again with this release"
        )
    return manifest


def _read_npy(path: pathlib.Path, digest: str | None) -> np.ndarray:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); save the folder again"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            f"{path}: damaged, its SHA-256 is not the manifest's; "
            "save the folder again from its source"
        )
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception:  # NumPy's parser answers a crafted header with errors of many kinds
        raise DataError(
            f"{path}: not a plain .npy array; save the folder again from its source"
        ) from None


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_flushed(path: pathlib.Path, content: bytes) -> None:
    """Writes a new file to the disk itself."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
