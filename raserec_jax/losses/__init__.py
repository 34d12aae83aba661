"""Losses: arrays in, a mean loss out. They know neither models nor batches."""

from raserec_jax.losses.contrastive import info_nce
from raserec_jax.losses.full_softmax import default_chunk_items, next_item_loss
from raserec_jax.losses.repeats import PastItems
from raserec_jax.losses.sampled import SAMPLED_LOSSES, Negatives, sampled_loss

__all__ = [
    "SAMPLED_LOSSES",
    "Negatives",
    "PastItems",
    "default_chunk_items",
    "info_nce",
    "next_item_loss",
    "sampled_loss",
]
