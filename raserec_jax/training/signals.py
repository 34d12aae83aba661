"""SIGTERM and SIGINT: the first one asks for a stop, the second ends the process at once.

`StopFlag` is for code that looks at a flag between two pieces of work; `interruptible` for code that may be left
anywhere, since whatever it writes is written whole or not at all.
"""

import contextlib
import signal
from collections.abc import Iterator

from raserec_jax.errors import Interrupted


class StopFlag:
    """Context in which the first signal sets `is_set`."""

    def __init__(self):
        self.is_set = False
        self._previous: dict = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            # ValueError: not the main thread; the caller keeps its own handling.
            with contextlib.suppress(ValueError):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number, frame):
        if self.is_set:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.is_set = True
        self.first_signal()

    def first_signal(self) -> None:
        """What else the first signal does; nothing here."""

    def __exit__(self, *exc_info):
        for number, handler in self._previous.items():
            signal.signal(number, handler)


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
