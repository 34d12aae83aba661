"""Arrays of which each process writes its pieces, as files of Orbax: what it writes when all processes use it at once.

Orbax's own way would meet the other processes as it likes and store arrays as they lie, with the rows that a mesh fills
item tables up with. Here nobody meets: each process writes `ocdbt.process_N`, and once all have, process 0 merges. What
is stored looks as if one process had written NumPy arrays.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from raserec_jax.distributed import Pieces


def write_pieces(folder: Path, tree: Any) -> None:
    """Writes this process's pieces of a tree of `Pieces` to a folder that exists, and, of process 0, what describes it.

    Raises:
      OSError, ValueError, RuntimeError: Orbax could not.
    """
    _handler().save(epath.Path(folder), args=ocp.args.PyTreeSave(tree))


def merge_pieces(folder: Path) -> None:
    """Makes one tree of what all processes wrote; called by one of them. Raises as `write_pieces`."""
    _handler().finalize(epath.Path(folder))


def folder_of_process(folder: Path, process: int) -> Path:
    """Where a process writes; it is there only if that process has pieces."""
    return folder / f"ocdbt.process_{process}"


class _PiecesHandler(ocp.type_handlers.NumpyHandler):
    """Writes what this process has, in chunks that are pieces, so that no two processes write one chunk."""

    async def serialize(
        self,
        values: Sequence[Pieces],
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> Sequence:
        await asyncio.gather(*map(_write, values, infos))
        return []


async def _write(pieces: Pieces, info: ocp.type_handlers.ParamInfo) -> None:
    if not pieces.own:
        return
    spec = ocp.type_handlers.get_json_tspec_write(
        info,
        use_ocdbt=True,
        global_shape=pieces.shape,
        local_shape=pieces.piece_shape,
        dtype=pieces.dtype,
        process_index=jax.process_index(),
    )
    array = await ts.open(ts.Spec(spec), create=True, open=True, context=info.ts_context)
    for at, values in pieces.own:
        place = tuple(
            slice(first, first + size) for first, size in zip(at, values.shape, strict=True)
        )
        await array[place].write(values, can_reference_source_data_indefinitely=True)


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (Pieces, _PiecesHandler())
        ),
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0),
    )
