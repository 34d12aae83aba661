"""A small log with item text for tests of the text pipeline."""

import numpy as np

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import leave_one_out

ITEMS = 24
KINDS = ("Nail Polish", "Shampoo", "Lip Balm", "Tea")


def small_split(users=30, seed=0):
    """Users of 3 to 9 items; items i01..i24, of which every fourth is of the same kind."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 10, users)
    owners = np.repeat([f"u{user:02d}" for user in range(users)], lengths)
    items = [f"i{item:02d}" for item in draw.integers(1, ITEMS + 1, len(owners))]
    log = InteractionLog.from_columns(owners.tolist(), items, name="small")
    return leave_one_out(log)


def small_text(split):
    """Titles, brands and categories of all items but the last two."""
    labels = split.log.item_labels[1:-2]
    kinds = [KINDS[int(label[1:]) % 4] for label in labels.tolist()]
    return ItemText(
        labels,
        {
            "asin": [f"B{label}" for label in labels.tolist()],
            "title": [f"Best {kind} {label}" for kind, label in zip(kinds, labels, strict=True)],
            "brand": ["Unknown" if kind == "Tea" else f"House of {kind}" for kind in kinds],
            "categories": [f"All|{kind}" for kind in kinds],
            "keywords": ["best of all"] * len(kinds),
        },
    )
