"""tensorflow-datasets, array-record and Grain, an optional extra; TensorFlow is not needed."""

import importlib
from types import ModuleType

from raserec_jax.errors import ConfigError

INSTALL = "pip install 'raserec_jax[tfds]'"


def extra(module: str) -> ModuleType:
    """A module of the extra.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0].replace("_", "-")
        raise ConfigError(
            f"TFDS data sets need {package}, which is not installed; run: {INSTALL}"
        ) from None
