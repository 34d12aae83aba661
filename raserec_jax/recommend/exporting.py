"""A trained recommender as a folder that jax alone can run: the program by `jax.export`, its arrays, ids, and digests.

program.bin    StableHLO of `exported_program`, for CPU, CUDA and TPU; batch and length of histories are open
NAME.npy       its arrays: parameters, the bank as the search walks it, and its keys as they are read
items.json     original ids; users.json only if asked for
load.py        reads all this; imports nothing of ours.  README.md  says how
manifest.json  what is in the folder, with SHA-256 of every file
"""

import hashlib
import importlib
import io
import json
import pathlib
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from raserec_jax import __version__
from raserec_jax.data.splits import split_log
from raserec_jax.data.storage import PathLike, save_files
from raserec_jax.errors import ConfigError
from raserec_jax.recommend import exported_loader
from raserec_jax.recommend.exported_program import program_of, shapes_asked
from raserec_jax.recommend.recent_items import RecentItems
from raserec_jax.recommend.recommender import Recommender

PLATFORMS = ("cpu", "cuda", "tpu")
_BFLOAT16 = np.dtype(jnp.bfloat16)


def export_recommender(
    workdir: PathLike, folder: PathLike, *, k: int = 10, with_users: bool = False
) -> pathlib.Path:
    """Exports what `Recommender.load(workdir)` recommends, for a place without raserec_jax.

    Args:
      workdir: as `Recommender.load`.
      folder: to be made; a parent that is missing is made too.
      k: most items per history; 1..items.
      with_users: export the original ids of the users, so that a known user is asked for as such (he then does not
        see his own memories of this moment). Whose memories are whose can be read from the export then.

    Returns:
      The folder.

    Raises:
      CheckpointError: as `Recommender.load`.
      ConfigError: k outside 1..items, or flatbuffers, which jax.export needs, is not installed.
      DataError: the folder holds something already, or cannot be written.
    """
    _require_flatbuffers()
    recommender = Recommender.load(workdir)
    log, model = recommender.log, recommender.model
    if not 1 <= k <= log.num_items:
        raise ConfigError(
            f"k={k} but the catalogue has {log.num_items} items; give a k of 1..{log.num_items}"
        )
    program, arrays = program_of(model, k)
    shapes = {name: jax.ShapeDtypeStruct(one.shape, one.dtype) for name, one in arrays.items()}
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(
        shapes, *shapes_asked(log.num_items)
    )
    popular = RecentItems(split_log(log, recommender.config.data)).best()
    columns = dict(zip(("popular_ids", "popular_counts"), popular, strict=True)) | arrays
    if recommender.config.memory.eligibility == "before" and model.bank is not None:
        columns["times"] = model.memory.times  # also of what came after training
    files = {f"{name}.npy": _npy(column) for name, column in columns.items()}
    files["program.bin"] = bytes(exported.serialize())
    files["items.json"] = json.dumps(log.item_labels[1:].tolist()).encode()
    if with_users:
        files["users.json"] = json.dumps(_user_labels(recommender)).encode()
    files["load.py"] = pathlib.Path(exported_loader.__file__).read_bytes()
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "flatbuffers")}
    files["README.md"] = _readme(recommender, k, versions).encode()
    manifest = {
        "format": exported_loader.FORMAT,
        "k": k,
        "max_len": model.workdir.encoder.max_len,
        "scoring": recommender.scoring,
        "platforms": PLATFORMS,
        "made_with": {"raserec_jax": __version__, **versions},
        "fingerprint": recommender.fingerprint(),
        "arrays": {name: str(one.dtype) for name, one in arrays.items()},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    save_files(folder, files)
    return pathlib.Path(folder)


def _require_flatbuffers() -> None:
    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        raise ConfigError(
            "an export needs flatbuffers, which is not installed; run: pip install 'raserec_jax[export]'"
        ) from None


def _user_labels(recommender: Recommender) -> list[int | str | None]:
    """By user id, also of those whom updates brought; None where somebody was forgotten."""
    memory = recommender.model.memory
    labels: list[int | str | None] = recommender.log.user_labels.tolist()
    if memory is None or memory.snapshot is None:
        return labels
    now = memory.snapshot
    labels += [now.labels.get(user) for user in range(len(labels), now.next_user_id)]
    return [None if user in now.forgotten_user_ids else one for user, one in enumerate(labels)]


def _npy(column: np.ndarray) -> bytes:
    """NumPy's files have no bfloat16: its bits stand there."""
    file = io.BytesIO()
    plain = column.view(np.uint16) if column.dtype == _BFLOAT16 else column
    np.lib.format.write_array(file, plain, allow_pickle=False)
    return file.getvalue()


def _readme(recommender: Recommender, k: int, versions: dict[str, str]) -> str:
    bank = recommender.model.bank
    memory = "no memory" if bank is None else f"{bank.rows:,} memories, searched exactly"
    return f"""# A recommender, exported

{recommender.log.num_items:,} items, {memory}, scoring `{recommender.scoring}`, at most {k} items per history.

    pip install "jax>={versions["jax"]}" numpy flatbuffers
    python load.py ITEM ITEM ...            # tab-separated items and scores, for a history of these items

    from load import load                   # with this folder as the working directory, or on sys.path
    recommender = load("path of this folder")
    recommender.recommend([["ITEM", "ITEM"]], k=5, deny=["ITEM"])

Batches are padded to a few sizes; each is compiled when it first comes. Older releases of jax than the one above may
not read `program.bin`; newer ones do for at least six months (see the compatibility guarantees of jax.export).

**jaxlib 0.10.2 on a CPU** computes some programs wrongly (jax-ml/jax#39103) unless the environment holds
`XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=` (nothing after the last `=`) before jax starts. `load.py` sets it
when it is imported before jax is first used, and otherwise refuses to load where the fault shows.

`program.bin` is run and `load.py` is Python: use an export only if you trust where it comes from. `manifest.json` has
the SHA-256 of every file, which `load` checks: it shows damage, not who made the files. The memories hold what people
took; the export names no user unless it was made with the users' ids.
"""
