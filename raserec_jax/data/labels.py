"""Original ids of any type <-> dense integer ids.

Dense ids follow the sorted original ids, so they do not depend on the order of a file. Integers
stay integers where every id of a column is one in its usual spelling ("7", not "07"); otherwise ids
are strings.
"""

import numpy as np

from raserec_jax.data.sorting import distinct
from raserec_jax.errors import DataError


def densify(values, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the distinct values of a column in sorted order.

    Args:
      values: [N] original ids: integers, str, or UTF-8 bytes; any sequence or array.
      what: "user" or "item", for messages.

    Returns:
      codes [N] int32 in 0..n-1, and labels [n], strictly increasing, int64 or str.

    Raises:
      DataError: values are not one-dimensional, empty, or neither integers nor strings.
    """
    labels, codes = distinct(_id_array(values, what))
    return finished(codes, labels, what)


def finished(codes: np.ndarray, labels: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """What `densify` returns, from codes [N] int32 of distinct increasing ids: int64, str, or UTF-8 bytes.

    Raises:
      DataError: an id is empty, or not UTF-8.
    """
    if labels.dtype.kind == "i":
        return codes, labels
    labels = decoded(labels, what)
    if labels.size and labels[0] == "":
        raise DataError(
            f"empty {what} id; every interaction needs a {what} and an item: drop the rows without"
        )
    integers = canonical_integers(labels)
    if integers is None:
        return codes, labels
    order = np.argsort(integers)
    rank = np.empty(order.size, np.int32)
    rank[order] = np.arange(order.size, dtype=np.int32)
    return rank[codes], integers[order]


def as_names(values, what: str) -> np.ndarray:
    """The ids as an array of str, [N] `<U`; 7 and "7" give the same name.

    Raises:
      DataError: as `densify`, but empty strings are allowed: they name nothing.
    """
    array = _id_array(values, what)
    return decoded(array, what) if array.dtype.kind == "S" else array.astype(np.str_)


class LabelIndex:
    """Finds the place of original ids in an array of labels, whatever their type.

    Args:
      labels: [n] distinct labels, int64 or str.
    """

    def __init__(self, labels: np.ndarray):
        names = labels.astype(np.str_)
        self._order = np.argsort(names)
        self._names = names[self._order]

    def find(self, values, what: str) -> np.ndarray:
        """Returns the place of each value in `labels`, [N] int64; -1 where it is unknown."""
        wanted = as_names(values, what)
        if not self._names.size:
            return np.full(wanted.shape, -1, np.int64)
        place = np.minimum(np.searchsorted(self._names, wanted), self._names.size - 1)
        return np.where(self._names[place] == wanted, self._order[place], -1)


def _id_array(values, what: str) -> np.ndarray:
    """[N] int64, `<U` or `S`, unchecked for emptiness."""
    try:
        array = np.asarray(values)
    except ValueError:  # a ragged list
        raise DataError(
            f"{what} ids must be one flat column, got nested lists; pass one id per row"
        ) from None
    if array.ndim != 1:
        raise DataError(
            f"{what} ids must be one flat column, got shape {array.shape}; pass one id per row"
        )
    if array.size == 0:
        return array.astype(np.str_)
    if array.dtype.kind == "i":
        return array.astype(np.int64)
    if array.dtype.kind == "u":
        return array.astype(np.int64 if array.max() <= np.iinfo(np.int64).max else np.str_)
    if array.dtype.kind == "O":
        return np.array([_name_of(value, what) for value in array.tolist()])
    if array.dtype.kind in "UST":
        return array if array.dtype.kind == "S" else array.astype(np.str_)
    raise DataError(
        f"{what} ids must be integers or strings, got {array.dtype}; convert them first"
    )


def _name_of(value, what: str) -> str:
    if isinstance(value, (int, str, np.integer)) and not isinstance(value, bool):
        return str(value)
    raise DataError(
        f"{what} ids must be integers or strings, got {value!r:.80}; convert or drop such rows"
    )


def decoded(labels: np.ndarray, what: str) -> np.ndarray:
    """Labels [n] as str, if they are UTF-8 bytes; others as they are.

    Raises:
      DataError: bytes that are not UTF-8.
    """
    if labels.dtype.kind != "S":
        return labels
    bytes_of = np.ascontiguousarray(labels).view(np.uint8).reshape(-1, labels.dtype.itemsize)
    if labels.size and bytes_of.max() < 128:
        width = int(np.flatnonzero(bytes_of.any(axis=0)).max(initial=0)) + 1
        characters = np.ascontiguousarray(bytes_of[:, :width]).astype(np.uint32)
        return characters.view(f"U{width}")[:, 0]
    try:
        return np.char.decode(labels, "utf-8")
    except UnicodeDecodeError as error:
        found = error.object[:80]
        raise DataError(f"{what} id {found!r} is not UTF-8; decode the ids to str first") from None


def canonical_integers(labels: np.ndarray) -> np.ndarray | None:
    """[n] int64 if every label, a str, is the usual spelling of one, else None: "007", "1.0" are names."""
    try:
        integers = labels.astype(np.int64)
    except (ValueError, OverflowError):
        return None
    return integers if np.array_equal(integers.astype(np.str_), labels) else None
