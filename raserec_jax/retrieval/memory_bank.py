"""MemoryBank: what the recommender remembers, one row per (history representation, next item) pair.

Rows are only ever appended; each append is a new version and a new segment. On disk a bank is a folder:

    manifest.json                     shapes, dtypes and SHA-256 of every file, encoder fingerprint, version
    segments/000000/keys.npy          also target_ids, user_ids, lengths and, if the log has times, times

Keys are float32, or bfloat16 for half the bytes; NumPy has no such type, so a file holds its bits as uint16.

Segments never change once written; saving an appended bank writes only the new ones. The manifest is replaced
last and atomically, so a crash at any moment leaves the old or the new bank; what an unfinished save left is
ignored by readers and removed by the next writer. One writer at a time. Knows neither models nor search engines.
"""

import dataclasses
import functools
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.constants import PAD_ID
from raserec_jax.errors import CheckpointError, DataError

AnyArray = np.ndarray | jax.Array
PathLike = str | os.PathLike

KEY_DTYPES = ("float32", "bfloat16")
_BFLOAT16 = np.dtype(jnp.bfloat16)
_COLUMNS = ("keys", "target_ids", "user_ids", "lengths", "times")
_LOWEST = {"target_ids": PAD_ID + 1, "user_ids": 0, "lengths": 0, "times": 0}
_FORMAT = "raserec_jax memory bank 1"
_SEGMENT_NAME = re.compile(r"[0-9]{6,}")
_LEFTOVER_NAME = re.compile(r"[0-9]{6,}|\.unfinished-.*")


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryBank:
    """Host arrays of one version of the memory; checked when made, read-only afterwards.

    Attributes:
      keys: [bank, dim] float32 (or bfloat16, if they are given so), representations of stored histories; finite, any
        length.
      target_ids: [bank] int32, the item that followed; 1..num_items.
      user_ids: [bank] int32, whose history; >= 0.
      lengths: [bank] int32, items in that history (the true count, not capped); >= 0.
      times: [bank] int32, rank of the time at which the next item came; None if the log has no times.
      version: counts appends; an index is built from one version.
      segment_ends: row after the last of each segment; default one segment.

    Raises:
      DataError: shapes disagree, a key is not finite, or an id is not an integer of its range.
    """

    keys: AnyArray
    target_ids: AnyArray
    user_ids: AnyArray
    lengths: AnyArray
    times: AnyArray | None = None
    version: int = 1
    segment_ends: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in _COLUMNS}
        for name, column in _checked_columns(given).items():
            object.__setattr__(self, name, column)
        if self.segment_ends is None:
            object.__setattr__(self, "segment_ends", (self.rows,))
        assert self.segment_ends[-1] == self.rows
        assert list(self.segment_ends) == sorted(self.segment_ends)

    @property
    def rows(self) -> int:
        return self.keys.shape[0]

    @property
    def dim(self) -> int:
        return self.keys.shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content (not over versions or segments): what saved neighbours were found in."""
        digest = hashlib.sha256(repr((_FORMAT, self.keys.shape, self.times is None)).encode())
        for column in self._columns(0, self.rows).values():
            digest.update(_plain(column).data)
        return digest.hexdigest()

    def with_keys_as(self, dtype: str) -> "MemoryBank":
        """The same rows with keys rounded to one of KEY_DTYPES; this bank itself if they are of it already."""
        keys = self.keys.astype(jnp.dtype(dtype), copy=False)
        return self if keys is self.keys else dataclasses.replace(self, keys=keys)

    def append(
        self,
        keys: AnyArray,
        target_ids: AnyArray,
        user_ids: AnyArray,
        lengths: AnyArray,
        times: AnyArray | None = None,
    ) -> "MemoryBank":
        """The next version: this bank's rows, then the given ones as a new segment. This bank stays as it is.

        Args: as the attributes; without rows, this bank is returned. Keys are rounded to the type of this bank's.

        Raises:
          DataError: as for a new bank; or another dim; or times given to a bank without them, or missing.
        """
        new = MemoryBank(keys, target_ids, user_ids, lengths, times)
        new = new.with_keys_as(str(self.keys.dtype))
        if new.dim != self.dim:
            raise DataError(
                f"keys to append have {new.dim} dimensions but the bank has {self.dim}; "
                "encode them with the encoder that the bank was built with"
            )
        if (new.times is None) != (self.times is None):
            has = {True: "no times", False: "times"}
            raise DataError(
                f"rows to append have {has[new.times is None]} but the bank has {has[self.times is None]}; "
                "give times to both or to neither"
            )
        if new.rows == 0:
            return self
        joined = {
            name: np.concatenate([column, getattr(new, name)])
            for name, column in self._columns(0, self.rows).items()
        }
        ends = (*self.segment_ends, self.rows + new.rows)
        return MemoryBank(**joined, version=self.version + 1, segment_ends=ends)

    def save(self, folder: PathLike, encoder_fingerprint: str, *, repair: bool = False) -> None:
        """Writes the bank, or brings the bank of the folder to this one; only segments that differ are written.

        Args:
          folder: made if absent; an older bank there is replaced.
          encoder_fingerprint: what names the encoder and parameters that made the keys.
          repair: also read what is there; what is damaged is written again, with one line of the log that names the
            file and the reason.

        Raises:
          CheckpointError: the folder's manifest is damaged or foreign and `repair` is off, or the folder cannot be
            written.
        """
        folder = pathlib.Path(folder)
        try:
            _make_folder(folder / "segments")
            old = _listed(folder, repair)
            _remove_unlisted(folder, old)
            segments = self._write_segments(folder, old, repair)
            manifest = {
                "format": _FORMAT,
                "version": self.version,
                "encoder_fingerprint": encoder_fingerprint,
                "segments": segments,
            }
            content = _manifest_bytes(manifest)
            replace_file(folder / "manifest.json", lambda file: file.write(content))
            _remove_unlisted(folder, segments)
        except OSError as error:
            raise CheckpointError(
                f"{folder}: the memory bank cannot be written ({error.strerror or error}); "
                "free space or choose another folder"
            ) from error

    @classmethod
    def load(cls, folder: PathLike, encoder_fingerprint: str | None = None) -> "MemoryBank":
        """Reads what `save` wrote, checking every digest.

        Args:
          folder: as given to `save`.
          encoder_fingerprint: if given, the bank must have been built by this encoder.

        Raises:
          CheckpointError: no bank there, a file of it is missing, damaged or foreign, or another encoder made it.
        """
        folder = pathlib.Path(folder)
        manifest = _read_manifest(folder)
        made_by = manifest["encoder_fingerprint"]
        if encoder_fingerprint is not None and encoder_fingerprint != made_by:
            raise CheckpointError(
                f"{folder}: the memory bank was built by encoder {made_by:.16} but the encoder in use is "
                f"{encoder_fingerprint:.16}; build the bank again or load the encoder that built it"
            )
        try:
            parts = [_read_segment(folder, segment) for segment in manifest["segments"]]
            ends = np.cumsum([len(part["keys"]) for part in parts])
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            if joined["keys"].dtype == np.uint16:
                joined["keys"] = joined["keys"].view(_BFLOAT16)
            return cls(**joined, version=manifest["version"], segment_ends=tuple(map(int, ends)))
        except CheckpointError:
            raise
        except (DataError, KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: the memory bank contradicts itself ({error}); remove the folder and build the bank again"
            ) from error

    def _columns(self, start: int, stop: int) -> dict[str, np.ndarray]:
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return {name: column[start:stop] for name, column in columns.items() if column is not None}

    def _write_segments(self, folder: pathlib.Path, old: list[dict], repair: bool) -> list[dict]:
        """Writes the segments that `old` lacks at their place; returns the manifest's entries of all.

        A damaged one gets a new name, so that the manifest, which is replaced last, tells of the old or the new bank.
        """
        next_number = 1 + max([int(segment["name"]) for segment in old], default=-1)
        entries = []
        starts = (0, *self.segment_ends[:-1])
        for place, (start, stop) in enumerate(zip(starts, self.segment_ends, strict=True)):
            columns = {n: _plain(column) for n, column in self._columns(start, stop).items()}
            files = {f"{name}.npy": _file_entry(column) for name, column in columns.items()}
            same = place < len(old) and old[place]["files"] == files
            if same and not (repair and _is_damaged(folder, old[place])):
                entries.append(old[place])
                continue
            name = f"{next_number:06d}"
            _write_segment(folder / "segments", name, columns)
            entries.append({"name": name, "rows": stop - start, "files": files})
            next_number += 1
        return entries


def as_int32(values: AnyArray, what: str, *, lowest: int = -(2**31)) -> np.ndarray:
    """[rows] integers of any width as int32, checked instead of wrapped around.

    Raises:
      DataError: not one axis of integers, or a value outside lowest..2**31 - 1.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; give one axis of integers"
        )
    if array.size and not (lowest <= array.min() and array.max() < 2**31):
        bad = int(np.flatnonzero((array < lowest) | (array >= 2**31))[0])
        raise DataError(
            f"{what}[{bad}] is {array[bad]}; expected an integer in {lowest}..{2**31 - 1}"
        )
    return np.ascontiguousarray(array, np.int32)


def as_vectors(values: AnyArray, what: str) -> np.ndarray:
    """[rows, dim] finite numbers as float32.

    Raises:
      DataError: not two axes of floats, no dimensions, or a value that is not finite in float32.
    """
    array = np.asarray(values)
    # Not `kind == "f"`: bfloat16 is no NumPy kind of its own.
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind in "biucOSU":
        raise DataError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; give [rows, dim] floats"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{what} row {int(np.argmin(finite))} is not finite; "
            "check the encoder's parameters and what it was given for that row"
        )
    return array


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


def _checked_columns(columns: dict[str, AnyArray | None]) -> dict[str, np.ndarray | None]:
    keys = as_vectors(columns["keys"], "memory keys")
    if np.asarray(columns["keys"]).dtype == _BFLOAT16:
        keys = keys.astype(_BFLOAT16)
    checked = {"keys": keys}
    for name, lowest in _LOWEST.items():
        if columns[name] is None and name == "times":
            checked[name] = None
            continue
        checked[name] = as_int32(columns[name], f"memory {name}", lowest=lowest)
        if len(checked[name]) != len(keys):
            raise DataError(
                f"memory {name} has {len(checked[name])} rows but keys has {len(keys)}; give one per key"
            )
    for name, column in checked.items():
        if column is not None:
            checked[name] = column.view()  # the caller's own array stays writeable
            checked[name].flags.writeable = False
    return checked


def _plain(column: np.ndarray) -> np.ndarray:
    """The column as NumPy and its files know it: bfloat16 as its bits."""
    return column.view(np.uint16) if column.dtype == _BFLOAT16 else column


def _manifest_bytes(manifest: dict) -> bytes:
    """The one way to write this manifest, its own digest included: any other bytes are damage."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**manifest, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(folder: pathlib.Path) -> dict:
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
        known = manifest["format"] == _FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise CheckpointError(
            f"{path}: damaged, or not the manifest of a {_FORMAT}; remove the folder and build the bank again"
        )
    unsigned = {name: value for name, value in manifest.items() if name != "sha256"}
    if _manifest_bytes(unsigned) != content:
        raise CheckpointError(
            f"{path}: damaged, its content is not what was written; remove the folder and build the bank again"
        )
    return manifest


def _listed(folder: pathlib.Path, repair: bool) -> list[dict]:
    """The manifest's entries of the segments there; none if there is no manifest, or a damaged one to be replaced."""
    if not (folder / "manifest.json").exists():
        return []
    try:
        return _read_manifest(folder)["segments"]
    except CheckpointError as error:
        if not repair:
            raise
        _say_written_again(error)
        return []


def _is_damaged(folder: pathlib.Path, segment: dict) -> bool:
    try:
        _read_segment(folder, segment)
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


def _file_entry(column: np.ndarray) -> dict:
    """What the manifest says of a file: enough to know it again without reading it."""
    digest = hashlib.sha256(_npy_header(column))
    digest.update(column.data)
    return {"shape": list(column.shape), "dtype": column.dtype.str, "sha256": digest.hexdigest()}


def _write_segment(segments: pathlib.Path, name: str, columns: dict[str, np.ndarray]) -> None:
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


def _read_segment(folder: pathlib.Path, segment: dict) -> dict[str, np.ndarray]:
    if not _SEGMENT_NAME.fullmatch(segment["name"]):  # never out of the folder
        raise CheckpointError(
            f"{folder}/manifest.json: {segment['name']!r:.80} is not the name of a segment"
        )
    columns = {}
    for file_name, entry in segment["files"].items():
        if file_name.removesuffix(".npy") not in _COLUMNS:
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


def _remove_unlisted(folder: pathlib.Path, listed: list[dict]) -> None:
    """Removes what unfinished or replaced saves left; a file that no save of ours makes is kept."""
    names = {segment["name"] for segment in listed}
    for path in (folder / "segments").iterdir():
        if path.name not in names and _LEFTOVER_NAME.fullmatch(path.name):
            shutil.rmtree(path)
    (folder / ".unfinished-manifest.json").unlink(missing_ok=True)


def _make_folder(folder: pathlib.Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
