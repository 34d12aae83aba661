"""VectorCache: vectors by the hash of their text, on disk, added piece by piece; encode() uses it and resumes from it.

A folder holds the vectors of one encoder: encoder.json, and pieces `<sha256 of the content>.npy` of rows
(text hash, float16 vector). A piece is written whole or not at all, and its name proves its content, so a kill costs
the piece under way, and a damaged one is dropped and encoded again.
"""

import hashlib
import io
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from raserec_jax.data.storage import PathLike, write_file
from raserec_jax.errors import DataError
from raserec_jax.progress import Progress
from raserec_jax.semantic.encoders import Encoder, identity, identity_key

_HASH_BYTES = 16
_INFO = "encoder.json"


class VectorCache:
    """The vectors of one encoder.

    Args:
      root: folder of all caches; this one lies in root/NAME-KEY.
      encoder: whose vectors.

    Raises:
      DataError: the folder there is another encoder's, or cannot be written.
    """

    def __init__(self, root: PathLike, encoder: Encoder):
        self.folder = pathlib.Path(root) / f"{_plain(encoder.name)}-{identity_key(encoder)[:16]}"
        self._encoder = encoder
        self._dtype = np.dtype([("text", "u1", _HASH_BYTES), ("vector", "<f2", (encoder.width,))])
        self._check_info()

    def _check_info(self) -> None:
        path = self.folder / _INFO
        wanted = json.dumps(identity(self._encoder), indent=1, sort_keys=True).encode() + b"\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = path.read_bytes() if path.exists() else None
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be used ({error.strerror}); choose another output folder or free space"
            ) from error
        if found is None:
            write_file(path, wanted)
        elif found != wanted:
            raise DataError(
                f"{path}: not the record of the encoder {self._encoder.name} that the folder is named after; "
                "remove that folder, its vectors are made again"
            )

    def encode(
        self, texts: Sequence[str], desc: str, *, piece: int = 2048, progress=Progress
    ) -> np.ndarray:
        """Vectors of texts; each distinct text is encoded once, ever.

        Args:
          texts: any; empty ones get zeros.
          desc: what is going on, for the progress bar.
          piece: texts between two writes: what a kill costs.
          progress: as `progress.Progress`.

        Returns:
          [n, width] float16.

        Raises:
          DataError: a vector is not finite, or the disk is full.
        """
        distinct = [text for text in dict.fromkeys(texts) if text]
        place = {text: row for row, text in enumerate(distinct)}
        hashes = [_hash(text) for text in distinct]
        vectors = np.zeros((len(distinct) + 1, self._encoder.width), np.float16)  # last: no text
        missing = self._read({digest: row for row, digest in enumerate(hashes)}, vectors)
        # Long texts first: the largest batch comes at once, and what is left gets quicker, not slower.
        missing.sort(key=lambda row: (-len(distinct[row]), row))
        with progress(len(distinct), desc, "text", initial=len(distinct) - len(missing)) as bar:
            for start in range(0, len(missing), piece):
                rows = missing[start : start + piece]
                vectors[rows] = self._encoded([distinct[row] for row in rows])
                self._write([hashes[row] for row in rows], vectors[rows])
                bar.update(len(rows))
        return vectors[[place.get(text, -1) for text in texts]]

    def _encoded(self, texts: list[str]) -> np.ndarray:
        vectors = np.asarray(self._encoder.encode(texts))
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise DataError(
                f"encoder {self._encoder.name} gave a vector that is not finite for the text "
                f"{texts[bad[0]]!r:.120}; use another encoder or repair the text"
            )
        return vectors.astype(np.float16)

    def _read(self, wanted: dict[bytes, int], vectors: np.ndarray) -> list[int]:
        """Fills in what is there; returns the rows that are not."""
        found = np.zeros(len(wanted), bool)
        for path in sorted(self.folder.glob("*.npy")) if wanted else ():
            rows = self._piece(path)
            if rows is None:
                continue
            for number, digest in enumerate(rows["text"]):
                row = wanted.get(digest.tobytes())
                if row is not None:
                    vectors[row], found[row] = rows["vector"][number], True
        return np.flatnonzero(~found).tolist()

    def _piece(self, path: pathlib.Path) -> np.ndarray | None:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.stem:
            rows = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            if rows.dtype == self._dtype and rows.ndim == 1:
                return rows
        logging.getLogger("raserec_jax").warning(
            "removed: %s is damaged; its texts are encoded again", path
        )
        path.unlink(missing_ok=True)
        return None

    def _write(self, hashes: list[bytes], vectors: np.ndarray) -> None:
        rows = np.zeros(len(hashes), self._dtype)
        rows["text"] = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, _HASH_BYTES)
        rows["vector"] = vectors
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, rows, allow_pickle=False)
        content = buffer.getvalue()
        write_file(self.folder / f"{hashlib.sha256(content).hexdigest()}.npy", content)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_HASH_BYTES]


def _plain(name: str) -> str:
    """A name that may be a path as a part of a file name."""
    kept = "".join(
        c if c.isalnum() and c.isascii() else "_" for c in os.path.basename(name) or name
    )
    return kept[:40].strip("_") or "encoder"


def share_vectors(folder: PathLike, other: PathLike) -> None:
    """Copies vectors and trained text encoder of one folder of `pipeline.embed_text` to another that has none yet."""
    for name in ("vectors", "tuned"):
        source, target = (pathlib.Path(one) / name for one in (folder, other))
        if not source.is_dir() or target.exists():
            continue
        building = target.with_name(f".building-{name}")
        shutil.rmtree(building, ignore_errors=True)  # of a call that was killed
        shutil.copytree(source, building)
        os.replace(building, target)
