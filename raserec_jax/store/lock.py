"""One writer at a time: the kernel's lock on a file, which ends with the process that has it, however that ends."""

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator

from raserec_jax.errors import CheckpointError

LOCK_FILE = ".lock"
_PAUSE_S = 0.005


@contextlib.contextmanager
def locked(folder: pathlib.Path, timeout_s: float) -> Iterator[None]:
    """Context in which nobody else writes to the folder; readers need no lock.

    Args:
      folder: exists; gets a file LOCK_FILE, which stays.
      timeout_s: how long another writer is waited for; 0 does not wait.

    Raises:
      CheckpointError: another writer has it for longer than that, or the folder cannot be written.
    """
    try:
        descriptor = os.open(
            folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror}); check its permissions or choose another folder"
        ) from error
    try:
        _take(descriptor, folder, time.monotonic() + timeout_s)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: pathlib.Path, end: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                process = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                raise CheckpointError(
                    f"{folder}: process {process or '(unknown)'} is writing to it; wait until it ends and try again"
                ) from None
            time.sleep(_PAUSE_S)
        except OSError as error:
            raise CheckpointError(
                f"{folder}: cannot be locked ({error.strerror}); put it on a file system that has locks"
            ) from error
    try:
        os.pwrite(descriptor, f"{os.getpid():<20}".encode(), 0)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror}); free space or choose another folder"
        ) from error
