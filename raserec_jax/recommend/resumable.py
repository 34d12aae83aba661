"""ResumableFile: an output that grows over hours, survives a kill, and takes its name only when it is whole.

What is written goes to `.NAME.partial` beside it. `save` flushes that to disk, then says in `.NAME.partial.json`, which
is replaced as a whole, how many bytes hold and what they stand for. Whoever starts again with the same task cuts the
rest off and goes on there; with another task he starts anew. One process at a time.
"""

import fcntl
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from raserec_jax.data.sources import PathLike
from raserec_jax.durable import flush_path
from raserec_jax.errors import DataError
from raserec_jax.store.files import replace_file


class ResumableFile:
    """A file to write to; use it in a `with`.

    An error in the block removes what was written, but for one of the disk: that, a stop or a kill leave it to be gone
    on from.

    Args:
      path: where the finished file goes; an older one there stays until then.
      task: what names the work: all that the content depends on.

    Attributes:
      state: what the last `save` of this task was given; None if there is none.

    Raises:
      DataError: the folder cannot be written, or another process writes this file.
    """

    def __init__(self, path: PathLike, task: str):
        self._path, self._task = pathlib.Path(path), task
        self._partial = self._path.with_name(f".{self._path.name}.partial")
        self._journal = self._path.with_name(f".{self._path.name}.partial.json")
        self.state: Any = None
        try:
            self._file = self._locked()
            self._go_on()
        except OSError as error:
            raise self._told(error) from error

    def write(self, text: str) -> None:
        """Appends; it holds only once saved."""
        self._file.write(text.encode("utf-8"))

    def save(self, state: Any) -> None:
        """Makes everything written so far hold, as what `state`, plain JSON, says."""
        self._file.flush()
        os.fsync(self._file.fileno())
        record = {"task": self._task, "bytes": self._file.tell(), "state": state}
        content = json.dumps(record).encode()
        replace_file(self._journal, lambda journal: journal.write(content))
        self.state = state

    def finish(self, convert: Callable[[pathlib.Path, pathlib.Path], None] | None = None) -> None:
        """Gives the file its name; `convert` makes it from what was written: (written, to be made)."""
        self._file.flush()
        os.fsync(self._file.fileno())
        made = self._partial
        if convert is not None:
            made = self._path.with_name(f".{self._path.name}.made")
            convert(self._partial, made)
            with open(made, "rb") as file:
                os.fsync(file.fileno())
        os.replace(made, self._path)
        flush_path(self._path.parent)
        self._remove()

    def __enter__(self) -> "ResumableFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        if isinstance(error, Exception) and (self.state is None or not isinstance(error, OSError)):
            self._remove()
        self._file.close()
        if isinstance(error, OSError):
            raise self._told(error) from error

    def _locked(self):
        """The partial file, opened and locked; a process that ends, however, gives it free."""
        file = open(self._partial, "a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have been given its name, or removed, between the two lines above.
            if os.fstat(file.fileno()).st_ino == os.stat(self._partial).st_ino:
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            file.close()
            raise
        file.close()
        raise DataError(
            f"{self._path}: another process is writing this file; wait until it ends or give another --output"
        )

    def _go_on(self) -> None:
        """Cuts off what was not saved."""
        held = 0
        try:
            record = json.loads(self._journal.read_bytes())
            if (
                record["task"] == self._task
                and record["bytes"] <= os.fstat(self._file.fileno()).st_size
            ):
                held, self.state = record["bytes"], record["state"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        if self.state is None:
            self._journal.unlink(missing_ok=True)
        self._file.truncate(held)
        self._file.seek(held)

    def _remove(self) -> None:
        for path in (self._journal, self._partial):
            path.unlink(missing_ok=True)
        self._path.with_name(f".{self._path.name}.made").unlink(missing_ok=True)

    def _told(self, error: OSError) -> DataError:
        kept = "; run the same command again to go on" if self.state is not None else ""
        return DataError(
            f"{self._path}: cannot be written ({error.strerror or error}); choose another --output or free space{kept}"
        )
