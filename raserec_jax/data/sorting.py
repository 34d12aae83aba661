"""Sorts that a log of tens of millions of rows needs: distinct values, and stable orders, in little memory.

NumPy sorts plain int64 values several times faster than it finds the order of anything, so what fits is packed into
int64 together with the row's number.
"""

import numpy as np

_MIX = np.uint64(0x9E3779B97F4A7C15)
_MOST_WORDS = 8  # of 8 bytes; wider ones are left to NumPy
_BITS = 63  # of an int64 that is not negative


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in increasing order, and the place of each value among them.

    Args:
      values: [N] int64, str, or UTF-8 bytes (`S`).

    Returns:
      labels [n] of the same type, and codes [N] int32.
    """
    if values.size and values.dtype.kind == "i":
        low, high = int(values.min()), int(values.max())
        if high - low < 4 * values.size + 2**16:
            return _distinct_in_range(values, low, high - low + 1)
    if values.size and values.dtype.kind == "S":
        return _distinct_text(values)
    labels, codes = np.unique(values, return_inverse=True)
    return labels, codes.astype(np.int32)


def present(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the ids 0..count-1 occur: [n] int64 increasing; and the place of each id there, [N] int32."""
    occurs = np.zeros(count, bool)
    occurs[ids] = True
    places = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(occurs), places[ids]


def stable_order(codes: np.ndarray, keys: np.ndarray | None = None) -> np.ndarray | None:
    """The rows in increasing order of code, then key, then row: [N] int64; None if they are so already.

    Args:
      codes: [N] int32, at least 0.
      keys: [N] int64 or float64, optional.
    """
    no_earlier = True if keys is None else keys[1:] >= keys[:-1]
    if np.all((codes[1:] > codes[:-1]) | ((codes[1:] == codes[:-1]) & no_earlier)):
        return None
    if np.all(no_earlier):
        return _order_of(codes)
    by_key = _order_of(keys)
    by_code = _order_of(codes[by_key])
    return by_key[by_code]


def _order_of(keys: np.ndarray) -> np.ndarray:
    row_bits = max(keys.size - 1, 1).bit_length()
    if keys.dtype.kind == "i":
        low, high = int(keys.min()), int(keys.max())
        if (high - low).bit_length() + row_bits <= _BITS:
            packed = keys.astype(np.int64)
            packed -= low
            packed <<= row_bits
            packed |= np.arange(keys.size)
            packed.sort()
            packed &= (1 << row_bits) - 1
            return packed
    return np.argsort(keys, kind="stable")


def _distinct_in_range(values: np.ndarray, low: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    labels, codes = present(values - low, count)
    return labels + low, codes


def group_text(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in no particular order, and the place of each value among them.

    Args:
      values: [N] UTF-8 bytes (`S`).

    Returns:
      labels [n], and codes [N] int32.
    """
    words = _words(values)
    groups = _groups_by_hash(words) if words.shape[1] <= _MOST_WORDS else None
    if groups is None:
        labels, codes = np.unique(values, return_inverse=True)
        return labels, codes.astype(np.int32)
    first, codes = groups
    return values[first], codes


def _distinct_text(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, codes = group_text(values)
    words = _words(labels)
    by_value = np.lexsort(words.T[::-1])
    rank = np.empty(by_value.size, np.int32)
    rank[by_value] = np.arange(by_value.size, dtype=np.int32)
    return labels[by_value], rank[codes]


def _words(values: np.ndarray) -> np.ndarray:
    """[N, words] uint64 that compare as the bytes do."""
    words = -(-values.dtype.itemsize // 8)
    whole = np.ascontiguousarray(values.astype(f"S{8 * words}", copy=False))
    return whole.view(">u8").reshape(-1, words).astype(np.uint64)


def _groups_by_hash(words: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A row of each group of equal rows, and each row's group; None if two groups have the same hash."""
    hashes = words[:, 0].copy()
    for word in range(1, words.shape[1]):
        hashes *= _MIX
        hashes ^= hashes >> np.uint64(29)
        hashes += words[:, word]
    order = np.argsort(hashes)
    hashes = hashes[order]
    begins = np.concatenate([[True], hashes[1:] != hashes[:-1]])
    for word in range(words.shape[1] if words.shape[1] > 1 else 0):
        column = words[order, word]
        if not np.all(begins[1:] | (column[1:] == column[:-1])):
            return None
    codes = np.empty(order.size, np.int32)
    codes[order] = np.cumsum(begins, dtype=np.int32) - np.int32(1)
    return order[begins], codes
