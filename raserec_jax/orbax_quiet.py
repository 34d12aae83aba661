"""Orbax's own words about a save that failed, which its caller is told of anyway: not printed."""

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

import orbax.checkpoint as ocp

_ORBAX = os.path.dirname(ocp.__file__)


@contextlib.contextmanager
def reported_here() -> Iterator[None]:
    """Orbax's threads log and print tracebacks of an error that the caller is told of anyway."""
    before, logger = threading.excepthook, logging.getLogger("absl")

    def hook(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("orbax."):
            before(args)

    threading.excepthook = hook
    logger.addFilter(_not_of_orbax)
    outer = sys.unraisablehook
    sys.unraisablehook = _without_late_answers(outer)
    try:
        yield
        sys.unraisablehook = outer  # not after an error: they may still come
    finally:
        threading.excepthook = before
        logger.removeFilter(_not_of_orbax)


def _without_late_answers(outer: Callable) -> Callable:
    """sys.unraisablehook without what TensorStore prints of a save that failed: it answers an event loop of Orbax's
    that is closed by then, with a traceback for each write."""

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # Called straight from TensorStore's threads: nothing of ours or of a caller's stands above.
        traceback = unraisable.exc_traceback
        place = traceback and traceback.tb_frame.f_code.co_filename
        late = isinstance(unraisable.exc_value, RuntimeError)
        if not (late and place == asyncio.base_events.__file__):
            outer(unraisable)

    return hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not record.pathname.startswith(_ORBAX)
