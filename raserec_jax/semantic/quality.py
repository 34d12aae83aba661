"""Are the neighbours alike? Shares of the same category and brand against random pairs, and examples with titles.

The paper's first sanity check of its tables. Categories are compared by their last entry, the most particular one.
"""

from collections.abc import Sequence

import numpy as np

from raserec_jax.constants import NO_ROW, PAD_ID
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split
from raserec_jax.semantic.histories import history_items
from raserec_jax.semantic.tables import SemanticTables, pool_examples

_COMPARED = {"category": ("categories", "category", "genres"), "brand": ("brand",)}
_SHOWN_ITEMS = 6  # of a history
_SAMPLE = 20_000  # histories whose neighbours are compared


def quality(
    tables: SemanticTables,
    split: Split,
    text: ItemText | None,
    names: Sequence[str],
    *,
    samples: int = 5,
    max_items: int = 20,
    seed: int = 0,
) -> dict:
    """Counts and examples, as JSON values.

    Args:
      tables: to look at.
      split: that they belong to.
      text: item text with categories and brands; None: only counts and examples.
      names: items + 1 names of items.
      samples: items and histories to show.
      max_items: latest items of a history that count.
      seed: of the draws.

    Returns:
      items, histories: {"rows", "with_neighbors", "mean_cosine": of the first neighbour, "same_cosine": share of
      first neighbours with the very same text, "same": {"category": {"neighbors", "random"}, ...}, "examples"};
      for histories two count as the same if their last items are. history_overlap: mean share of a history's items
      that its first neighbour has, against a random one's.
    """
    draw = np.random.default_rng(seed)
    pool = pool_examples(split, tables.pool)
    log = split.log
    codes = {name: _codes(log, text, columns) for name, columns in _COMPARED.items()}
    codes = {name: code for name, code in codes.items() if code is not None}
    last_items = log.item_ids[pool.target_places - 1]
    asked = np.arange(len(tables.neighbor_history_ids))
    if len(asked) > _SAMPLE:
        asked = np.sort(draw.choice(asked, _SAMPLE, replace=False))
    items = np.arange(1, len(tables.neighbor_item_ids))
    found = {
        "pool": tables.pool,
        "top_k": int(tables.neighbor_item_ids.shape[1]),
        "items": _side(tables.neighbor_item_ids, tables.item_vectors, items, codes, draw),
        "histories": _side(
            tables.neighbor_history_ids,
            tables.history_vectors,
            asked,
            {name: code[last_items] for name, code in codes.items()},
            draw,
        ),
    }
    shown = _draw_rows(draw, items, tables.neighbor_item_ids, samples)
    found["items"]["examples"] = [
        _example(tables.item_vectors, row, tables.neighbor_item_ids[row], lambda item: names[item])
        for row in shown
    ]

    def told(row: int) -> str:
        last = history_items(log, pool, row, max_items)
        said = " → ".join(names[item] or "?" for item in last[-_SHOWN_ITEMS:])
        return ("… → " if len(last) > _SHOWN_ITEMS else "") + said

    shown = _draw_rows(draw, asked, tables.neighbor_history_ids, samples)
    found["histories"]["examples"] = [
        _example(tables.history_vectors, row, tables.neighbor_history_ids[row], told)
        for row in shown
    ]
    found["history_overlap"] = _overlap(
        tables, split, pool, asked[: _SAMPLE // 10], max_items, draw
    )
    return found


def _side(ids: np.ndarray, vectors: np.ndarray, rows: np.ndarray, codes: dict, draw) -> dict:
    neighbors = ids[rows]
    mask = neighbors != NO_ROW
    first = rows[mask[:, 0]] if mask.shape[1] else rows[:0]
    cosines = np.einsum(
        "ij,ij->i", vectors[first].astype(np.float32), vectors[ids[first, 0]].astype(np.float32)
    )
    real = np.flatnonzero(np.any(vectors != 0, axis=1))
    same = {}
    for name, code in codes.items():
        own = np.broadcast_to(code[rows][:, None], neighbors.shape)
        other = code[np.where(mask, neighbors, 0)]
        strangers = code[draw.choice(real, neighbors.shape)] if real.size else other
        same[name] = {
            "neighbors": _share(own, other, mask),
            "random": _share(own, strangers, mask),
        }
    return {
        "rows": len(rows),
        "with_neighbors": len(first),
        "mean_cosine": float(cosines.mean()) if first.size else None,
        "same_cosine": float((cosines > 0.9995).mean()) if first.size else None,
        "same": same,
    }


def _share(own: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float | None:
    """Of pairs where both are known, how many are equal."""
    known = mask & (own >= 0) & (other >= 0)
    return float((own == other)[known].mean()) if known.any() else None


def _codes(log: InteractionLog, text: ItemText | None, columns: Sequence[str]) -> np.ndarray | None:
    """[items + 1] a number per distinct value of the first of the columns that there is, -1 where unknown."""
    name = next((name for name in columns if text and name in text.columns), None)
    if name is None:
        return None
    codes = np.full(log.num_items + 1, -1)
    numbers: dict[str, int] = {}
    for item, value in zip(log.item_ids_of(text.labels), text.columns[name], strict=True):
        last = value.split("|")[-1].strip().casefold()
        if item != PAD_ID and last not in ("", "unknown"):
            codes[item] = numbers.setdefault(last, len(numbers))
    return codes


def _draw_rows(draw, rows: np.ndarray, ids: np.ndarray, samples: int) -> list[int]:
    usable = rows[ids[rows, 0] != NO_ROW] if ids.shape[1] else rows[:0]
    count = min(samples, len(usable))
    return sorted(draw.choice(usable, count, replace=False).tolist()) if count else []


def _example(vectors: np.ndarray, row: int, neighbors: np.ndarray, told) -> dict:
    own = vectors[row].astype(np.float32)
    return {
        "of": told(row),
        "neighbors": [
            {"cosine": round(float(own @ vectors[other].astype(np.float32)), 4), "is": told(other)}
            for other in neighbors.tolist()
            if other != NO_ROW
        ],
    }


def _overlap(tables, split: Split, pool, rows: np.ndarray, max_items: int, draw) -> dict:
    shares: dict[str, list[float]] = {"neighbors": [], "random": []}
    ids = tables.neighbor_history_ids
    for row in rows.tolist():
        if not ids.shape[1] or ids[row, 0] == NO_ROW:
            continue
        own = set(history_items(split.log, pool, row, max_items))
        others = {"neighbors": int(ids[row, 0]), "random": int(draw.integers(len(pool.lengths)))}
        for kind, other in others.items():
            shared = own & set(history_items(split.log, pool, other, max_items))
            shares[kind].append(len(shared) / len(own))
    return {kind: float(np.mean(found)) if found else None for kind, found in shares.items()}
