"""Retrieval-augmented sequential recommendation in JAX: RaSeRec.

Public names are loaded when first used, so importing the package costs milliseconds and imports
neither JAX nor NumPy: a script that only prepares data never pays for JAX.
"""

import importlib

from raserec_jax.platform import prepare_platform

__version__ = "0.1.0"

# Public name -> its module; a name equal to the module's last part is the module itself.
_HOMES = {
    "ExactIndex": "raserec_jax.retrieval.exact",
    "InteractionLog": "raserec_jax.data.interactions",
    "MemoryBank": "raserec_jax.retrieval.memory_bank",
    "MemoryReader": "raserec_jax.models.memory_reader",
    "MemoryStore": "raserec_jax.store",
    "Recommender": "raserec_jax.recommend",
    "ScannIndex": "raserec_jax.retrieval.scann_index",
    "SequenceEncoder": "raserec_jax.models.encoder",
    "export_recommender": "raserec_jax.recommend.exporting",
    "info_nce": "raserec_jax.losses",
    "next_item_loss": "raserec_jax.losses",
    "presets": "raserec_jax.presets",
    "read_interactions": "raserec_jax.data.readers",
    "train": "raserec_jax.training.pipeline",
}

__all__ = ["__version__", *_HOMES]

# Before anything here can import jax: the flag below is read once, when jax's CPU backend starts.
prepare_platform()


def __getattr__(name: str):
    """Loads a public name on first use (PEP 562) and keeps it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(home)
    value = module if home.rpartition(".")[2] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
