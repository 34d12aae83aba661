"""PieceCache: finished pieces of a long computation, so that a killed one goes on where it was."""

import hashlib
import io
import pathlib
import shutil

import numpy as np

from raserec_jax.data.storage import PathLike, write_file


class PieceCache:
    """Arrays by number, in a folder named after what they are made from.

    Each file holds a SHA-256 and an .npy; what does not match its digest is as good as absent. The folder's other
    keys are removed when a new one is begun: only the computation under way is worth its space.

    Args:
      root: folder of the cache.
      key: digest of everything that the pieces depend on.
    """

    def __init__(self, root: PathLike, key: str):
        self._root = pathlib.Path(root)
        self._folder = self._root / key[:32]

    def read(self, number: int) -> np.ndarray | None:
        """A piece that `write` kept, None if there is none or it is damaged."""
        try:
            content = self._path(number).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        return np.lib.format.read_array(io.BytesIO(content[32:]), allow_pickle=False)

    def write(self, number: int, array: np.ndarray) -> None:
        """Keeps a piece, whole or not at all.

        Raises:
          DataError: it cannot be written.
        """
        if not self._folder.is_dir():
            self.clear()
            self._folder.mkdir(parents=True)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
        content = buffer.getvalue()
        write_file(self._path(number), hashlib.sha256(content).digest() + content)

    def clear(self) -> None:
        """Removes all pieces, those of other keys too."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number:09d}.piece"
