"""SIGTERM and SIGINT: the first one asks for a stop, the second ends the process at once.

`StopFlag` is for code that looks at a flag between two pieces of work; `interruptible` for code that may be left
anywhere, since whatever it writes is written whole or not at all. Python's handlers wait until the main thread is back
from a long compilation or device call, so the second signal is a thread's business. The exit code is then that of
shells, 128 + the signal's number.

In a job of several processes SIGTERM is JAX's: it tells all processes, and they agree on where to stop
(`distributed.stop_agreed`), between two device calls or two stages. SIGINT is passed on as SIGTERM.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from raserec_jax.distributed import process_count, stop_agreed
from raserec_jax.errors import Interrupted

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Context in which the first signal sets `is_set`. Outside the main thread it leaves signals alone."""

    def __init__(self):
        self.is_set = False
        self._restoring = contextlib.ExitStack()

    def asked(self) -> bool:
        """Whether to stop here; in a job of several processes all of them ask, at the same places."""
        return self.is_set or stop_agreed()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            if process_count() > 1:
                self._restoring.callback(
                    signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, _as_sigterm)
                )
                return self
            self._restoring.enter_context(_second_signal_ends_the_process())
            for number in _STOPPING:
                self._restoring.callback(
                    signal.signal, number, signal.signal(number, self._on_signal)
                )
        return self

    def _on_signal(self, number, frame):
        if not self.is_set:
            self.is_set = True
            self.first_signal()

    def first_signal(self) -> None:
        """What else the first signal does; nothing here."""

    def __exit__(self, *exc_info):
        self._restoring.close()


def _as_sigterm(number, frame):
    os.kill(os.getpid(), signal.SIGTERM)


class _Leave(StopFlag):
    """The first signal leaves the work under way, as Ctrl-C does."""

    def first_signal(self) -> None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Context, or decorator, that turns the first signal into `Interrupted`, wherever the work is.

    Raises:
      Interrupted: a signal came.
    """
    with _Leave() as stop:
        try:
            yield
        except KeyboardInterrupt:
            if not stop.is_set:
                raise
            raise Interrupted(
                "stopped; what is finished was kept, run the same command again to go on"
            ) from None


@contextlib.contextmanager
def _second_signal_ends_the_process() -> Iterator[None]:
    """Has the interpreter report each signal through a pipe, as it comes, to a thread that counts."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watch = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watch.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watch.join()
        os.close(reader)


def _watch(reader: int) -> None:
    count = 0
    while came := os.read(reader, 1):
        count += came[0] in _STOPPING
        if count == 2:
            os.write(2, b"ended at once; run the same command again to go on from what was saved\n")
            os._exit(128 + came[0])
