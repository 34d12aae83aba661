"""ScannRows: ScaNN's own searcher over rows that are known by their place, with many readers beside one writer.

ScaNN 1.4.2 takes new vectors into a built index, but its Python wrapper changes its list of ids before the call, so
that a vector which ScaNN refuses leaves the two out of step for ever, and it says nothing about searching
meanwhile. Here the wrapper's ids are not used: a row's number is its place, rows are only ever added, vectors are
checked first, and no search runs while they are.
"""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from raserec_jax.errors import DataError

_ROWS_PER_BATCH = 256
# An index whose vectors are described so much worse than at its training, or that has grown so much, wants another.
_WORSE = 1.25
_GROWN = 2.0


class ScannRows:
    """A searcher and how many rows it has; threads may share it.

    Attributes:
      rows: what it holds, later ones included.
      trained_rows: what it was trained on.
    """

    def __init__(self, searcher, rows: int, dim: int):
        """Takes over a searcher that ScaNN's builder has built over [rows, dim] vectors."""
        self._searcher, self._dim = searcher, dim
        self.rows = self.trained_rows = rows
        self._idle = threading.Condition()
        self._readers, self._waiting_writers = 0, 0
        searcher.initialize_health_stats()
        self._error = self._quantization_error()

    def search(self, vectors: Float[np.ndarray, "queries dim"], **options) -> tuple:
        """ScaNN's `search_batched_parallel`: row numbers and products, padded with row 0 and NaN."""
        with self._reading():
            return self._searcher.search_batched_parallel(vectors, **options)

    def append(self, vectors: Float[np.ndarray, "rows dim"], after: int) -> bool:
        """Adds rows after row `after` - 1; False, changing nothing, if somebody else has added there.

        Raises:
          DataError: another width, or NaN or infinity.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.shape[1] != self._dim or not np.isfinite(vectors).all():
            raise DataError(
                f"vectors of shape {vectors.shape} for an index of width {self._dim}: expected finite numbers of that "
                "width"
            )
        with self._writing():
            if self.rows != after:
                return False
            given = self._searcher.searcher.upsert([None] * len(vectors), vectors, _ROWS_PER_BATCH)
            if list(given) != list(range(after, after + len(vectors))):
                raise AssertionError(f"ScaNN numbered {len(vectors)} rows after {after} as {given}")
            self.rows += len(vectors)
            return True

    @property
    def wants_training(self) -> bool:
        """Whether an index trained anew would find much better: by its growth, or by ScaNN's own statistics."""
        if self.rows > _GROWN * self.trained_rows:
            return True
        return self._quantization_error() > _WORSE * self._error > 0

    def _quantization_error(self) -> float:
        """Mean distance of vectors from the centres of their leaves; 0 without a tree."""
        with self._reading():
            return float(self._searcher.get_health_stats()["avg_quantization_error"])

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._idle:
            # A writer that waits goes first, or a stream of readers would never let it in.
            self._idle.wait_for(lambda: self._readers >= 0 and not self._waiting_writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._idle:
                self._readers -= 1
                self._idle.notify_all()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._idle:
            self._waiting_writers += 1
            self._idle.wait_for(lambda: self._readers == 0)
            self._waiting_writers -= 1
            self._readers = -1
        try:
            yield
        finally:
            with self._idle:
                self._readers = 0
                self._idle.notify_all()
