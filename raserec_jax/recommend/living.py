"""LivingMemory: the memory of a workdir as it goes on after training, in the folder `live`.

Training leaves a bank that is made from the log, and makes it again from there whenever it is asked to. What comes
after training must not be lost by that, so the first update copies the bank into a store of its own; from then on
recommendations read the store. The store belongs to the encoder and the log that it was made with.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from raserec_jax import checkpoints
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.storage import PathLike
from raserec_jax.durable import flush_path
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.recommend.histories import Histories
from raserec_jax.recommend.memory import Memory, log_times
from raserec_jax.recommend.model import Model
from raserec_jax.recommend.traces import Forgotten, traces_in
from raserec_jax.recommend.updating import UpdateReport, plan_update, read_events
from raserec_jax.store import MemoryStore, Removed, Snapshot
from raserec_jax.store.changes import checked_label
from raserec_jax.store.live import plain
from raserec_jax.store.lock import locked

LIVE = "live"
_COPIED = ("config.json", "log", "stages", "best")
_TIMEOUT_S = 10.0


class LivingMemory:
    """Reads and writes the store behind a model, which always reads a whole version; threads may share it."""

    def __init__(self, model: Model):
        self._model = model
        # The process may change its folder.
        self._workdir = Path(os.path.abspath(model.workdir.folder))
        self._lock = threading.RLock()
        self._opened: MemoryStore | None = None

    @property
    def folder(self) -> Path:
        return self._workdir / LIVE

    @property
    def log(self) -> InteractionLog:
        return self._model.workdir.log

    def refresh(self) -> bool:
        """As `Recommender.refresh`."""
        with self._lock:
            if self._opened is None:
                if not self._is_there():
                    return False
                self._opened = self._open()
            else:
                self._opened.refresh()
            return self._show(self._opened.snapshot)

    def update(self, events: Iterable, *, dry_run: bool = False) -> UpdateReport:
        """As `Recommender.update`; a dry run only tells what it would do."""
        users, items, times = read_events(events, self.log)
        return self.update_columns(users, items, times, dry_run=dry_run)

    def update_columns(
        self, users: list, items: list, times: np.ndarray | None, *, dry_run: bool = False
    ) -> UpdateReport:
        """As `update`, from checked columns."""
        with self._lock:
            if dry_run:
                snapshot = self.present()
                planned = plan_update(self._histories(snapshot), users, items, times)
                return planned.report._replace(version=snapshot.version)
            store = self.store()
            with store.writing():
                planned = plan_update(self._histories(store.snapshot), users, items, times)
                version = store.version
                if planned.report.events:
                    version = store.append(
                        self._model.encode(planned.histories),
                        planned.target_ids,
                        planned.user_ids,
                        planned.lengths,
                        planned.times,
                        events=planned.events,
                        new_users=planned.new_users,
                        replaced_rows=planned.replaced_rows,
                    )
            self._show(store.snapshot)
            return planned.report._replace(version=version)

    def forget(
        self, users: Iterable, items: Iterable, *, compact: bool, dry_run: bool = False
    ) -> Forgotten:
        """Removes users and items, in original ids; unknown ones are no error. A dry run only tells."""
        users = [checked_label(user, "user") for user in users]
        items = [checked_label(item, "item") for item in items]
        log = self.log
        with self._lock:
            store = None if dry_run else self.store()
            snapshot = self.present() if store is None else store.snapshot
            user_ids = self._histories(snapshot).user_ids_of(users) if users else np.zeros(0, int)
            item_ids = log.item_ids_of(items) if items else np.zeros(0, int)
            user_ids, item_ids = user_ids[user_ids >= 0], item_ids[item_ids > 0]
            in_log = bool(len(item_ids) or (user_ids < log.num_users).any())
            if store is None:
                removed = _would_remove(snapshot, user_ids, item_ids)
            else:
                removed = store.delete(user_ids.tolist(), item_ids.tolist())
                if compact:
                    self.compact()
                self._show(store.snapshot)
                removed = removed._replace(version=store.version)
            return Forgotten(
                len(user_ids),
                len(item_ids),
                removed.entries,
                removed.events,
                compact and not dry_run,
                traces_in(
                    self._workdir,
                    in_log=in_log,
                    in_memory=not compact or dry_run,
                    in_keys=bool(len(item_ids)),
                ),
                removed.version,
            )

    def evict(self, **bounds) -> Removed:
        """As `MemoryStore.evict`."""
        with self._lock:
            removed = self.store().evict(**bounds)
            self._show(self.store().snapshot)
            return removed

    def compact(self) -> int:
        """Writes the memory's files anew, without what was removed; bytes that this gave back.

        Where a user or item of the log was removed, the bank and the neighbours that training left go as a whole: they
        hold them too, and launch/train.py makes them again from the log.
        """
        with self._lock:
            store = self.store()
            given_back = store.compact()
            now = store.snapshot
            self._show(now)
            if now.forgotten_user_ids or now.forgotten_item_ids:
                given_back += self._remove_trained()
            return given_back

    def reencode(self) -> int:
        """Gives every entry the key that this encoder makes of its history; how many there are.

        An entry whose history has lost all its items goes.

        Raises:
          ConfigError: there was no update yet.
          CheckpointError: the memory is damaged or of another log.
        """
        with self._lock:
            store = self._open_of_any_encoder()
            with store.writing():
                now = self._of_this_log(store.snapshot)
                histories, vectors, emptied = self._histories(now), [], []
                cached: dict[int, np.ndarray] = {}
                for row in np.flatnonzero(now.alive):
                    user_id = int(now.user_ids[row])
                    if user_id not in cached:
                        cached[user_id] = histories.items_of(user_id)
                    history = cached[user_id][: now.lengths[row]]
                    history = history[history > 0]
                    if len(history):
                        vectors.append(history)
                    else:
                        emptied.append(row)
                keys = self._model.encode(vectors)
                store.replace_keys(keys, self._fingerprint(), without=emptied)
            self._opened = store
            self._show(store.snapshot)
            return len(vectors)

    def save(self, folder: PathLike) -> None:
        """As `Recommender.save`."""
        folder = Path(os.path.abspath(folder))
        if folder.exists():
            raise CheckpointError(f"{folder}: exists already; give the name of a new folder")
        gone = [name for name in _COPIED if not (self._workdir / name).exists()]
        if gone:
            raise CheckpointError(
                f"{self._workdir}: has no {gone[0]} any more, so it cannot be saved; restore it from a copy"
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                for name in _COPIED:
                    _copy(self._workdir / name, made / name)
                with self._lock:
                    self.refresh()
                    if self._opened is not None:
                        self._opened.export(made / LIVE)
                    else:
                        memory = self._model.workdir.memory_folder
                        _copy(self._workdir / memory, made / memory)
                made.chmod(self._workdir.stat().st_mode & 0o777)  # mkdtemp lets nobody else read
                os.rename(made, folder)
                flush_path(folder.parent)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        except OSError as error:
            raise CheckpointError(
                f"{folder}: cannot be written ({error.strerror or error}); free space or choose another folder"
            ) from error

    def store(self) -> MemoryStore:
        """The store at its newest version, made from the bank that training left if there is none yet.

        Raises:
          ConfigError: the model has no memory.
          CheckpointError: the store is of another encoder or log, or cannot be written.
        """
        with self._lock:
            if self._opened is None and not self._is_there():
                self._adopt()
            if self._opened is None:
                self._opened = self._open()
            self._opened.refresh()
            return self._opened

    def _is_there(self) -> bool:
        """Whether there was an update.

        The folder gets its name when it is whole, so one that lacks something is damaged, and never taken for none.
        """
        return os.path.lexists(self.folder)

    def _open(self, *, any_encoder: bool = False) -> MemoryStore:
        if not (self.folder / "manifest.json").exists():
            raise CheckpointError(
                f"{self.folder}: damaged, it has no manifest.json; restore the folder from a copy, or move it away to "
                "go on from the memory that training left, without all updates and removals"
            )
        made_by = None if any_encoder else self._fingerprint()
        store = MemoryStore(self.folder, made_by, timeout_s=_TIMEOUT_S)
        self._of_this_log(store.snapshot)
        return store

    def _open_of_any_encoder(self) -> MemoryStore:
        if not self._is_there():
            raise ConfigError(
                f"{self.folder}: not there, as there was no update yet, so nothing is to be encoded again; "
                "launch/train.py encodes the memory of training"
            )
        return self._open(any_encoder=True)

    def open_for_dry_run(self) -> None:
        """Takes the store of whatever encoder, as `reencode` would; what follows must not write.

        Raises:
          ConfigError, CheckpointError: as `reencode`.
        """
        with self._lock:
            self._opened = self._open_of_any_encoder()

    def _of_this_log(self, snapshot: Snapshot) -> Snapshot:
        log = self.log
        if snapshot.log_fingerprint != log.fingerprint():
            raise CheckpointError(
                f"{self.folder}: the memory goes on from log {snapshot.log_fingerprint:.16} but the workdir's is "
                f"{log.fingerprint():.16}; move the folder away, and give the events to update_memory again"
            )
        return snapshot

    def _fingerprint(self) -> str:
        return checkpoints.params_fingerprint(self._model.workdir.encoder_params)

    def _histories(self, snapshot: Snapshot) -> Histories:
        return Histories(self.log, snapshot)

    def _show(self, snapshot: Snapshot) -> bool:
        """Lets the model read this version; whether it is another one."""
        before = self._model.memory
        if before is not None and before.snapshot is not None:
            if before.snapshot.version == snapshot.version and snapshot.follows(before.snapshot):
                return False
        workdir = self._model.workdir
        self._model.memory = Memory.of_snapshot(
            workdir.config.memory, workdir.log, snapshot, before, mesh=self._model.mesh
        )
        return True

    def present(self) -> Snapshot:
        """The content now, without making a store."""
        if self._opened is not None or self._is_there():
            return self.store().snapshot
        with tempfile.TemporaryDirectory() as folder:
            return self._copied_into(Path(folder) / LIVE).snapshot

    def _adopt(self) -> None:
        """Copies the bank that training left into a store, whole or not at all."""
        try:
            with locked(self._workdir, _TIMEOUT_S):
                if self._is_there():
                    return  # somebody else was faster
                made = self._workdir / f".{LIVE}-unfinished"
                shutil.rmtree(made, ignore_errors=True)
                self._copied_into(made)
                os.rename(made, self.folder)
                flush_path(self._workdir)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be written ({error.strerror or error}); free space, or check its permissions"
            ) from error

    def _copied_into(self, folder: Path) -> MemoryStore:
        if self._model.memory is None:
            raise ConfigError(
                f"{self._workdir}: has no memory to be updated (scoring {self._model.method.scoring}); "
                "run launch/train.py with its stages memory and finetune or mixing"
            )
        bank, log = self._model.memory.bank, self.log
        times = log_times(log)
        store = MemoryStore.create(
            folder,
            encoder_fingerprint=self._fingerprint(),
            dim=bank.dim,
            num_users=log.num_users,
            num_items=log.num_items,
            log_fingerprint=log.fingerprint(),
            key_dtype="float32" if plain(bank.keys) is bank.keys else "bfloat16",
            time_dtype=None if times is None else times.dtype.name,
        )
        ranks = bank.times
        store.append(
            np.asarray(bank.keys, np.float32),
            bank.target_ids,
            bank.user_ids,
            bank.lengths,
            None if times is None else times[ranks],
        )
        return store

    def _remove_trained(self) -> int:
        """Removes the banks and neighbours of training; bytes."""
        size = 0
        with locked(self._workdir, _TIMEOUT_S):
            for name in ("memory", "memory_finetuned"):
                folder = self._workdir / name
                paths = [folder / "manifest.json", *folder.glob("*neighbours_*.npz*")]
                paths += sorted((folder / "segments").rglob("*.npy"))
                paths = [path for path in paths if path.exists()]
                size += sum(path.stat().st_size for path in paths)
                try:
                    for path in paths:
                        path.unlink()
                    shutil.rmtree(folder / "segments", ignore_errors=True)
                    if folder.exists():
                        flush_path(folder)
                except OSError as error:
                    raise CheckpointError(
                        f"{folder}: cannot be removed ({error.strerror}); remove it, as it holds what was deleted"
                    ) from error
        return size


def _would_remove(snapshot: Snapshot, user_ids: np.ndarray, item_ids: np.ndarray) -> Removed:
    entries = np.isin(snapshot.user_ids, user_ids) | np.isin(snapshot.target_ids, item_ids)
    events = np.isin(snapshot.event_user_ids, user_ids)
    events |= np.isin(snapshot.event_item_ids, item_ids)
    counts = ((entries & snapshot.alive).sum(), (events & snapshot.event_alive).sum())
    return Removed(int(counts[0]), int(counts[1]), snapshot.version)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copy2(source, target)
