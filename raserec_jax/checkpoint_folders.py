"""The folders of checkpoints: a new one appears at once and whole, and what a kill left half-done is put right."""

import logging
import re
import shutil
from pathlib import Path

from raserec_jax.durable import flush_path

_STEP = re.compile(r"^\d{9}$")


def step_folders(root: Path) -> list[Path]:
    """Folders of finished steps, oldest first."""
    root = Path(root)
    names = sorted(p.name for p in root.iterdir() if _STEP.match(p.name)) if root.is_dir() else []
    return [root / name for name in names]


def whole_folder(folder: Path) -> Path:
    """The folder; if a kill came while it was being replaced, what it held before."""
    folder = Path(folder).absolute()
    outgoing = folder.with_name(f".outgoing-{folder.name}")
    return outgoing if outgoing.exists() and not folder.exists() else folder


def begin_building(folder: Path, building: Path) -> None:
    """Makes an empty place to build a checkpoint in, where none is left of a save that was killed."""
    finish_replacing(folder)
    name = f".building-{folder.name}"
    for left in [folder.with_name(name), *folder.parent.glob(f"{name}-*")]:
        shutil.rmtree(left, ignore_errors=True)
    building.mkdir(parents=True)


def replace_folder(building: Path, folder: Path) -> None:
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


def finish_replacing(folder: Path) -> None:
    """Puts back what a kill between the two renames of `replace_folder` left under another name."""
    if whole_folder(folder) != folder:
        whole_folder(folder).rename(folder)


def clear_leftovers(root: Path) -> None:
    """Removes what a killed save or deletion of a step left; a step that was being replaced comes back."""
    for outgoing in root.glob(".outgoing-*"):
        step = root / outgoing.name.removeprefix(".outgoing-")
        newer = [folder for folder in step_folders(root) if folder.name > step.name]
        if not newer:
            finish_replacing(step)
    for leftover in [*root.glob(".building-*"), *root.glob(".outgoing-*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def set_aside(folder: Path, words: str) -> None:
    """Renames a damaged step to a name that no step has and none before it took, and says what is wrong with it."""
    logging.getLogger("raserec_jax").warning("set aside: %s", words)
    target, count = folder.with_name(f"damaged-{folder.name}"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"damaged-{folder.name}-{count}")
    folder.rename(target)
