"""Golden arrays: what the papers' own code gave for fixed weights and inputs.

They lie in tests/golden, or where RASEREC_GOLDEN_DIR says. A file that is missing is a failure, never a skip.
"""

import os
import pathlib

import numpy as np

FOLDER = pathlib.Path(
    os.environ.get("RASEREC_GOLDEN_DIR", pathlib.Path(__file__).parent / "golden")
)


def read_golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of a golden file; whole numbers as int32, as our arrays are."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return {
        key: value.astype(np.int32) if value.dtype == np.int64 else value
        for key, value in arrays.items()
    }
