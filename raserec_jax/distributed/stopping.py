"""When to stop: one process is asked to, all stop at the same place."""

import itertools
import os
import signal

from jax.experimental import multihost_utils

from raserec_jax.distributed.meeting import process_count

_places = itertools.count(1)
_stopping = False


def stop_all() -> None:
    """Asks all processes of a job to stop at one place, as a SIGTERM to this one does."""
    os.kill(os.getpid(), signal.SIGTERM)


def stop_agreed() -> bool:
    """Whether this is the place at which all stop; all processes ask at the same places, in the same order.

    JAX notes a SIGTERM of any process of the job, tells all, and chooses the next place that none has passed. Once
    said it is never taken back. False for a process by itself.
    """
    global _stopping
    if process_count() > 1 and not _stopping:
        # JAX wants places numbered one by one, whatever the steps between them.
        _stopping = bool(multihost_utils.reached_preemption_sync_point(next(_places)))
    return _stopping
