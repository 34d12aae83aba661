"""The memory on disk: append-only segments of plain arrays under one manifest, with one writer and any readers.

NumPy only: a process that appends, deletes or verifies never pays for JAX. Knows vectors and ids, never models.
"""

from raserec_jax.store.changes import Events, Removed
from raserec_jax.store.memory_store import MemoryStore
from raserec_jax.store.reading import StoreReader
from raserec_jax.store.snapshot import Snapshot
from raserec_jax.store.verifying import verify_store

__all__ = ["Events", "MemoryStore", "Removed", "Snapshot", "StoreReader", "verify_store"]
