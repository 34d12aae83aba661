"""Retrieval: the memory bank, what a query may see of it, and search engines. Knows vectors, never models."""

from raserec_jax.retrieval.eligibility import Queries, audit, eligible
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, load_retrieved, save_retrieved
from raserec_jax.retrieval.scann_index import ScannIndex
from raserec_jax.retrieval.searcher import Searcher, make_searcher, recall_against_exact

__all__ = [
    "ExactIndex",
    "MemoryBank",
    "Queries",
    "Retrieved",
    "ScannIndex",
    "Searcher",
    "audit",
    "eligible",
    "load_retrieved",
    "make_searcher",
    "recall_against_exact",
    "save_retrieved",
]
