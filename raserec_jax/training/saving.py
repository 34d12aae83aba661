"""Saver: checkpoints are written by a thread while training goes on, one save after the other."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from raserec_jax.distributed import own_pieces, process_count, stop_all
from raserec_jax.errors import CheckpointError


def host_copy(tree: Any) -> Any:
    """The arrays of a tree on the host, in memory of their own: the next step takes the device's over (donation).

    Of several processes each copies only the pieces that it writes (`distributed.Pieces`).
    """
    return jax.tree.map(np.array if process_count() == 1 else own_pieces, tree)


class Saver:
    """Context that runs saves in a thread; at its end, all of them are on disk or their error is raised.

    A save starts only when the one before has ended well, so that the order on disk is that of the calls. In a job all
    processes save together, and the error of one is raised by all where they next submit or wait.
    """

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._stopping = False

    def submit(self, save: Callable[[], None]) -> None:
        """Starts `save` once the one before is over. Raises what that one raised."""
        self.wait()
        self._pending = self._pool.submit(save)

    def check(self) -> None:
        """Raises what a save that is over raised; waits for none. In a job, where others may not know of it yet, it
        asks all to stop at one place, where they raise it together."""
        if self._pending is None or not self._pending.done():
            return
        if process_count() == 1:
            self.wait()
        elif self._pending.exception() is not None and not self._stopping:
            self._stopping = True
            stop_all()

    def wait(self) -> None:
        """Waits for the save under way. Raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind, *exc_info) -> None:
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            if not issubclass(
                kind, CheckpointError
            ):  # which is told, and has the same cause: the disk
                logging.getLogger("raserec_jax").warning("%s", error)  # behind the error under way
        finally:
            self._pool.shutdown()
