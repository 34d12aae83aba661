"""Interaction logs on the host: read, filter, split and store them. NumPy only, no JAX."""

from raserec_jax.data.filters import Filters, k_core
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText, read_item_text
from raserec_jax.data.known_sets import DataFiles, locate
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.splits import Split, global_time, leave_one_out

__all__ = [
    "DataFiles",
    "Filters",
    "InteractionLog",
    "ItemText",
    "Split",
    "global_time",
    "k_core",
    "leave_one_out",
    "locate",
    "read_interactions",
    "read_item_text",
]
