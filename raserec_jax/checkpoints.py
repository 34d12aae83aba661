"""Checkpoints: Orbax writes the arrays, our manifest says that a step is whole.

Orbax stores no checksums: a flipped bit restores silently as wrong weights. So a step is a folder with Orbax's files
and a `manifest.json` that lists the sha256 of each, what the tree looks like and the state of the run, and bears a
sha256 of its own; it gets its name by a rename once all of it is on disk. A folder without a valid manifest is no
checkpoint.

Of several processes each writes and digests its pieces of the arrays, and process 0 makes the one manifest of them.
What is stored is the same for any mesh and any number of processes, and any can restore it: each digests its share of
the files, and reads what its devices hold.
"""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from raserec_jax.checkpoint_folders import (
    begin_building,
    clear_leftovers,
    replace_folder,
    set_aside,
    step_folders,
    whole_folder,
)
from raserec_jax.checkpoint_manifest import (
    described,
    difference,
    digests_of,
    files_of,
    manifest_bytes,
    merged_digests,
    verified_manifest,
)
from raserec_jax.distributed import (
    by_all,
    by_writer,
    host_name,
    is_writer,
    process_count,
    process_id,
)
from raserec_jax.durable import flush_path
from raserec_jax.errors import CheckpointError
from raserec_jax.orbax_quiet import reported_here
from raserec_jax.piece_files import folder_of_process, merge_pieces, write_pieces


def save(folder: Path, tree: Any, meta: dict) -> None:
    """Writes `tree` and `meta` to `folder`, which appears at once and whole, replacing an older one.

    Args:
      folder: final place.
      tree: arrays.
      meta: JSON values kept beside them.

    Raises:
      CheckpointError: it cannot be written (no space, no permission); what was there before is as it was.
    """
    folder = Path(folder).absolute()
    building = folder.with_name(f".building-{folder.name}")
    with _told(folder):
        try:
            begin_building(folder, building)
            if jax.tree.leaves(tree):  # Orbax refuses to save nothing
                with reported_here(), _checkpointer() as checkpointer:
                    checkpointer.save(building / "tree", tree)
                    checkpointer.wait_until_finished()
            _put_in_place(building, folder, tree, meta, digests_of(building, files_of(building)))
        except Exception:
            shutil.rmtree(building, ignore_errors=True)
            raise


def save_together(folder: Path, tree: Any, meta: dict) -> None:
    """`save`, called by all processes of a job, each with the pieces that it writes; it returns when all is in place.

    Meets the others at places of its own, so a thread may call it while the main thread computes; at one time one.

    Args:
      folder, meta: as `save`.
      tree: of several processes, `distributed.Pieces`; of one, arrays.

    Raises:
      CheckpointError: as `save`, on all processes and in the same words, whichever could not write.
    """
    if process_count() == 1:
        return save(folder, tree, meta)
    folder = Path(folder).absolute()

    def started() -> str:
        # A name of this save alone: a process of a killed job may live on for seconds, and write.
        name = f".building-{folder.name}-{secrets.token_hex(8)}"
        if is_writer():
            with _told(folder):
                begin_building(folder, folder.with_name(name))
        return name

    def write() -> dict[str, str]:
        with _told(folder):
            return _write_own(building, tree)

    def finish() -> None:
        if is_writer():
            with _told(folder):
                _finish(building, folder, tree, meta, merged_digests(parts))

    building = folder.with_name(by_all("checkpoint, begun", started)[0])
    try:
        parts = by_all("checkpoint, written", write)
        by_all("checkpoint, in place", finish)
    except Exception:
        if is_writer():
            shutil.rmtree(building, ignore_errors=True)
        raise


def restore(
    folder: Path, template: Any, *, onto: Any = None, together: bool = False
) -> tuple[Any, dict]:
    """The tree and meta saved in `folder`.

    Args:
      folder: as given to `save`.
      template: a tree of arrays or ShapeDtypeStructs of the structure expected.
      onto: the same tree of ShapeDtypeStructs with shardings: where the arrays are to lie, and, where an array is
        filled up with rows of zeros there, its shape; None: as in the template, on the default device.
      together: all processes of a job call this, and each digests its share of the files.

    Raises:
      CheckpointError: absent, truncated, altered, or of another structure.
    """
    folder = whole_folder(folder)
    return _restored(folder, verified_manifest(folder, together), template, onto)


def read_meta(folder: Path, *, together: bool = False) -> dict:
    """The meta of a verified checkpoint, without its arrays. Raises CheckpointError as `restore` does."""
    return verified_manifest(whole_folder(folder), together)["meta"]


def save_step(root: Path, step: int, tree: Any, meta: dict, *, keep: int = 2) -> None:
    """Saves a step for resuming and deletes all but the newest `keep`; called as `save_together`."""
    save_together(Path(root) / f"{step:09d}", tree, meta)
    if not is_writer():
        return
    for old in step_folders(root)[:-keep]:
        # Under another name first: a kill while files go must not leave what looks like a damaged step.
        outgoing = old.with_name(f".outgoing-{old.name}")
        shutil.rmtree(outgoing, ignore_errors=True)
        old.rename(outgoing)
        shutil.rmtree(outgoing, ignore_errors=True)


def restore_newest(root: Path, template: Any, *, onto: Any = None) -> tuple[Any, dict] | None:
    """The newest step that is whole; None if there was never one. Of several processes, all call it.

    Args:
      root: as given to `save_step`.
      template, onto: as `restore`.

    A damaged step is set aside (renamed to `damaged-…`, kept) with one line that says why, and the one before is
    tried. What a killed process left half-written is removed.

    Raises:
      CheckpointError: there are steps, and all of them are damaged; or a step is of another structure.
    """
    while name := by_writer("newest checkpoint", lambda: _newest(Path(root))):
        folder = Path(root).absolute() / name
        try:
            manifest = verified_manifest(folder, together=True)
        except CheckpointError as error:
            by_writer("damaged checkpoint", functools.partial(set_aside, folder, str(error)))
            continue
        return _restored(folder, manifest, template, onto)
    return None


def _newest(root: Path) -> str | None:
    """The name of the newest step's folder."""
    clear_leftovers(root)
    folders = step_folders(root)
    if not folders and any(root.glob("damaged-*")):
        raise CheckpointError(
            f"{root}: every checkpoint is damaged (kept as damaged-*); delete the folder to train this stage anew"
        )
    return folders[-1].name if folders else None


def _restored(folder: Path, manifest: dict, template: Any, onto: Any) -> tuple[Any, dict]:
    """The tree and meta of a verified checkpoint."""
    expected = described(template)
    if manifest["leaves"] != expected:
        raise CheckpointError(difference(folder, manifest["leaves"], expected))
    if not expected:
        return template, manifest["meta"]
    with _checkpointer() as checkpointer:
        if onto is not None:
            tree = checkpointer.restore(folder / "tree", onto, strict=False)
            return tree, manifest["meta"]
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), template
        )
        tree = checkpointer.restore(folder / "tree", shapes)
    # What was saved from the host comes back on the host: once onto the device, not at every call.
    return jax.tree.map(jnp.array, tree), manifest["meta"]


def _checkpointer() -> ocp.StandardCheckpointer:
    """Orbax as a process by itself uses it: of several, each reads what it needs."""
    own = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
        )
    )


def _reason(error: Exception) -> str:
    """Why a save failed, in the operating system's words if it has some: TensorStore hides its error number."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        return os.strerror(int(number.group(1)))
    return getattr(error, "strerror", None) or " ".join(str(error).split())[-200:]


def params_fingerprint(params: Any) -> str:
    """sha256 over names, shapes and bytes of a parameter tree: which encoder made the keys of a bank."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_own(building: Path, tree: Any) -> dict[str, str]:
    """Writes this process's pieces, so that they last; the digests of its files."""
    if not jax.tree.leaves(tree):
        return {}
    (building / "tree").mkdir(exist_ok=True)
    with reported_here():
        write_pieces(building / "tree", tree)
    own = folder_of_process(building / "tree", process_id())
    if not own.is_dir():
        return {}
    for path in [*own.rglob("*"), own]:
        flush_path(path)
    return digests_of(building, files_of(building, own))


def _finish(building: Path, folder: Path, tree: Any, meta: dict, digests: dict[str, str]) -> None:
    """Merges what all processes wrote, whose digests are given, and puts it in place."""
    if jax.tree.leaves(tree):
        with reported_here():
            merge_pieces(building / "tree")
    rest = [(name, size) for name, size in files_of(building) if name not in digests]
    _put_in_place(building, folder, tree, meta, digests | digests_of(building, rest))


def _put_in_place(
    building: Path, folder: Path, tree: Any, meta: dict, digests: dict[str, str]
) -> None:
    """Writes the manifest of what was built, and gives it its name."""
    manifest = {"meta": meta, "leaves": described(tree), "sha256": digests}
    (building / "manifest.json").write_bytes(manifest_bytes(manifest))
    replace_folder(building, folder)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turns what may go wrong in a save into the error that tells of it, and of several processes, whose it is."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # Orbax: ValueError for a full disk
        where = f", on process {process_id()} ({host_name()})" if process_count() > 1 else ""
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be written ({_reason(error)}{where}); free space or make the folder "
            "writable and run again: earlier checkpoints are as they were"
        ) from error
