"""AnswerCache: every paid answer on disk before anything else happens with it.

One file of JSON lines, only ever appended to; each line holds the SHA-256 of its own content and is flushed to the disk
before `add` returns. A kill can tear only the last line, which is cut off by the next writer. Keys cover the model, the
prompt's template and its input, so answers to another prompt or of another model are never taken for these. No key
to any service is ever written here. One writer at a time, by a lock that ends with the process.
"""

import fcntl
import hashlib
import json
import logging
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import NamedTuple

from raserec_jax.data.storage import PathLike
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.semantic.prompts import Prompt

ANSWERS_FILE = "answers.jsonl"
_FIELDS = ("key", "model", "answer", "tokens_in", "tokens_out")


class Answer(NamedTuple):
    """text: cleaned.  tokens_in, tokens_out: as the endpoint counted them, or estimates."""

    text: str
    tokens_in: int
    tokens_out: int


def answer_key(model: str, prompt: Prompt, max_tokens: int) -> str:
    """SHA-256 in hex over the model, the template and everything that is sent."""
    sent = [model, prompt.template, prompt.system, prompt.user, max_tokens]
    return hashlib.sha256(json.dumps(sent).encode()).hexdigest()


class AnswerCache:
    """The answers of a file, as a context manager; reading needs no lock.

    Args:
      path: the file; made if absent.
      read_only: neither locks nor repairs; `add` fails.

    Raises:
      ConfigError: another process writes to it.
      DataError: it cannot be read or written.
    """

    def __init__(self, path: PathLike, *, read_only: bool = False):
        self._path = pathlib.Path(path)
        self._answers: dict[str, Answer] = {}
        self._mutex = threading.Lock()
        self._file = None
        try:
            if not read_only:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                self._lock()
            elif not self._path.exists():
                return
            self._read()
        except OSError as error:
            self.close()
            raise DataError(
                f"{self._path}: cannot be used ({error.strerror}); choose another output folder or free space"
            ) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"{self._path} is in use by another process; wait until it ends, or give another output folder"
            ) from None

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if self._file is not None and whole < len(content):
            os.ftruncate(self._file, whole)  # a kill tore this line
        damaged = 0
        for line in content[:whole].splitlines():
            record = _parsed(line)
            if record is None:
                damaged += 1
            else:
                self._answers[record["key"]] = _answer(record)
        if damaged:
            logging.getLogger("raserec_jax").warning(
                "%s: %d damaged lines are left out; these answers are asked for again",
                self._path,
                damaged,
            )

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer to that key, None if there is none yet."""
        return self._answers.get(key)

    def add(self, key: str, model: str, answer: Answer) -> None:
        """Keeps an answer; it is on the disk when this returns. Any thread may call it.

        Raises:
          DataError: the disk is full, or the like; the file is as before.
        """
        record = dict(zip(_FIELDS, (key, model, *answer), strict=True))
        self._append([record])

    def take_over(self, path: PathLike) -> int:
        """Adds what another file has and this one lacks; returns how many. Damaged lines there are left alone.

        Raises:
          DataError: as `add`; or the other file cannot be read.
        """
        try:
            content = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); make it readable, its answers are paid for"
            ) from error
        found = filter(None, map(_parsed, content.splitlines()))
        lacking = {one["key"]: one for one in found if one["key"] not in self._answers}
        if lacking:
            self._append(list(lacking.values()))
        return len(lacking)

    def _append(self, records: Sequence[dict]) -> None:
        lines = b"".join(
            json.dumps(one | {"sha256": _digest(one)}).encode() + b"\n" for one in records
        )
        with self._mutex:
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, lines) != len(lines):
                    raise OSError(28, "No space left on device")
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, size)
                raise DataError(
                    f"{self._path}: an answer cannot be written ({error.strerror}); free space and run again"
                ) from error
            self._answers.update((one["key"], _answer(one)) for one in records)

    def close(self) -> None:
        """Gives up the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def share_answers(folders: Sequence[PathLike], other: PathLike) -> None:
    """Gives one folder of `pipeline.embed_text` the answers that others have, so that none is paid for again.

    Raises:
      as `AnswerCache` and `take_over`.
    """
    target = pathlib.Path(other) / ANSWERS_FILE
    sources = (pathlib.Path(folder) / ANSWERS_FILE for folder in folders)
    sources = [path for path in dict.fromkeys(sources) if path.exists() and path != target]
    if not sources:
        return
    with AnswerCache(target) as cache:
        for path in sources:
            cache.take_over(path)


def _answer(record: dict) -> Answer:
    return Answer(record["answer"], record["tokens_in"], record["tokens_out"])


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps([record[name] for name in _FIELDS]).encode()).hexdigest()


def _parsed(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
        whole = record["sha256"] == _digest(record)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if whole else None
