"""A whole log in a folder, as a TFDS data set: written at once or not at all, and read back as the same log.

    FOLDER/manifest.json  FOLDER/item_labels.npy  FOLDER/raserec_log/1.0.0/...

The folder is the `data_dir` of the data set; the manifest has the SHA-256 of every file.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np

from raserec_jax.data import storage
from raserec_jax.data.interactions import ITEMS_FILE, InteractionLog
from raserec_jax.data.records.content import Histories, History
from raserec_jax.data.records.histories import RecordedHistories
from raserec_jax.data.records.libraries import extra
from raserec_jax.data.sources import PathLike
from raserec_jax.durable import flush_path
from raserec_jax.errors import DataError

_KIND = "InteractionRecords"
_DATA = "raserec_log"
_LABELS = "item_labels.npy"
_AT_ONCE = 4096
_TEMPORARY = "downloads"  # TFDS makes it even where there is nothing to download


def write_records(
    histories: Histories, folder: PathLike, *, user_done: Callable[[], object] = lambda: None
) -> None:
    """Writes a log as a TFDS data set; replaces one that is there.

    Args:
      histories: of the log.
      folder: the target.
      user_done: called for each user.

    Raises:
      ConfigError: the extra is missing.
      DataError: the folder holds other files, or cannot be written.
    """
    extra("tensorflow_datasets")

    def each() -> Iterator[History]:
        for history in histories.each():
            yield history
            user_done()

    with new_records(folder) as temporary:
        build(temporary, histories._replace(each=each))
        finish(temporary, histories)


def new_records(folder: PathLike) -> contextlib.AbstractContextManager[pathlib.Path]:
    """Context with an empty folder, to be filled by `build` and `finish`; without an error it becomes `folder`.

    Raises:
      DataError: the folder holds other files, or something cannot be written.
    """
    return storage.replaced_folder(folder, {storage.MANIFEST, ITEMS_FILE, _LABELS, _DATA})


def build(temporary: pathlib.Path, histories: Histories, beam_options=None) -> None:
    """Makes the data set; with Beam's options as a pipeline of `histories.examples`."""
    tfds = extra("tensorflow_datasets")
    builder = extra("raserec_jax.data.records.builder").RaserecLog
    with _quiet(tfds):
        builder(
            histories=histories, data_dir=temporary, file_format="array_record"
        ).download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                compute_stats=tfds.download.ComputeStatsMode.SKIP, beam_options=beam_options
            )
        )
    shutil.rmtree(temporary / _TEMPORARY, ignore_errors=True)


def finish(temporary: pathlib.Path, histories: Histories) -> None:
    """Writes what stands beside the data set: the items' labels, and the manifest with the digests of all files."""
    labels = io.BytesIO()
    np.save(labels, histories.item_labels, allow_pickle=False)
    storage.write_flushed(temporary / _LABELS, labels.getvalue())
    header = {
        "name": histories.name,
        "fingerprint": histories.fingerprint,
        "users": histories.users,
        "integer_users": histories.integer_users,
    }
    digests = {name: _flushed_digest(temporary / name) for name in _files(temporary)}
    manifest = storage.manifest_bytes(_KIND, header, digests)
    storage.write_flushed(temporary / storage.MANIFEST, manifest)


def is_record_folder(folder: PathLike) -> bool:
    """Whether `read_records` has something to look at there."""
    try:
        return os.path.isdir(os.path.join(folder, _DATA)) and storage.is_saved_folder(folder)
    except ValueError:  # a NUL in the path
        return False


def records_fingerprint(folder: PathLike) -> str:
    """The fingerprint of the log in a folder.

    Raises:
      DataError: no such folder, or its manifest is damaged.
    """
    return storage.read_manifest(folder, _KIND)["fingerprint"]


def records_of(folder: PathLike) -> RecordedHistories:
    """The users of the log in a folder.

    Raises:
      ConfigError: the extra is missing.
      DataError: a file is missing or damaged.
    """
    found = sorted(pathlib.Path(folder, _DATA).glob("*/dataset_info.json"))
    if len(found) != 1:
        raise DataError(f"{folder}: not one data set {_DATA} in it; write the log again")
    return RecordedHistories(found[0].parent)


def read_records(folder: PathLike) -> InteractionLog:
    """The log that `write_records` wrote.

    Raises:
      ConfigError: the extra is missing.
      DataError: a file is missing, damaged or foreign; says which.
    """
    manifest = storage.read_manifest(folder, _KIND)
    for name, digest in manifest["sha256"].items():
        if _digest(pathlib.Path(folder, name)) != digest:
            raise DataError(
                f"{pathlib.Path(folder, name)}: damaged or missing, its SHA-256 is not the manifest's; write the log "
                "again from its source"
            )
    users = records_of(folder)
    found = [
        history
        for first in range(0, len(users), _AT_ONCE)
        for history in users.take(range(first, min(first + _AT_ONCE, len(users))))
    ]
    labels = np.array([history.label for history in found])
    times = [history.timestamps for history in found]
    log = InteractionLog(
        user_ids=np.repeat(
            np.arange(len(found), dtype=np.int32), [len(history.item_ids) for history in found]
        ),
        item_ids=np.concatenate([history.item_ids for history in found]),
        timestamps=None if times[0] is None else np.concatenate(times),
        user_labels=labels.astype(np.int64) if manifest["integer_users"] else labels,
        item_labels=np.load(pathlib.Path(folder, _LABELS), allow_pickle=False),
        name=str(manifest["name"]),
    )
    if log.fingerprint() != manifest["fingerprint"]:
        raise DataError(
            f"{folder}: manifest and records are of different logs; write the log again from its source"
        )
    return log


def _files(folder: pathlib.Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _flushed_digest(path: pathlib.Path) -> str:
    flush_path(path)
    flush_path(path.parent)
    return _digest(path)


def _digest(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


@contextlib.contextmanager
def _quiet(tfds) -> Iterator[None]:
    """TFDS speaks of downloads, and shows bars of its own."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
