"""Parquet files as batches of rows, through pyarrow, an optional extra; nothing else imports it."""

import contextlib
import os
from collections.abc import Iterator, Sequence

from raserec_jax.data.sources import PathLike
from raserec_jax.errors import ConfigError, DataError

INSTALL = "pip install 'raserec_jax[parquet]'"
_MAGIC = b"PAR1"
_ROWS_AT_ONCE = 2**17


def is_parquet(path: PathLike) -> bool:
    """Whether it is a file that begins as Parquet does."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):
        return False  # whoever reads it as text says so


class ParquetFile:
    """An open file; use it in a `with`.

    Attributes:
      names: of the columns.
      rows: how many.

    Raises:
      ConfigError: pyarrow is not installed.
      DataError: the file is missing, unreadable, damaged or empty.
    """

    def __init__(self, path: PathLike):
        module = pyarrow_parquet()
        self._path = path
        self._stack = contextlib.ExitStack()
        try:
            file = self._stack.enter_context(open(path, "rb"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path!s:.200}: cannot be read ({reason}); check the path") from error
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._stack.close)
            with parquet_errors_told(path):
                self._file = module.ParquetFile(file, page_checksum_verification=True)
                self.names = tuple(self._file.schema_arrow.names)
                self.rows = self._file.metadata.num_rows
            if not self.rows:
                raise DataError(f"{path}: no rows in it; expected one per interaction or item")
            on_error.pop_all()

    def __enter__(self) -> "ParquetFile":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def batches(self, names: Sequence[str] | None = None) -> Iterator[tuple[int, dict]]:
        """Yields (number of the first row, from 1; column -> pyarrow array) of these columns, default all.

        Raises:
          DataError: the file is damaged.
        """
        row = 1
        with parquet_errors_told(self._path):
            wanted = None if names is None else list(dict.fromkeys(names))
            for batch in self._file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
                batch.validate(full=True)
                if batch.num_rows:
                    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                    yield row, {name: columns[name] for name in wanted or columns}
                row += batch.num_rows
        if row != self.rows + 1:
            raise DataError(
                f"{self._path}: damaged Parquet file ({row - 1} of {self.rows} rows); write or copy it again"
            )


@contextlib.contextmanager
def parquet_errors_told(path: PathLike) -> Iterator[None]:
    """Turns whatever pyarrow raises into a DataError about the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # pyarrow answers a damaged file with errors of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{path}: damaged Parquet file, or of a kind that pyarrow cannot read ({reason}); "
            "write or copy it again"
        ) from None


def pyarrow_parquet():
    """The module pyarrow.parquet.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            f"Parquet needs pyarrow, which is not installed; run: {INSTALL}"
        ) from None
    return pyarrow.parquet
