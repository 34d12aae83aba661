"""InteractionLog: who took which item, in order, with dense ids and the way back to the originals.

Readers make logs, filters and splits take them; what a log's text says is left to `item_text`.
"""

import dataclasses
import functools
import hashlib
import json

import numpy as np

from raserec_jax.data import storage
from raserec_jax.data.checks import as_numbers, check_log
from raserec_jax.data.labels import LabelIndex, densify
from raserec_jax.data.sorting import present, stable_order
from raserec_jax.errors import DataError

KIND = "InteractionLog"
_ARRAYS = ("user_ids", "item_ids", "user_labels", "item_labels")
ITEMS_FILE = "items.json"  # item text may lie beside the arrays
OWN_FILES = {ITEMS_FILE, *(f"{name}.npy" for name in (*_ARRAYS, "timestamps"))}


@dataclasses.dataclass(frozen=True, eq=False)
class InteractionLog:
    """A checked log; arrays are read-only.

    Attributes:
      user_ids: [N] int32, 0..U-1, non-decreasing: rows are sorted by user, then by order within the
        user.
      item_ids: [N] int32, 1..V; 0 is padding and never occurs.
      timestamps: [N] int64, or float64 where the source has fractions; None if unknown.
      user_labels: [U] original user ids, increasing; int64 if all are integers, else str.
      item_labels: [V + 1] original item ids, increasing from entry 1; entry 0 stands for padding
        (0 or "").
      name: what reports call it; not part of the content.

    Raises:
      DataError: the arrays contradict the above.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    timestamps: np.ndarray | None
    user_labels: np.ndarray
    item_labels: np.ndarray
    name: str = "log"

    def __post_init__(self):
        for field in ("user_ids", "item_ids", "timestamps", "user_labels", "item_labels"):
            array = getattr(self, field)
            if array is not None:
                view = array.view()
                view.setflags(write=False)
                object.__setattr__(self, field, view)
        check_log(self.user_ids, self.item_ids, self.timestamps, self.user_labels, self.item_labels)

    @classmethod
    def from_columns(
        cls, users, items, *, position=None, timestamp=None, name: str = "log"
    ) -> "InteractionLog":
        """A log from one value per interaction and column, in any row order.

        Order within a user: `position` if given, else `timestamp`, else the rows' own; ties keep
        the rows' order.

        Args:
          users, items: [N] original ids, integers or strings.
          position: [N] numbers, optional; only their order matters.
          timestamp: [N] numbers, optional; seconds, or any other unit.
          name: what reports call the log.

        Raises:
          DataError: columns of different length, no rows, an id that is empty or no integer or
            string, or a position or time that is no finite number.
        """
        return cls.from_codes(
            densify(users, "user"),
            densify(items, "item"),
            position=None if position is None else as_numbers(position, "position"),
            timestamp=None if timestamp is None else as_numbers(timestamp, "timestamp"),
            name=name,
        )

    @classmethod
    def from_codes(
        cls,
        users: tuple[np.ndarray, np.ndarray],
        items: tuple[np.ndarray, np.ndarray],
        *,
        position: np.ndarray | None = None,
        timestamp: np.ndarray | None = None,
        name: str = "log",
    ) -> "InteractionLog":
        """As `from_columns`, with ids that `labels.densify` has numbered.

        Args:
          users, items: codes [N] int32 from 0, and labels [n] increasing.
          position, timestamp: [N] int64 or finite float64.

        Raises:
          DataError: columns of different length, or no rows.
        """
        (user_codes, user_labels), (item_codes, item_labels) = users, items
        columns = {"items": item_codes, "timestamps": timestamp, "positions": position}
        for what, column in columns.items():
            if column is not None and len(column) != len(user_codes):
                raise DataError(
                    f"{len(column)} {what} for {len(user_codes)} users; give one per interaction"
                )
        if not len(user_codes):
            raise DataError(f"{name}: no interactions; a log needs at least one")
        order = stable_order(user_codes, timestamp if position is None else position)
        rows = slice(None) if order is None else order
        return cls(
            user_ids=user_codes[rows],
            item_ids=item_codes[rows] + np.int32(1),
            timestamps=None if timestamp is None else timestamp[rows],
            user_labels=user_labels,
            item_labels=_with_padding(item_labels),
            name=name,
        )

    @property
    def num_users(self) -> int:
        return len(self.user_labels)

    @property
    def num_items(self) -> int:
        """V, padding not counted."""
        return len(self.item_labels) - 1

    @property
    def num_interactions(self) -> int:
        return len(self.user_ids)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """[U + 1] int64: rows offsets[u]:offsets[u + 1] are user u's."""
        return np.searchsorted(self.user_ids, np.arange(self.num_users + 1)).astype(np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """[U] int64 interactions of each user."""
        return np.diff(self.offsets)

    @functools.cached_property
    def time_ranks(self) -> np.ndarray | None:
        """[N] int32 rank of a row's time among the distinct times, 0 = earliest; or None."""
        if self.timestamps is None:
            return None
        return np.unique(self.timestamps, return_inverse=True)[1].astype(np.int32)

    def items_of(self, user_id: int) -> np.ndarray:
        """[n] int32 items of a user, oldest first."""
        return self.item_ids[self.offsets[user_id] : self.offsets[user_id + 1]]

    @functools.cached_property
    def _item_index(self) -> LabelIndex:
        return LabelIndex(self.item_labels[1:])

    @functools.cached_property
    def _user_index(self) -> LabelIndex:
        return LabelIndex(self.user_labels)

    def item_ids_of(self, labels) -> np.ndarray:
        """[n] int32 dense ids of original item ids, 0 where unknown; 7 and "7" are the same."""
        return (self._item_index.find(labels, "item") + 1).astype(np.int32)

    def item_id_of(self, label) -> int | None:
        """Dense id of one original item id; None if unknown."""
        return int(self.item_ids_of([label])[0]) or None

    def user_ids_of(self, labels) -> np.ndarray:
        """[n] int32 dense ids of original user ids, -1 where unknown; 7 and "7" are the same."""
        return self._user_index.find(labels, "user").astype(np.int32)

    def user_id_of(self, label) -> int | None:
        """Dense id of one original user id; None if unknown."""
        found = int(self.user_ids_of([label])[0])
        return None if found < 0 else found

    def labels_of(self, item_ids) -> np.ndarray:
        """Original ids of dense item ids, any shape; 0 gives the padding's placeholder.

        Raises:
          DataError: an id outside 0..V.
        """
        item_ids = np.asarray(item_ids, np.int64)
        if item_ids.size and (item_ids.min() < 0 or item_ids.max() > self.num_items):
            wrong = item_ids[(item_ids < 0) | (item_ids > self.num_items)][0]
            raise DataError(
                f"item id {wrong} is outside 0..{self.num_items} of {self.name}; "
                "give 0 where there is none"
            )
        return self.item_labels[item_ids]

    def select(self, keep: np.ndarray) -> "InteractionLog":
        """The log of the rows where `keep` [N] bool is set, with ids made dense again.

        Raises:
          DataError: nothing is kept.
        """
        if not keep.any():
            count = self.num_interactions
            raise DataError(f"{self.name}: none of its {count} interactions is left; filter less")
        users, user_codes = present(self.user_ids[keep], self.num_users)
        items, item_codes = present(self.item_ids[keep], self.num_items + 1)
        return InteractionLog(
            user_ids=user_codes,
            item_ids=item_codes + np.int32(1),
            timestamps=None if self.timestamps is None else self.timestamps[keep],
            user_labels=self.user_labels[users],
            item_labels=self.item_labels[np.concatenate([[0], items])],
            name=self.name,
        )

    def statistics(self) -> dict:
        """The papers' table: users, items, interactions, average_length, sparsity, tie_share.

        `tie_share` is the share of neighbouring interactions of a user that have the same time;
        None without times.
        """
        tie_share = None
        if self.timestamps is not None:
            neighbours = self.user_ids[1:] == self.user_ids[:-1]
            ties = neighbours & (self.timestamps[1:] == self.timestamps[:-1])
            tie_share = float(ties.sum() / max(int(neighbours.sum()), 1))
        return {
            "users": self.num_users,
            "items": self.num_items,
            "interactions": self.num_interactions,
            "average_length": self.num_interactions / self.num_users,
            "sparsity": 1.0 - self.num_interactions / (self.num_users * self.num_items),
            "tie_share": tie_share,
        }

    def fingerprint(self) -> str:
        """SHA-256 over ids, order, times and labels, in hex; the name does not matter."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = new_fingerprint()
        for array in (self.user_ids, self.item_ids, self.timestamps):
            add_header(digest, None if array is None else array.dtype, self.num_interactions)
            digest.update(b"" if array is None else np.ascontiguousarray(array))
        for labels in (self.user_labels, self.item_labels):
            # As JSON: the width of NumPy's strings, which filtering does not shrink, must not matter.
            digest.update(json.dumps(labels.tolist()).encode())
        return digest.hexdigest()

    def save(self, folder: storage.PathLike) -> None:
        """Writes .npy files and manifest.json, whole or not at all; replaces a log that is there.

        Raises:
          DataError: the folder holds files that are not a log's, or cannot be written.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self.timestamps is not None:
            arrays["timestamps"] = self.timestamps
        header = {"name": self.name, "fingerprint": self.fingerprint()}
        storage.save_arrays(folder, arrays, kind=KIND, header=header, own_files=OWN_FILES)

    @classmethod
    def load(cls, folder: storage.PathLike) -> "InteractionLog":
        """Reads a saved log.

        Raises:
          DataError: not a log's folder, or a file is missing, damaged or foreign; says which.
        """
        arrays, manifest = storage.load_arrays(
            folder, kind=KIND, required=_ARRAYS, optional=["timestamps"]
        )
        times = arrays.pop("timestamps", None)
        log = cls(timestamps=times, **arrays, name=str(manifest.get("name")))
        if log.fingerprint() != manifest.get("fingerprint"):
            raise DataError(
                f"{folder}: manifest and arrays are of different logs; "
                "save the log again from its source"
            )
        return log


def new_fingerprint():
    """The digest of nothing yet: `add_header` and the bytes of each flat array come in, then the labels as JSON."""
    return hashlib.sha256(b"raserec_jax.InteractionLog.1")


def add_header(digest, kind: np.dtype | None, rows: int) -> None:
    """Tells a fingerprint which array comes next; kind None: there is none, such as times."""
    # The type and length go first, so that no two different logs give the same bytes.
    digest.update(b"none;" if kind is None else f"{kind.str}({rows},)".encode())


def _with_padding(labels: np.ndarray) -> np.ndarray:
    placeholder = np.zeros(1, np.int64) if labels.dtype.kind == "i" else np.array([""])
    return np.concatenate([placeholder, labels])
