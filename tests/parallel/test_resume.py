"""Stop on one mesh and go on: on the same the same bits, on another the same batches and nearly the same numbers."""

import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from raserec_jax import checkpoints
from raserec_jax.errors import Interrupted
from raserec_jax.training import loop
from tests.parallel.tasks import DIM, ITEMS, compiled_steps, emulated_mesh, stage_1
from tests.training.toy_fit import Bar, Writer, shrinking

EPOCHS, STEPS_PER_CALL, STOP_AT = 2, 2, 8


@pytest.fixture(autouse=True, scope="module")
def made():
    """One task, whose steps are compiled once for each mesh."""
    task, optimizer, params = stage_1()
    steps = compiled_steps(task, optimizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_run_steps", lambda task, optimizer: steps)
        yield task, optimizer, params


def run(made, folder: pathlib.Path, mesh, stop_at: int = 0) -> dict:
    """Trains in the folder, or goes on there; the arrays of the newest checkpoint by path."""
    task, optimizer, params = made

    def on_update(done):
        if done == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = loop.FitSettings(EPOCHS, 0, "unfiltered/NDCG@10", STEPS_PER_CALL, 2)
    names = {"folder": folder / "steps", "best_folder": folder / "best", "stage": "toy"}
    told = {"evaluate": shrinking, "writer": Writer(), "progress": Bar(on_update)}
    fitted = loop.fit(
        task,
        optimizer,
        params,
        settings,
        key=jax.random.key(5),
        mesh=mesh,
        num_items=ITEMS,
        **names,
        **told,
    )
    assert fitted.params["item_table"].shape == (ITEMS + 1, DIM)
    state = loop.create_state(params, optimizer)
    state, meta = checkpoints.restore_newest(folder / "steps", state)
    assert int(state.step) == EPOCHS * task.steps_per_epoch and meta["epochs_done"] == EPOCHS
    leaves = jax.tree_util.tree_leaves_with_path((state, fitted.params))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def stopped(made, folder, mesh):
    with pytest.raises(Interrupted):
        run(made, folder, mesh, STOP_AT)
    return folder


def test_a_run_goes_on_on_any_mesh(made, tmp_path):
    mesh = emulated_mesh(4, 2)
    whole = run(made, tmp_path / "whole", mesh)

    again = run(made, stopped(made, tmp_path / "same", mesh), mesh)
    for name, leaf in whole.items():
        np.testing.assert_array_equal(again[name], leaf, err_msg=name)

    for name, other in (("2x1", emulated_mesh(2, 1)), ("one", None)):
        found = run(made, stopped(made, tmp_path / name, mesh), other)
        assert_near(found, whole)
        back = run(made, stopped(made, tmp_path / f"{name} back", other), mesh)
        assert_near(back, whole)


def assert_near(found: dict, expected: dict):
    for name, leaf in expected.items():
        atol = 1e-4 * max(np.abs(leaf).max(), 1e-3)
        np.testing.assert_allclose(found[name], leaf, 0, atol, err_msg=name)
