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
import pathlib

import jax.numpy as jnp
import numpy as np

from raserec_jax.constants import PAD_ID
from raserec_jax.errors import CheckpointError, DataError
from raserec_jax.retrieval.arrays import AnyArray
from raserec_jax.store.arrays import as_int32, as_vectors
from raserec_jax.store.files import (
    Kind,
    PathLike,
    file_entry,
    is_damaged,
    listed_segments,
    make_folder,
    manifest_bytes,
    read_manifest,
    read_segment,
    remove_unlisted,
    replace_file,
    write_segment,
)

COLUMNS = ("keys", "target_ids", "user_ids", "lengths", "times")
BANK_FORMAT = "raserec_jax memory bank 1"
BANK = Kind(
    BANK_FORMAT,
    COLUMNS,
    "memory bank",
    "remove the folder of the bank and build it again",
    indent=1,
)
KEY_DTYPES = ("float32", "bfloat16")
_BFLOAT16 = np.dtype(jnp.bfloat16)
_LOWEST = {"target_ids": PAD_ID + 1, "user_ids": 0, "lengths": 0, "times": 0}


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
        given = {name: getattr(self, name) for name in COLUMNS}
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
        digest = hashlib.sha256(repr((BANK_FORMAT, self.keys.shape, self.times is None)).encode())
        for column in self._columns(0, self.rows).values():
            digest.update(_plain(column).data)
        return digest.hexdigest()

    def with_keys_as(self, dtype: str) -> "MemoryBank":
        """The same rows with keys rounded to one of KEY_DTYPES; this bank itself if they are of it already."""
        keys = self.keys.astype(jnp.dtype(dtype), copy=False)
        return self if keys is self.keys else dataclasses.replace(self, keys=keys)

    def select(self, rows: AnyArray | slice) -> "MemoryBank":
        """A bank with some of the rows of this version, in their order.

        Args:
          rows: [rows] bool, or ids of rows, or a slice.
        """
        columns = self._columns(0, self.rows)
        chosen = {name: column[rows] for name, column in columns.items()}
        return MemoryBank(**chosen, version=self.version)

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
            make_folder(folder / "segments")
            old = listed_segments(folder, BANK, repair)
            remove_unlisted(folder, old)
            segments = self._write_segments(folder, old, repair)
            manifest = {
                "format": BANK_FORMAT,
                "version": self.version,
                "encoder_fingerprint": encoder_fingerprint,
                "segments": segments,
            }
            content = manifest_bytes(manifest, BANK)
            replace_file(folder / "manifest.json", lambda file: file.write(content))
            remove_unlisted(folder, segments)
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
        manifest = read_manifest(folder, BANK)
        made_by = manifest["encoder_fingerprint"]
        if encoder_fingerprint is not None and encoder_fingerprint != made_by:
            raise CheckpointError(
                f"{folder}: the memory bank was built by encoder {made_by:.16} but the encoder in use is "
                f"{encoder_fingerprint:.16}; build the bank again or load the encoder that built it"
            )
        try:
            parts = [read_segment(folder, segment, BANK) for segment in manifest["segments"]]
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
        columns = {name: getattr(self, name) for name in COLUMNS}
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
            files = {f"{name}.npy": file_entry(column) for name, column in columns.items()}
            same = place < len(old) and old[place]["files"] == files
            if same and not (repair and is_damaged(folder, old[place], BANK)):
                entries.append(old[place])
                continue
            name = f"{next_number:06d}"
            write_segment(folder / "segments", name, columns)
            entries.append({"name": name, "rows": stop - start, "files": files})
            next_number += 1
        return entries


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
