"""Recommendations from a trained workdir, and the memories behind them."""

from raserec_jax.recommend.answers import (
    Explained,
    Explanation,
    Item,
    Recommendation,
    Recommendations,
    RetrievedMemory,
)
from raserec_jax.recommend.recommender import Recommender

__all__ = [
    "Explained",
    "Explanation",
    "Item",
    "Recommendation",
    "Recommendations",
    "Recommender",
    "RetrievedMemory",
]
