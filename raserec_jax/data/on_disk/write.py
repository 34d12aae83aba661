"""The last passes: a log's folder, array by array, with the bytes that `InteractionLog.save` writes."""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from raserec_jax.data import interactions, storage
from raserec_jax.data.labels import decoded
from raserec_jax.data.on_disk.gather import Gathered
from raserec_jax.data.on_disk.parts import Parts
from raserec_jax.data.records.content import Histories, History

_BLOCK = 2**16  # labels at a time

Columns = dict[str, tuple[np.dtype, int, Callable[[], Iterator[np.ndarray]]]]
"""Name of an array of a log -> its type, its length, and a function that gives its blocks."""


class LogContent:
    """A log in parts, as the arrays of an `InteractionLog`, in blocks.

    Args:
      found: of the source.
      parts: of the log.
      users, interactions: how many the log has.
      of_item: [items of the source] interactions of each; items without any are none of the log's.
    """

    def __init__(self, found: Gathered, parts: Parts, users: int, rows: int, of_item: np.ndarray):
        self._parts, self._found = parts, found
        self._present = np.flatnonzero(of_item)
        self._ids = np.zeros(len(of_item), np.int32)
        self._ids[self._present] = np.arange(1, len(self._present) + 1, dtype=np.int32)
        user_kind = np.int64 if found.users_are_integers else f"U{found.user_width}"
        self.columns: Columns = {
            "user_ids": (np.dtype(np.int32), rows, self._user_ids),
            "item_ids": (np.dtype(np.int32), rows, self._item_ids),
            "user_labels": (np.dtype(user_kind), users, self._user_labels),
            "item_labels": (self._item_kind, len(self._present) + 1, self._item_labels),
        }
        if found.timestamp is not None:
            self.columns["timestamps"] = (np.dtype(found.timestamp), rows, self._timestamps)

    @property
    def _item_kind(self) -> np.dtype:
        integers = self._found.item_labels.dtype.kind == "i"
        return np.dtype(np.int64 if integers else f"U{self._found.item_width}")

    def item_labels(self) -> np.ndarray:
        """[V + 1] original ids; the padding's placeholder first."""
        return np.concatenate(list(self._item_labels()))

    def histories(self, name: str, fingerprint: str) -> Histories:
        """The log as records have it."""
        kind, users, _ = self.columns["user_labels"]
        times = self.columns.get("timestamps")
        return Histories(
            name,
            fingerprint,
            users,
            kind.kind == "i",
            None if times is None else times[0],
            self.item_labels(),
            self._each,
        )

    def _each(self) -> Iterator[History]:
        for part in self._parts:
            labels = decoded(part.labels, "").tolist()
            item_ids, times = self._ids[part.item_ids], part.timestamps
            ends = np.cumsum(part.lengths).tolist()
            for label, start, end in zip(labels, [0, *ends], ends, strict=False):
                rows = slice(start, end)
                yield History(label, item_ids[rows], None if times is None else times[rows])

    def _user_ids(self) -> Iterator[np.ndarray]:
        first = 0
        for number in range(self._parts.count):
            lengths, _ = self._parts.histories(number)
            users = np.arange(first, first + len(lengths), dtype=np.int32)
            yield np.repeat(users, lengths)
            first += len(lengths)

    def _item_ids(self) -> Iterator[np.ndarray]:
        for number in range(self._parts.count):
            yield self._ids[self._parts.histories(number)[1]]

    def _timestamps(self) -> Iterator[np.ndarray]:
        return (part.timestamps for part in self._parts)

    def _user_labels(self) -> Iterator[np.ndarray]:
        for part in self._parts:
            yield from _blocks(part.labels, self.columns["user_labels"][0])

    def _item_labels(self) -> Iterator[np.ndarray]:
        yield np.zeros(1, self._item_kind)
        for start in range(0, len(self._present), _BLOCK):
            labels = self._found.item_labels[self._present[start : start + _BLOCK]]
            yield from _blocks(labels, self._item_kind)


def _blocks(labels: np.ndarray, kind: np.dtype) -> Iterator[np.ndarray]:
    for start in range(0, len(labels), _BLOCK):
        yield decoded(labels[start : start + _BLOCK], "").astype(kind)


def write_log(
    columns: Columns,
    folder: pathlib.Path | None,
    name: str,
    *,
    array_done: Callable[[], object] = lambda: None,
) -> str:
    """Fills an empty folder with a log's files.

    Args:
      columns: of the log.
      folder: to be filled; None: only the fingerprint is wanted.
      name: of the log.
      array_done: called after each array.

    Returns:
      The log's fingerprint.

    Raises:
      OSError: it cannot be written.
    """
    digests: dict[str, str] = {}
    fingerprint = interactions.new_fingerprint()
    for array in ("user_ids", "item_ids", "timestamps", "user_labels", "item_labels"):
        if array not in columns:
            interactions.add_header(fingerprint, None, 0)
            continue
        kind, rows, blocks = columns[array]
        is_label = array.endswith("labels")
        if is_label:
            fingerprint.update(b"[")
        else:
            interactions.add_header(fingerprint, kind, rows)
        file = None if folder is None else _NpyFile(folder / f"{array}.npy", kind, rows)
        for number, block in enumerate(blocks()):
            if file is not None:
                file.add(block)
            if is_label:
                text = json.dumps(block.tolist())[1:-1]
                fingerprint.update((", " if number and text else "").encode() + text.encode())
            else:
                fingerprint.update(np.ascontiguousarray(block))
        if is_label:
            fingerprint.update(b"]")
        if file is not None:
            digests[f"{array}.npy"] = file.close()
        array_done()
    header = {"name": name, "fingerprint": fingerprint.hexdigest()}
    if folder is not None:
        manifest = storage.manifest_bytes(interactions.KIND, header, digests)
        storage.write_flushed(folder / storage.MANIFEST, manifest)
    return header["fingerprint"]


class _NpyFile:
    """A flat array that is written in blocks, as numpy.save writes it whole."""

    def __init__(self, path: pathlib.Path, kind: np.dtype, rows: int):
        self._file, self._digest, self._left = open(path, "xb"), hashlib.sha256(), rows
        header = {
            "descr": np.lib.format.dtype_to_descr(kind),
            "fortran_order": False,
            "shape": (rows,),
        }
        start = io.BytesIO()
        np.lib.format.write_array_header_1_0(start, header)
        self._write(start.getvalue())

    def add(self, block: np.ndarray) -> None:
        self._left -= len(block)
        self._write(block.tobytes())

    def close(self) -> str:
        """The SHA-256 of the file, which is on the disk then."""
        assert not self._left, "the blocks have as many rows as the header says"
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def _write(self, content) -> None:
        self._digest.update(content)
        self._file.write(content)
