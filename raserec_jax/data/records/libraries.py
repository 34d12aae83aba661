"""tensorflow-datasets, array-record and Grain, and Beam: optional extras; TensorFlow is not needed."""

import importlib
from types import ModuleType

from raserec_jax.errors import ConfigError

_WANTED_BY = {"tfds": "TFDS data sets", "beam": "pipelines of Beam"}


def extra(module: str, name: str = "tfds") -> ModuleType:
    """A module of an extra.

    Args:
      module: dotted.
      name: of the extra: tfds or beam.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0].replace("_", "-")
        raise ConfigError(
            f"{_WANTED_BY[name]} need {package}, which is not installed; run: pip install 'raserec_jax[{name}]'"
        ) from None
