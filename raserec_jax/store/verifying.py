"""Whether what lies in a store's folder is what was written there, said file by file; nothing is changed."""

import pathlib

from raserec_jax.errors import CheckpointError, DataError
from raserec_jax.store.arrays import as_vectors
from raserec_jax.store.files import PathLike, read_manifest, read_segment
from raserec_jax.store.layout import STORE, check_manifest
from raserec_jax.store.reading import ATTEMPTS, StoreReader, stamp


def verify_store(folder: PathLike) -> list[str]:
    """Reads every byte again and says what is wrong, a sentence each; an empty list means that nothing is.

    Works for a store that cannot be opened.
    """
    folder = pathlib.Path(folder)
    for _ in range(ATTEMPTS):
        seen = stamp(folder)
        problems = _problems(folder)
        if not problems or stamp(folder) == seen:  # else a writer may have removed what was listed
            return problems
    return [f"{folder}: changes faster than it can be read; try again when less is written"]


def _problems(folder: pathlib.Path) -> list[str]:
    try:
        problems = []
        for segment in check_manifest(folder, read_manifest(folder, STORE))["segments"]:
            for file_name, entry in segment["files"].items():
                try:
                    part = {**segment, "files": {file_name: entry}}
                    read_segment(folder, part, STORE, mapped=True)
                except CheckpointError as error:
                    problems.append(str(error))
        if not problems:
            as_vectors(StoreReader(folder).snapshot.keys, f"{folder}: keys")
        return problems
    except (CheckpointError, DataError) as error:
        return [str(error)]
