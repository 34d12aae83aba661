"""Arrays that lie over several processes, on the host."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """All of an array on this host, in memory of its own; where it lies over several processes, all of them ask for it
    together and each gets it."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.array(array)
    return np.array(multihost_utils.process_allgather(array, tiled=True))
