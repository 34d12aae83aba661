"""The arrays that the functions of this package take: on the host or on a device."""

import jax
import numpy as np

AnyArray = np.ndarray | jax.Array
