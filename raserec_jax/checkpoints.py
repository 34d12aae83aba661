"""Checkpoints: Orbax writes the arrays, our manifest says that a step is whole.

Orbax stores no checksums: a flipped bit restores silently as wrong weights. So a step is a folder with Orbax's files
and a `manifest.json` that lists the sha256 of each, what the tree looks like and the state of the run, and bears a
sha256 of its own; it gets its name by a rename once all of it is on disk. A folder without a valid manifest is no
checkpoint.

Of several processes each writes and digests its pieces of the arrays, and process 0 makes the one manifest of them.
What is stored is the same for any mesh and any number of processes, and any can restore it: each digests its share of
the files, and reads what its devices hold.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

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
from raserec_jax.piece_files import folder_of_process, merge_pieces, write_pieces

_STEP = re.compile(r"^\d{9}$")
_ORBAX = os.path.dirname(ocp.__file__)


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
            _begin(folder, building)
            if jax.tree.leaves(tree):  # Orbax refuses to save nothing
                with _reported_here(), _checkpointer() as checkpointer:
                    checkpointer.save(building / "tree", tree)
                    checkpointer.wait_until_finished()
            _put_in_place(building, folder, tree, meta, _digests(building, _files(building)))
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

    def begin() -> str:
        # A name of this save alone: a process of a killed job may live on for seconds, and write.
        name = f".building-{folder.name}-{secrets.token_hex(8)}"
        if is_writer():
            with _told(folder):
                _begin(folder, folder.with_name(name))
        return name

    def write() -> dict[str, str]:
        with _told(folder):
            return _write_own(building, tree)

    def finish() -> None:
        if is_writer():
            with _told(folder):
                _finish(building, folder, tree, meta, _merged(parts))

    building = folder.with_name(by_all("checkpoint, begun", begin)[0])
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
    folder = _whole(folder)
    return _restored(folder, _verified_manifest(folder, together), template, onto)


def read_meta(folder: Path, *, together: bool = False) -> dict:
    """The meta of a verified checkpoint, without its arrays. Raises CheckpointError as `restore` does."""
    return _verified_manifest(_whole(folder), together)["meta"]


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


def step_folders(root: Path) -> list[Path]:
    """Folders of finished steps, oldest first."""
    root = Path(root)
    names = sorted(p.name for p in root.iterdir() if _STEP.match(p.name)) if root.is_dir() else []
    return [root / name for name in names]


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
            manifest = _verified_manifest(folder, together=True)
        except CheckpointError as error:
            by_writer("damaged checkpoint", functools.partial(_set_aside, folder, str(error)))
            continue
        return _restored(folder, manifest, template, onto)
    return None


def _newest(root: Path) -> str | None:
    """The name of the newest step's folder."""
    _clear_leftovers(root)
    folders = step_folders(root)
    if not folders and any(root.glob("damaged-*")):
        raise CheckpointError(
            f"{root}: every checkpoint is damaged (kept as damaged-*); delete the folder to train this stage anew"
        )
    return folders[-1].name if folders else None


def _restored(folder: Path, manifest: dict, template: Any, onto: Any) -> tuple[Any, dict]:
    """The tree and meta of a verified checkpoint."""
    expected = _describe(template)
    if manifest["leaves"] != expected:
        raise CheckpointError(_difference(folder, manifest["leaves"], expected))
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


def _set_aside(folder: Path, words: str) -> None:
    """Renames a damaged step to a name that no step has and none before it took, and says what is wrong with it."""
    logging.getLogger("raserec_jax").warning("set aside: %s", words)
    target, count = folder.with_name(f"damaged-{folder.name}"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"damaged-{folder.name}-{count}")
    folder.rename(target)


def params_fingerprint(params: Any) -> str:
    """sha256 over names, shapes and bytes of a parameter tree: which encoder made the keys of a bank."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _verified_manifest(folder: Path, together: bool = False) -> dict:
    """The manifest of a checkpoint whose files are as it says; together: of several processes each digests a share."""
    if together:
        manifest, files = by_writer("checkpoint, files", lambda: _listed(folder))
        share = _shares(files, process_count())[process_id()]
        found = _merged(by_all("checkpoint, digests", lambda: _digests(folder, share)))
    else:
        manifest, files = _listed(folder)
        found = _digests(folder, files)
    digests = manifest["sha256"]
    for name in sorted(set(digests) | set(found)):
        if name not in found:
            raise CheckpointError(
                f"{folder}: {name} is missing; restore it from a copy or train anew"
            )
        if digests.get(name) != found[name]:
            raise CheckpointError(
                f"{folder}: {name} does not match its recorded sha256 (truncated or altered); "
                "restore it from a copy or train anew"
            )
    return manifest


def _listed(folder: Path) -> tuple[dict, list]:
    """A checkpoint's manifest, and its files as `_files` gives them."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no checkpoint there (manifest.json is missing); run launch/train.py with this workdir first"
        )
    return _parsed_manifest(path, path.read_bytes()), _files(folder)


def _shares(files: list, count: int) -> list[list]:
    """Files, as (name, bytes), divided so that all shares have about as many bytes; the same on every process."""
    shares: list[list] = [[] for _ in range(count)]
    sizes = [0] * count
    for name, size in sorted(files, key=lambda file: (-file[1], file[0])):
        least = sizes.index(min(sizes))
        shares[least].append((name, size))
        sizes[least] += size
    return shares


def _parsed_manifest(path: Path, content: bytes) -> dict:
    """The manifest without its own sha256, which must be that of the rest, written in the one way we write it."""
    try:
        manifest = json.loads(content)
        signed = manifest.pop("manifest_sha256", None) is not None
        whole = set(manifest) == {"meta", "leaves", "sha256"} and isinstance(
            manifest["sha256"], dict
        )
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint manifest ({error})") from error
    if not whole:
        raise CheckpointError(f"{path}: not a checkpoint manifest (it lacks a part)")
    if signed and _manifest_bytes(manifest) != content:
        raise CheckpointError(
            f"{path} does not match its recorded sha256 (altered); restore it from a copy or train anew"
        )
    return manifest


def _manifest_bytes(manifest: dict) -> bytes:
    """The one way to write a manifest, its own digest included: any other bytes are damage."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps(manifest | {"manifest_sha256": digest}, indent=1, sort_keys=True).encode()


def _files(folder: Path, within: Path | None = None) -> list[tuple[str, int]]:
    """Name and bytes of every file of a checkpoint but its manifest, or of those in a folder within it."""
    found = []
    for path in sorted((within or folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != "manifest.json":
            found.append((name, path.stat().st_size))
    return found


def _digests(folder: Path, files: list) -> dict[str, str]:
    """Name -> sha256 of files as `_files` gives them."""
    digests = {}
    for name, _ in files:
        with open(folder / name, "rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _merged(parts: list[dict[str, str]]) -> dict[str, str]:
    return {name: digest for part in parts for name, digest in part.items()}


def _describe(tree: Any) -> dict[str, list]:
    """Path -> [shape, dtype] of every leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path): [list(np.shape(leaf)), str(leaf.dtype)] for path, leaf in leaves
    }


def _difference(folder: Path, found: dict, expected: dict) -> str:
    for name in sorted(set(found) | set(expected)):
        if found.get(name) != expected.get(name):
            return (
                f"{folder}: made by another configuration: {name} is {found.get(name, 'absent')}, "
                f"expected {expected.get(name, 'absent')}; use the configuration in the workdir's config.json"
            )
    raise AssertionError("called without a difference")


def _whole(folder: Path) -> Path:
    """The folder; if a kill came while it was being replaced, what it held before."""
    folder = Path(folder).absolute()
    outgoing = folder.with_name(f".outgoing-{folder.name}")
    return outgoing if outgoing.exists() and not folder.exists() else folder


def _begin(folder: Path, building: Path) -> None:
    """Makes an empty place to build a checkpoint in, where none is left of a save that was killed."""
    _finish_replacing(folder)
    name = f".building-{folder.name}"
    for left in [folder.with_name(name), *folder.parent.glob(f"{name}-*")]:
        shutil.rmtree(left, ignore_errors=True)
    building.mkdir(parents=True)


def _write_own(building: Path, tree: Any) -> dict[str, str]:
    """Writes this process's pieces, so that they last; the digests of its files."""
    if not jax.tree.leaves(tree):
        return {}
    (building / "tree").mkdir(exist_ok=True)
    with _reported_here():
        write_pieces(building / "tree", tree)
    own = folder_of_process(building / "tree", process_id())
    if not own.is_dir():
        return {}
    for path in [*own.rglob("*"), own]:
        flush_path(path)
    return _digests(building, _files(building, own))


def _finish(building: Path, folder: Path, tree: Any, meta: dict, digests: dict[str, str]) -> None:
    """Merges what all processes wrote, whose digests are given, and puts it in place."""
    if jax.tree.leaves(tree):
        with _reported_here():
            merge_pieces(building / "tree")
    rest = [(name, size) for name, size in _files(building) if name not in digests]
    _put_in_place(building, folder, tree, meta, digests | _digests(building, rest))


def _put_in_place(
    building: Path, folder: Path, tree: Any, meta: dict, digests: dict[str, str]
) -> None:
    """Writes the manifest of what was built, and gives it its name."""
    manifest = {"meta": meta, "leaves": _describe(tree), "sha256": digests}
    (building / "manifest.json").write_bytes(_manifest_bytes(manifest))
    _replace(building, folder)


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


def _finish_replacing(folder: Path) -> None:
    """Puts back what a kill between the two renames of `_replace` left under another name."""
    if _whole(folder) != folder:
        _whole(folder).rename(folder)


def _replace(building: Path, folder: Path) -> None:
    """Renames a finished folder into place; the old one goes only once the new one is whole."""
    outgoing = folder.with_name(f".outgoing-{folder.name}")
    shutil.rmtree(outgoing, ignore_errors=True)
    for path in [*building.rglob("*"), building]:
        flush_path(path)
    if folder.exists():
        folder.rename(outgoing)
    building.rename(folder)
    flush_path(folder.parent)
    shutil.rmtree(outgoing, ignore_errors=True)


def _clear_leftovers(root: Path) -> None:
    """Removes what a killed save or deletion of a step left; a step that was being replaced comes back."""
    for outgoing in root.glob(".outgoing-*"):
        step = root / outgoing.name.removeprefix(".outgoing-")
        newer = [folder for folder in step_folders(root) if folder.name > step.name]
        if not newer:
            _finish_replacing(step)
    for leftover in [*root.glob(".building-*"), *root.glob(".outgoing-*")]:
        shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _reported_here() -> Iterator[None]:
    """Orbax's threads log and print tracebacks of an error that the caller is told of anyway."""
    before, logger = threading.excepthook, logging.getLogger("absl")

    def hook(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("orbax."):
            before(args)

    threading.excepthook = hook
    logger.addFilter(_not_of_orbax)
    outer = sys.unraisablehook
    sys.unraisablehook = _without_late_answers(outer)
    try:
        yield
        sys.unraisablehook = outer  # not after an error: they may still come
    finally:
        threading.excepthook = before
        logger.removeFilter(_not_of_orbax)


def _without_late_answers(outer: Callable) -> Callable:
    """sys.unraisablehook without what TensorStore prints of a save that failed: it answers an event loop of Orbax's
    that is closed by then, with a traceback for each write."""

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # Called straight from TensorStore's threads: nothing of ours or of a caller's stands above.
        traceback = unraisable.exc_traceback
        place = traceback and traceback.tb_frame.f_code.co_filename
        late = isinstance(unraisable.exc_value, RuntimeError)
        if not (late and place == asyncio.base_events.__file__):
            outer(unraisable)

    return hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not record.pathname.startswith(_ORBAX)
