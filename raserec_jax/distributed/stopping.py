"""When to stop: one process is asked to, all stop at the same place."""

import itertools

from jax.experimental import multihost_utils

_calls = itertools.count(1)


def stop_agreed() -> bool:
    """Whether this is the place at which all stop; all processes ask at the same places, in the same order.

    JAX notes a SIGTERM of any process of the job, tells all, and chooses the next place that none has passed. It is
    said once: whoever is told has to stop.
    """
    # JAX counts what it is handed: places are numbered one by one, whatever the steps between them.
    return bool(multihost_utils.reached_preemption_sync_point(next(_calls)))
