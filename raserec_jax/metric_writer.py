"""What a run measured, step by step: metrics.jsonl and TensorBoard events, from process 0 only.

metrics.jsonl has one JSON object per logged step, appended and flushed at once:

    {"stage": "pretrain", "step": 400, "epoch": 2, "loss": 6.1, "valid/unfiltered/NDCG@10": 0.041}

`stage`, `step` and `epoch` (null where there is none) come first. Nested metrics are flattened with
"/", which TensorBoard reads as groups. A run that is killed and resumed logs some steps twice:
lines are never removed, and whoever reads lets the later line win. Only a last line that a killed
process left half-written is repaired, when the file is opened again.

The events are written at once, by the thread that logs: tensorboardX's own SummaryWriter hands them to a
thread that dies of a full disk, and then blocks whoever logs.
"""

import contextlib
import json
import math
import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from raserec_jax.errors import CheckpointError

METRICS_FILE = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"
_RESERVED = ("stage", "step", "epoch")


class MetricWriter:
    """Appends metrics to a workdir. Processes other than 0 write nothing and need no workdir.

    Args:
      workdir: folder of the run; made if absent.
      tensorboard: also write TensorBoard events, under workdir/tensorboard.

    Raises:
      CheckpointError: the files cannot be written (no space, no permission), here, in `write` or at the end.
    """

    def __init__(self, workdir: str | os.PathLike, *, tensorboard: bool = True):
        self._workdir = pathlib.Path(workdir)
        self._tensorboard = tensorboard
        self._lines = None
        self._events = None
        if jax.process_index() == 0:
            with self._errors_told():
                self._workdir.mkdir(parents=True, exist_ok=True)
                path = self._workdir / METRICS_FILE
                _repair_last_line(path)
                self._lines = path.open("a", encoding="utf-8")

    def write(
        self, stage: str, step: int, metrics: Mapping[str, Any], *, epoch: int | None = None
    ) -> None:
        """Logs one step.

        Args:
          stage: "pretrain", "finetune", "control", ...
          step: optimiser steps done in this stage.
          metrics: name -> number (Python, NumPy, or a JAX scalar, which is fetched here), text, or
            a mapping of such. NaN and infinities become null in the file, which JSON has no other
            word for.
          epoch: epochs done, where there are epochs.

        Raises:
          TypeError: a metric that is neither number nor text.
          ValueError: a metric named "stage", "step" or "epoch".
          CheckpointError: the files cannot be written.
        """
        if self._lines is None:
            return
        flat = dict(_flatten(metrics))
        taken = [name for name in _RESERVED if name in flat]
        if taken:
            raise ValueError(f"metric {taken[0]!r} would hide the field of that name; rename it")
        head = {"stage": stage, "step": int(step), "epoch": None if epoch is None else int(epoch)}
        fields = {name: _finite_or_none(value) for name, value in flat.items()}
        line = json.dumps(head | fields, ensure_ascii=False, allow_nan=False)
        with self._errors_told():
            self._lines.write(line + "\n")
            self._lines.flush()
            self._write_events(stage, int(step), flat)

    def _write_events(self, stage: str, step: int, flat: Mapping[str, Any]) -> None:
        scalars = {name: value for name, value in flat.items() if isinstance(value, (int, float))}
        if not self._tensorboard or not scalars:
            return
        # Slow to import, and only process 0 needs it.
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        now, events = time.time(), []
        if self._events is None:
            folder = self._workdir / EVENTS_FOLDER
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}"
            self._events = RecordWriter(str(folder / name))
            events = [Event(wall_time=now, file_version="brain.Event:2")]
        for name, value in scalars.items():
            told = summary.scalar(f"{stage}/{name}", value)
            events.append(Event(wall_time=now, step=step, summary=told))
        for event in events:
            self._events.write(event.SerializeToString())
        self._events.flush()

    def flush(self) -> None:
        """Hands everything to the operating system, as `write` does; raises as `write`."""
        with self._errors_told():
            for sink in (self._lines, self._events):
                if sink is not None:
                    sink.flush()

    def close(self) -> None:
        """Closes both files; closing twice is fine, writing afterwards does nothing. Raises as `write`."""
        sinks = [sink for sink in (self._lines, self._events) if sink is not None]
        self._lines = self._events = None
        with self._errors_told(), contextlib.ExitStack() as closing:
            for sink in sinks:
                closing.callback(sink.close)

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._workdir}: the metrics cannot be written ({error.strerror or error}); free space or make the "
                "folder writable and run again"
            ) from error

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind, *exc_info) -> None:
        try:
            self.close()
        except CheckpointError:
            if kind is None:  # else the error under way is what is told
                raise


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a workdir's metrics.jsonl, in the order they were written; [] without the file.

    A half-written last line is left out: the run may still be going on.

    Raises:
      CheckpointError: a line that is no JSON object.
    """
    path = pathlib.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    *whole, rest = path.read_bytes().split(b"\n")
    records = [_parse(line) for line in whole]
    if None in records:
        number = records.index(None) + 1
        raise CheckpointError(
            f"{path}, line {number}: {whole[number - 1][:80]!r} is no JSON object; expected one "
            "per line: remove the line"
        )
    last = _parse(rest)
    return records if last is None else [*records, last]


def _repair_last_line(path: pathlib.Path) -> None:
    """Ends a last line that is whole, cuts one that is not; reads and changes nothing before it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        tail, start = b"", size
        while start > 0 and b"\n" not in tail:
            start = max(0, start - 65_536)
            file.seek(start)
            tail = file.read(size - start)
        rest = tail[tail.rfind(b"\n") + 1 :]
        if not rest:
            return
        if _parse(rest) is not None:
            file.seek(size)
            file.write(b"\n")
        else:
            file.truncate(size - len(rest))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # also bytes that are no UTF-8
        return None
    return record if isinstance(record, dict) else None


def _flatten(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + str(name), _plain(prefix + str(name), value)


def _plain(name: str, value: Any) -> Any:
    """A JAX or NumPy scalar as the Python number it holds."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and np.ndim(value) == 0:
        return np.asarray(value).astype(float if value.dtype.kind == "V" else value.dtype).item()
    raise TypeError(f"metric {name!r} is {value!r:.80}; expected a number, a scalar array or text")


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
