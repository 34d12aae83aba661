"""What each process of `test_saving` does: goes on from the newest checkpoint, and saves one step after the other."""

import pathlib
import sys

import jax
import numpy as np

from raserec_jax import checkpoints
from raserec_jax.distributed import Job, start
from raserec_jax.mesh import (
    MeshShape,
    filled_up_shapes,
    make_mesh,
    on_mesh_shapes,
    put_tree,
    without_padding,
)
from raserec_jax.training.saving import host_copy

ITEMS = 20_000
SHAPES = {
    "item_table": jax.ShapeDtypeStruct((ITEMS + 1, 16), np.float32),
    "step": jax.ShapeDtypeStruct((), np.int32),
}


def state_of(step: int) -> dict:
    """What is saved of a step."""
    table = np.random.default_rng(step).random(SHAPES["item_table"].shape, np.float32)
    return {"item_table": table, "step": np.int32(step)}


def main(coordinator: str, own: int, folder: pathlib.Path) -> None:
    start(Job(coordinator, 2, own), heartbeat_s=3, start_s=60)
    mesh, step = make_mesh(MeshShape(1, -1)), 0
    onto = on_mesh_shapes(mesh, filled_up_shapes(mesh, SHAPES))
    newest = checkpoints.restore_newest(folder / "steps", SHAPES, onto=onto)
    if newest is not None:
        found, step = newest[0], newest[1]["step"]
        for one, other in zip(
            jax.tree.leaves(found), jax.tree.leaves(put_tree(mesh, state_of(step))), strict=True
        ):
            for piece, expected in zip(
                one.addressable_shards, other.addressable_shards, strict=True
            ):
                np.testing.assert_array_equal(piece.data, expected.data)
    while True:
        step += 1
        state = without_padding(host_copy(put_tree(mesh, state_of(step))), ITEMS)
        checkpoints.save_together(folder / "best", state, {"step": step})
        checkpoints.save_step(folder / "steps", step, state, {"step": step})
        print("saved", step, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
