"""StoreReader: a consistent version of a store, and the next one when there is one; any number beside one writer."""

import os
import pathlib
import threading

import numpy as np

from raserec_jax.errors import CheckpointError
from raserec_jax.store.files import PathLike, read_manifest, read_segment
from raserec_jax.store.layout import COLUMNS, STORE, check_manifest
from raserec_jax.store.snapshot import Content, Snapshot

ATTEMPTS = 100  # versions that may replace one another while one is being read


class StoreReader:
    """Reads the store of a folder; threads may share it.

    Attributes:
      folder: of the store.
      snapshot: the version that was read last; replaced as a whole by `refresh`.
    """

    def __init__(self, folder: PathLike, encoder_fingerprint: str | None = None):
        """Reads the newest version, checking every digest.

        Args:
          folder: of a store.
          encoder_fingerprint: if given, the store must have been made by this encoder.

        Raises:
          CheckpointError: no store there, a file is missing, damaged or foreign, or another encoder made it.
        """
        self.folder = pathlib.Path(folder)
        self._lock = threading.RLock()
        self._seen: tuple[int, ...] | None = None
        self._content: Content | None = None
        self._manifest: dict = {}
        self.snapshot: Snapshot
        self._encoder = encoder_fingerprint
        self._read()

    @property
    def version(self) -> int:
        return self.snapshot.version

    def refresh(self) -> bool:
        """Takes the newest version; only what is new is read. Costs a look at one file's date if there is none.

        Returns:
          Whether there was a newer one.

        Raises:
          CheckpointError: as when opening; the version at hand stays.
        """
        if self._seen == stamp(self.folder):
            return False
        with self._lock:
            before = self.snapshot
            self._read()
            return self.snapshot.version != before.version or not self.snapshot.follows(before)

    def _read(self) -> None:
        for _ in range(ATTEMPTS):
            seen = stamp(self.folder)
            manifest = check_manifest(self.folder, read_manifest(self.folder, STORE))
            check_encoder(self.folder, manifest, self._encoder)
            try:
                content, new = self._new_columns(manifest)
            except CheckpointError:
                # A compaction removes the files of the version before: then there is a newer manifest.
                if stamp(self.folder) == seen:
                    raise
                continue
            try:
                self._check(new, manifest, content)
                content.add(new, manifest["num_users"])
                snapshot = content.snapshot(manifest)
            except (IndexError, ValueError, KeyError, TypeError) as error:
                self._content = None  # may hold half of it
                raise CheckpointError(
                    f"{self.folder}: the memory store contradicts itself ({error}); {STORE.way_out}"
                ) from error
            self._content, self._manifest, self._seen = content, manifest, seen
            self._encoder = snapshot.encoder_fingerprint
            self.snapshot = snapshot
            return
        raise CheckpointError(
            f"{self.folder}: changes faster than it can be read; try again when less is written"
        )

    def _new_columns(self, manifest: dict) -> tuple[Content, dict[str, np.ndarray]]:
        """The content to be added to, and the rows of each column that it does not have yet."""
        content = self._content
        if content is None or not self._goes_on(manifest):
            content = Content(manifest)
        parts: dict[str, list[np.ndarray]] = {}
        ends = dict.fromkeys(COLUMNS, 0)
        for segment in manifest["segments"]:
            starts = dict(ends)
            for name, rows in segment_rows(segment).items():
                ends[name] += rows
            if all(ends[name] <= content.counts.get(name, 0) for name in COLUMNS):
                continue
            columns = read_segment(self.folder, segment, STORE, mapped=True)
            for name, column in columns.items():
                known = max(content.counts.get(name, 0) - starts[name], 0)
                if known < len(column):
                    parts.setdefault(name, []).append(column[known:])
        for name, count in content.counts.items():
            if ends[name] < count:
                raise CheckpointError(
                    f"{self.folder}/manifest.json: has fewer rows than a version before it; {STORE.way_out}"
                )
        return content, {
            name: found[0] if len(found) == 1 else np.concatenate(found)
            for name, found in parts.items()
        }

    def _goes_on(self, manifest: dict) -> bool:
        """Whether a manifest is of this version or a later one of its epoch, not of a copy that was put back since."""
        own, history = self._manifest["history"][-1], manifest["history"]
        if self._manifest["epoch"] != manifest["epoch"] or own["version"] > manifest["version"]:
            return False
        return own in history or own["version"] < history[0]["version"]  # too old to be listed

    def _check(self, new: dict[str, np.ndarray], manifest: dict, content: Content) -> None:
        """Raises ValueError for an id that cannot be; the files are as they were written, but by whom?"""

        def count(name: str) -> int:
            return content.counts.get(name, 0) + len(new.get(name, ()))

        ranges = {
            "target_ids": (1, manifest["num_items"]),
            "user_ids": (0, manifest["next_user_id"] - 1),
            "lengths": (0, 2**31 - 1),
            "event_item_ids": (0, manifest["num_items"]),
            "event_user_ids": (0, manifest["next_user_id"] - 1),
            "dead_rows": (0, count("user_ids") - 1),
            "dead_events": (0, count("event_user_ids") - 1),
            "emptied_events": (0, count("event_user_ids") - 1),
            "forgotten_item_ids": (1, manifest["num_items"]),
        }
        for name, (lowest, highest) in ranges.items():
            column = new.get(name)
            if column is not None and not lowest <= column.min() <= column.max() <= highest:
                raise ValueError(f"{name} holds an id outside {lowest}..{highest}")


def stamp(folder: pathlib.Path) -> tuple[int, ...] | None:
    """What tells one manifest from the next without reading it; None if there is none."""
    try:
        found = os.stat(folder / "manifest.json")
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def segment_rows(segment: dict) -> dict[str, int]:
    """Rows of each column of a segment."""
    return {
        name.removesuffix(".npy"): entry["shape"][0] for name, entry in segment["files"].items()
    }


def check_encoder(folder: pathlib.Path, manifest: dict, encoder_fingerprint: str | None) -> None:
    """Raises CheckpointError if the store was made by another encoder."""
    made_by = manifest["encoder_fingerprint"]
    if encoder_fingerprint is not None and encoder_fingerprint != made_by:
        raise CheckpointError(
            f"{folder}: the memory was made by encoder {made_by:.16} but the encoder in use is "
            f"{encoder_fingerprint:.16}; load that encoder, or encode the memory again (reencode)"
        )


def read_columns(folder: pathlib.Path, segments: list[dict]) -> dict[str, np.ndarray]:
    """All columns of some segments, one after another.

    Raises:
      CheckpointError: a file is missing or damaged.
    """
    parts = [read_segment(folder, segment, STORE, mapped=True) for segment in segments]
    names = [name for name in COLUMNS if any(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
