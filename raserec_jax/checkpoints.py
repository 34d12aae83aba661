"""Checkpoints: Orbax writes the arrays, our manifest says that a step is whole.

Orbax stores no checksums: a flipped bit restores silently as wrong weights. So a step is a folder with Orbax's files
and a `manifest.json` that lists the sha256 of each, what the tree looks like and the state of the run; it gets its
name by a rename once all of it is on disk. A folder without a valid manifest is no checkpoint.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from raserec_jax.errors import CheckpointError

_STEP = re.compile(r"^\d{9}$")


def save(folder: Path, tree: Any, meta: dict) -> None:
    """Writes `tree` and `meta` to `folder`, which appears at once and whole, replacing an older one.

    Args:
      folder: final place.
      tree: arrays.
      meta: JSON values kept beside them.
    """
    folder = Path(folder).absolute()
    building = folder.with_name(f".building-{folder.name}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(building / "tree", tree)
        checkpointer.wait_until_finished()
    manifest = {"meta": meta, "leaves": _describe(tree), "sha256": _digests(building)}
    with open(building / "manifest.json", "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    _replace(building, folder)


def restore(folder: Path, template: Any) -> tuple[Any, dict]:
    """The tree and meta saved in `folder`.

    Args:
      folder: as given to `save`.
      template: a tree of arrays or ShapeDtypeStructs of the structure expected.

    Raises:
      CheckpointError: absent, truncated, altered, or of another structure.
    """
    folder = Path(folder).absolute()
    manifest = _verified_manifest(folder)
    expected = _describe(template)
    if manifest["leaves"] != expected:
        raise CheckpointError(_difference(folder, manifest["leaves"], expected))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), template)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder / "tree", abstract)
    return tree, manifest["meta"]


def read_meta(folder: Path) -> dict:
    """The meta of a verified checkpoint, without its arrays. Raises CheckpointError as `restore` does."""
    return _verified_manifest(Path(folder).absolute())["meta"]


def save_step(root: Path, step: int, tree: Any, meta: dict, *, keep: int = 2) -> None:
    """Saves a step for resuming and deletes all but the newest `keep`."""
    save(Path(root) / f"{step:09d}", tree, meta)
    for old in step_folders(root)[:-keep]:
        shutil.rmtree(old)


def step_folders(root: Path) -> list[Path]:
    """Folders of finished steps, oldest first."""
    root = Path(root)
    names = sorted(p.name for p in root.iterdir() if _STEP.match(p.name)) if root.is_dir() else []
    return [root / name for name in names]


def restore_newest(root: Path, template: Any) -> tuple[Any, dict] | None:
    """The newest step that is whole; None if there was never one.

    A damaged step is set aside (renamed to `damaged-…`, kept) with one line that says why, and the one before is
    tried.

    Raises:
      CheckpointError: there are steps, and all of them are damaged; or a step is of another structure.
    """
    folders = step_folders(root)
    for folder in reversed(folders):
        try:
            _verified_manifest(folder)
        except CheckpointError as error:
            logging.getLogger("raserec_jax").warning("set aside: %s", error)
            _set_aside(folder)
            continue
        return restore(folder, template)
    set_aside = list(Path(root).glob("damaged-*")) if Path(root).is_dir() else []
    if folders or set_aside:
        raise CheckpointError(
            f"{root}: every checkpoint is damaged (kept as damaged-*); delete the folder to train this stage anew"
        )
    return None


def _set_aside(folder: Path) -> None:
    """Renames a damaged step to a name that no step has and none before it took."""
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


def _verified_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no checkpoint there (manifest.json is missing); run launch/train.py with this workdir first"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        digests = dict(manifest["sha256"])
        manifest["leaves"], manifest["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint manifest ({error})") from error
    found = _digests(folder)
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


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != "manifest.json":
            with open(path, "rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


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


def _replace(building: Path, folder: Path) -> None:
    """Renames a finished folder into place; the old one goes only once the new one is whole."""
    outgoing = folder.with_name(f".outgoing-{folder.name}")
    shutil.rmtree(outgoing, ignore_errors=True)
    for path in building.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    if folder.exists():
        folder.rename(outgoing)
    building.rename(folder)
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
    shutil.rmtree(outgoing, ignore_errors=True)
