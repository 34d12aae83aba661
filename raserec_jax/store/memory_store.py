"""MemoryStore: a memory that lives on disk; what it was given is there when a call returns, and never half of it.

    store = MemoryStore.create("memory", encoder_fingerprint="...", dim=64, num_users=100, num_items=500)
    store.append(keys, target_ids, user_ids, lengths)
    store.delete(users=[7])            # not found from now on
    store.compact()                    # and no file holds it any more

A folder:

    manifest.json            version, encoder, and of every file its shape, type and SHA-256; replaced by a rename
    segments/000000/*.npy    the columns of `layout`, never changed once they are listed
    .lock                    of the one writer

A change writes one segment, flushed, then the manifest: a crash at any instant leaves the version before or the new
one. What an unfinished change left is not listed, so nobody reads it, and the next writer removes it. Segments are
folded into one when they become many, so that the number of files stays small and each row is written again only
a few times.
"""

import contextlib
import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.store.arrays import as_vectors
from raserec_jax.store.changes import Events, Removed, checked_ids, checked_labels, whole_numbers
from raserec_jax.store.columns import entry_columns, event_columns
from raserec_jax.store.eviction import rows_to_evict
from raserec_jax.store.files import PathLike, remove_unlisted
from raserec_jax.store.layout import COLUMNS, STORE, manifest_problem
from raserec_jax.store.live import live_columns, plain
from raserec_jax.store.lock import locked
from raserec_jax.store.reading import StoreReader, read_columns, stamp
from raserec_jax.store.snapshot import label_columns
from raserec_jax.store.verifying import verify_store
from raserec_jax.store.writing import (
    first_to_fold,
    line,
    unwritten,
    write_store,
    write_version,
)

_KEPT_HISTORY = 100


class MemoryStore(StoreReader):
    """Reads like a StoreReader, and writes. A handle keeps nobody else from writing between its calls.

    Every change raises:
      CheckpointError: another writer did not end within `timeout_s`, the disk is full or read-only, or a file is
        damaged; the store is as before. Only where the disk fails in the last flush, or old files cannot be removed,
        is the new version there already; the message says so.
    """

    def __init__(
        self,
        folder: PathLike,
        encoder_fingerprint: str | None = None,
        *,
        timeout_s: float = 10.0,
    ):
        """Opens a store; arguments and errors as StoreReader, and how long a change waits for another writer."""
        super().__init__(folder, encoder_fingerprint)
        self.timeout_s = timeout_s
        self._writers = 0

    @classmethod
    def create(
        cls,
        folder: PathLike,
        *,
        encoder_fingerprint: str,
        dim: int,
        num_users: int,
        num_items: int,
        log_fingerprint: str = "",
        key_dtype: str = "float32",
        time_dtype: str | None = None,
    ) -> "MemoryStore":
        """An empty store in a folder that holds none.

        Args:
          folder: made if absent.
          encoder_fingerprint: names what makes the keys.
          dim: of the keys.
          num_users, num_items: of the log whose ids are used; users from num_users on are new ones.
          log_fingerprint: names that log.
          key_dtype: "float32", or "bfloat16" for half the bytes.
          time_dtype: "int64" or "float64"; None for entries and events without times.

        Raises:
          ConfigError: a number or a type that cannot be.
          CheckpointError: the folder holds a store, or cannot be written.
        """
        manifest = {
            "format": STORE.format,
            "version": 1,
            "epoch": 0,
            "encoder_fingerprint": encoder_fingerprint,
            "log_fingerprint": log_fingerprint,
            "dim": dim,
            "key_dtype": key_dtype,
            "time_dtype": time_dtype,
            "num_users": num_users,
            "num_items": num_items,
            "next_user_id": num_users,
            "next_segment": 0,
            "segments": [],
            "history": [line(1, "created")],
        }
        problem = manifest_problem(manifest)
        if problem:
            raise ConfigError(f"{folder}: no memory store can be made: {problem}")
        write_store(pathlib.Path(folder), manifest, {})
        return cls(folder, encoder_fingerprint)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Context of one writer, at the newest version; several changes may be made in it, and it may be nested."""
        with self._lock:
            if self._writers:
                yield
                return
            with locked(self.folder, self.timeout_s):
                self._writers = 1
                try:
                    self.refresh()
                    self._tidy(self._manifest["segments"])
                    yield
                finally:
                    self._writers = 0

    def append(
        self,
        keys: Any,
        target_ids: Any,
        user_ids: Any,
        lengths: Any,
        times: Any = None,
        *,
        events: Events | None = None,
        new_users: Mapping[int, str] | None = None,
        replaced_rows: Any = None,
    ) -> int:
        """Adds entries and what led to them, as one version.

        Args:
          keys: [entries, dim] finite floats; entries may be 0.
          target_ids: [entries] 1..num_items.
          user_ids: [entries] of the log, or of new users.
          lengths: [entries] >= 0, items of the history.
          times: [entries], if the store has times.
          events: interactions to keep.
          new_users: id -> original id, from `snapshot.next_user_id` on.
          replaced_rows: entries that go at the same time.

        Returns:
          The version that has them. Without anything to add, the present one.

        Raises:
          DataError: a key is not finite or of another dim, an id or a time is out of range, or the columns differ in
            length; nothing was changed then.
        """
        with self.writing():
            new_users = checked_labels(new_users or {}, self.snapshot.next_user_id)
            known_users = self.snapshot.next_user_id + len(new_users)
            columns = entry_columns(
                self.snapshot, keys, target_ids, user_ids, lengths, times, num_users=known_users
            )
            if events is not None:
                columns |= event_columns(self.snapshot, events, num_users=known_users)
            if replaced_rows is not None:
                rows = checked_ids(replaced_rows, "replaced_rows", 0, self.snapshot.rows)
                columns["dead_rows"] = np.unique(rows)
            if new_users:
                columns |= label_columns(new_users)
            columns = {name: column for name, column in columns.items() if len(column)}
            if not columns:
                return self.version
            entries, taken = (len(columns.get(name, ())) for name in ("keys", "event_user_ids"))
            what = f"append: {entries} entries, {taken} events"
            return self._commit(what, columns, next_user_id=known_users)

    def delete(self, users: Iterable = (), items: Iterable = ()) -> Removed:
        """Removes users, with their histories and names, and items; what was there of them is found no more.

        Of a user of the log, the log's history is not to be used any more either. Of an item, the entries that it
        followed go; where it stood in a history, its place stays, empty. After `compact` no file holds them.

        Args:
          users, items: dense ids; unknown ones are no error.

        Raises:
          DataError: an id is no integer; nothing was changed then.
        """
        users, items = whole_numbers(users, "users"), whole_numbers(items, "items")
        with self.writing():
            now = self.snapshot
            users = np.array(sorted(user for user in users if 0 <= user < now.next_user_id))
            items = np.array(sorted(item for item in items if 0 < item <= now.num_items))
            of_user = np.isin(now.event_user_ids, users) & now.event_alive
            of_item = np.isin(now.event_item_ids, items) & now.event_alive & ~of_user
            dead = (np.isin(now.user_ids, users) | np.isin(now.target_ids, items)) & now.alive
            named = [
                user
                for user in users.tolist()
                if user in now.labels or user < now.num_users and user not in now.forgotten_user_ids
            ]
            new_items = [item for item in items.tolist() if item not in now.forgotten_item_ids]
            columns = {
                "dead_rows": np.flatnonzero(dead),
                "dead_events": np.flatnonzero(of_user),
                "emptied_events": np.flatnonzero(of_item),
                "forgotten_user_ids": np.array(named),
                "forgotten_item_ids": np.array(new_items),
            }
            columns = {n: column.astype(np.int32) for n, column in columns.items() if len(column)}
            entries, events = int(dead.sum()), int(of_user.sum() + of_item.sum())
            if columns:
                self._commit(f"delete: {entries} entries, {events} events", columns)
            return Removed(entries, events, self.version)

    def evict(
        self,
        *,
        older_than: int | float | None = None,
        per_user: int | None = None,
        total: int | None = None,
    ) -> Removed:
        """Removes entries until the bounds hold; arguments and errors as `eviction.rows_to_evict`. Histories stay."""
        with self.writing():
            rows = rows_to_evict(
                self.snapshot, older_than=older_than, per_user=per_user, total=total
            )
            if len(rows):
                self._commit(f"evict: {len(rows)} entries", {"dead_rows": rows})
            return Removed(len(rows), 0, self.version)

    def compact(self) -> int:
        """Writes what is there into one segment and removes all older files.

        Returns:
          Bytes that this gave back.
        """
        with self.writing():
            before = self._disk_bytes()
            self._put("compact", [], live_columns(self.snapshot), epoch=self._manifest["epoch"] + 1)
            return before - self._disk_bytes()

    def replace_keys(self, keys: Any, encoder_fingerprint: str, *, without: Any = ()) -> int:
        """Gives every entry a key of another encoder, as one version; readers with the old encoder refuse it.

        Args:
          keys: [entries that are there, dim], in the order of their rows; dim may be another.
          encoder_fingerprint: of the new encoder.
          without: rows that go at the same time, and have no key.

        Raises:
          DataError: not one finite key per entry.
        """
        with self.writing():
            now = self.snapshot
            alive = now.alive.copy()
            alive[np.array(without, np.int64)] = False
            columns = live_columns(dataclasses.replace(now, alive=alive))
            keys = as_vectors(keys, "keys")
            if len(keys) != int(alive.sum()):
                raise DataError(
                    f"{len(keys)} keys for {int(alive.sum())} entries; give one per entry"
                )
            if len(keys):
                columns["keys"] = plain(keys.astype(now.keys.dtype))
            changes = {
                "dim": keys.shape[1],
                "encoder_fingerprint": encoder_fingerprint,
                "epoch": self._manifest["epoch"] + 1,
            }
            return self._put("reencode", [], columns, **changes)

    def import_from(self, folder: PathLike) -> int:
        """Replaces the content by that of another store, such as `export` wrote; as one version.

        Raises:
          CheckpointError: it is damaged, or of another encoder or log.
        """
        with self.writing():
            source = StoreReader(folder, self.snapshot.encoder_fingerprint)
            same = ("log_fingerprint", "dim", "num_users", "num_items", "key_dtype", "time_dtype")
            for name in same:
                given, own = source._manifest[name], self._manifest[name]
                if given != own:
                    raise CheckpointError(
                        f"{folder}: its {name} is {given!r:.20} but that of {self.folder} is {own!r:.20}; "
                        "import a store of the same log"
                    )
            changes = {
                "epoch": self._manifest["epoch"] + 1,
                "next_user_id": source.snapshot.next_user_id,
            }
            return self._put("import", [], live_columns(source.snapshot), **changes)

    def export(self, folder: PathLike) -> None:
        """Writes what is there into a new folder, a store of its own.

        Raises:
          CheckpointError: the folder holds a store, or cannot be written.
        """
        with self._lock:  # another thread's change must not come between the two
            now, manifest = self.snapshot, self._manifest
        history = [line(now.version, "exported")]
        manifest = {**manifest, "segments": [], "history": history}
        write_store(pathlib.Path(folder), manifest, live_columns(now))

    def versions(self) -> list[dict]:
        """The last changes, oldest first: version, at (seconds since 1970, UTC), what (in words, without ids)."""
        return [dict(line) for line in self._manifest["history"]]

    def stats(self) -> dict[str, Any]:
        """What the store holds, in numbers."""
        now = self.snapshot
        users, times = now.user_ids[now.alive], None
        if now.times is not None and now.alive.any():
            times = now.times[now.alive]
        return {
            "version": now.version,
            "entries": len(users),
            "removed_entries": now.rows - len(users),
            "events": int(now.event_alive.sum()),
            "users": len(np.unique(users)),
            "items": len(np.unique(now.target_ids[now.alive])),
            "new_users": len(now.labels),
            "forgotten_users": len(now.forgotten_user_ids),
            "forgotten_items": len(now.forgotten_item_ids),
            "oldest_time": None if times is None else times.min().item(),
            "newest_time": None if times is None else times.max().item(),
            "segments": len(self._manifest["segments"]),
            "bytes": self._disk_bytes(),
            "encoder_fingerprint": now.encoder_fingerprint,
        }

    def verify(self) -> list[str]:
        """As `verify_store`, of this folder."""
        return verify_store(self.folder)

    def _commit(self, what: str, columns: dict[str, np.ndarray], **changes: Any) -> int:
        """Adds columns behind what is there."""
        segments = self._manifest["segments"]
        kept = first_to_fold(segments, max(len(column) for column in columns.values()))
        if kept < len(segments):
            old = read_columns(self.folder, segments[kept:])
            columns = {
                name: np.concatenate([part[name] for part in (old, columns) if name in part])
                for name in COLUMNS
                if name in old or name in columns
            }
        return self._put(what, segments[:kept], columns, **changes)

    def _put(
        self, what: str, kept: list[dict], columns: dict[str, np.ndarray], **changes: Any
    ) -> int:
        """Makes the version of the kept segments and one of these columns; returns its number."""
        assert self._writers
        before = self._manifest
        version = before["version"] + 1
        history = [*before["history"], line(version, what)][-_KEPT_HISTORY:]
        manifest = {**before, **changes, "version": version, "history": history, "segments": kept}
        try:
            write_version(self.folder, manifest, columns)
        except OSError as error:
            if self._seen != stamp(self.folder):  # renamed: the new manifest lists the new files
                raise CheckpointError(
                    f"{self.folder}: version {version} is there but could not be flushed ({error.strerror}), so a "
                    "power cut may take it back; check the disk, then look at `version` before trying again"
                ) from error
            with contextlib.suppress(OSError):
                remove_unlisted(self.folder, before["segments"])
            raise unwritten(self.folder, error) from error
        self._encoder = manifest["encoder_fingerprint"]
        self.refresh()
        self._tidy(self._manifest["segments"])
        return self.version

    def _tidy(self, segments: list[dict]) -> None:
        """Removes what unfinished changes left, and what a compaction replaced."""
        try:
            remove_unlisted(self.folder, segments)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: old files cannot be removed ({error.strerror}); check its permissions and compact"
            ) from error

    def _disk_bytes(self) -> int:
        total = 0
        for root, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a writer has removed it meanwhile
                    found = os.lstat(os.path.join(root, name))
                    total += found.st_size if stat.S_ISREG(found.st_mode) else 0
        return total
