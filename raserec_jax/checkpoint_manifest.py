"""The manifest of a checkpoint: what its tree looks like, the state of the run, the sha256 of every file and its own.

A folder whose files are not as its manifest says is no checkpoint. Of several processes each digests its share.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from raserec_jax.distributed import by_all, by_writer, process_count, process_id
from raserec_jax.errors import CheckpointError


def verified_manifest(folder: Path, together: bool = False) -> dict:
    """The manifest of a checkpoint whose files are as it says; together: of several processes each digests a share."""
    if together:
        manifest, files = by_writer("checkpoint, files", lambda: _listed(folder))
        share = _shares(files, process_count())[process_id()]
        found = merged_digests(by_all("checkpoint, digests", lambda: digests_of(folder, share)))
    else:
        manifest, files = _listed(folder)
        found = digests_of(folder, files)
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
    """A checkpoint's manifest, and its files as `files_of` gives them."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no checkpoint there (manifest.json is missing); run launch/train.py with this workdir first"
        )
    return _parsed_manifest(path, path.read_bytes()), files_of(folder)


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
    if signed and manifest_bytes(manifest) != content:
        raise CheckpointError(
            f"{path} does not match its recorded sha256 (altered); restore it from a copy or train anew"
        )
    return manifest


def manifest_bytes(manifest: dict) -> bytes:
    """The one way to write a manifest, its own digest included: any other bytes are damage."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps(manifest | {"manifest_sha256": digest}, indent=1, sort_keys=True).encode()


def files_of(folder: Path, within: Path | None = None) -> list[tuple[str, int]]:
    """Name and bytes of every file of a checkpoint but its manifest, or of those in a folder within it."""
    found = []
    for path in sorted((within or folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != "manifest.json":
            found.append((name, path.stat().st_size))
    return found


def digests_of(folder: Path, files: list) -> dict[str, str]:
    """Name -> sha256 of files as `files_of` gives them."""
    digests = {}
    for name, _ in files:
        with open(folder / name, "rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def merged_digests(parts: list[dict[str, str]]) -> dict[str, str]:
    """Those of all processes."""
    return {name: digest for part in parts for name, digest in part.items()}


def described(tree: Any) -> dict[str, list]:
    """Path -> [shape, dtype] of every leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path): [list(np.shape(leaf)), str(leaf.dtype)] for path, leaf in leaves
    }


def difference(folder: Path, found: dict, expected: dict) -> str:
    """In words, where the leaves found are not those expected."""
    for name in sorted(set(found) | set(expected)):
        if found.get(name) != expected.get(name):
            return (
                f"{folder}: made by another configuration: {name} is {found.get(name, 'absent')}, "
                f"expected {expected.get(name, 'absent')}; use the configuration in the workdir's config.json"
            )
    raise AssertionError("called without a difference")
