"""Saver: checkpoints are written by a thread while training goes on, one save after the other."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from raserec_jax.distributed import to_host
from raserec_jax.errors import CheckpointError


def host_copy(tree: Any) -> Any:
    """The arrays of a tree on the host, in memory of their own: the next step takes the device's over (donation).

    What lies over several processes is gathered: all of them call this together.
    """
    return jax.tree.map(to_host, tree)


class Saver:
    """Context that runs saves in a thread; at its end, all of them are on disk or their error is raised.

    A save starts only when the one before has ended well, so that the order on disk is that of the calls.
    """

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None

    def submit(self, save: Callable[[], None]) -> None:
        """Starts `save` once the one before is over. Raises what that one raised."""
        self.wait()
        self._pending = self._pool.submit(save)

    def check(self) -> None:
        """Raises what a save that is over raised; waits for none."""
        if self._pending is not None and self._pending.done():
            self.wait()

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
