"""A task that compiles in no time, for tests of the loop; as a script, a process that gets a SIGTERM.

    python -m tests.training.toy_fit FOLDER STEP

trains in FOLDER and sends itself SIGTERM once STEP steps are done; it ends with exit code 4 as the command line does.
"""

import os
import pathlib
import signal
import sys

import tests.conftest  # noqa: F401 - the same devices and flags as in the tests, for the same bits

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
import numpy as np  # isort: skip
import optax  # isort: skip

from raserec_jax.errors import EXIT_INTERRUPTED, Interrupted  # isort: skip
from raserec_jax.training import loop  # isort: skip
from raserec_jax.training.objectives import Task  # isort: skip
from tests.quick_jit import quick_jit  # isort: skip

STEPS = 7  # per epoch; with three per call, the last call is a short one
STEPS_PER_CALL = 3


def _order(constants, key):
    return jax.random.permutation(key, STEPS)


def _loss(params, constants, order, step_in_epoch, key):
    """Rows in the epoch's order pull at `w`, with noise from the step's key."""
    noise = jax.random.bits(key, (4,), jnp.uint8).astype(jnp.float32) / 2560
    error = params["w"] - constants[order[step_in_epoch]] - noise
    return jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


def toy_task(bad_row: int | None = None) -> Task:
    """All tasks have the same functions; one with a bad row has NaN there."""
    rows = np.random.default_rng(0).normal(size=(STEPS, 4)).astype(np.float32)
    if bad_row is not None:
        rows[bad_row] = np.nan
    return Task(jnp.asarray(rows), STEPS, _order, _loss)


OPTIMIZER = optax.adam(0.05)


_make_run_steps = loop.make_run_steps  # tests put something else there


def quick_steps(task, optimizer):
    """The steps of the loop, compiled in half the time."""
    run_steps = _make_run_steps(task, optimizer)
    return quick_jit(run_steps.__wrapped__, static_argnames="most", donate_argnums=0)


# One program for all fits of toy tasks: instead of what `loop.make_run_steps` gives.
TOY_STEPS = quick_steps(toy_task(), OPTIMIZER)


def init_params():
    return {"w": jnp.full(4, 3.0)}


class Bar:
    """A Progress that keeps what it is told and calls back after every update."""

    def __init__(self, on_update=None):
        self.on_update, self.total, self.started, self.done = on_update, None, 0, 0
        self.updates, self.lines = [], []

    def __call__(self, total, desc, unit, *, initial=0):
        self.total, self.done, self.started = total, initial, initial
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def update(self, n, **metrics):
        self.done += n
        self.updates.append((n, metrics["loss"]))
        if self.on_update is not None:
            self.on_update(self.done)

    def line(self, text):
        self.lines.append(text)


class Writer:
    """A MetricWriter that keeps what it is told."""

    def __init__(self):
        self.written = []

    def write(self, stage, step, metrics, *, epoch=None):
        self.written.append((stage, step, epoch, metrics))


def metrics_of(value: float) -> dict:
    """Validation metrics in which all that counts has one value."""
    return {protocol: {"HR@10": value, "NDCG@10": value} for protocol in ("unfiltered", "filtered")}


def shrinking(params) -> dict:
    """A metric that is better the smaller the parameters are."""
    return metrics_of(-float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(params))))


def run_fit(folder, epochs: int, task=None, evaluate=shrinking, bar=None, writer=None, **settings):
    """fit() on the toy task, with its files in `folder`."""
    return loop.fit(
        toy_task() if task is None else task,
        settings.pop("optimizer", OPTIMIZER),
        settings.pop("params", init_params()),
        loop.FitSettings(
            epochs,
            settings.pop("patience", 0),
            "unfiltered/NDCG@10",
            settings.pop("steps_per_call", STEPS_PER_CALL),
            settings.pop("keep", 2),
        ),
        key=jax.random.key(5),
        evaluate=evaluate,
        folder=pathlib.Path(folder) / "steps",
        best_folder=pathlib.Path(folder) / "best",
        stage="toy",
        writer=writer or Writer(),
        progress=bar or Bar(),
        identity=settings.pop("identity", None),
        profile=settings.pop("profile", None),
        mesh=settings.pop("mesh", None),
        num_items=settings.pop("num_items", 0),
    )


def main():
    folder, at_step = sys.argv[1], int(sys.argv[2])
    loop.make_run_steps = lambda task, optimizer: TOY_STEPS

    def terminate(done):
        if done == at_step:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run_fit(folder, epochs=3, bar=Bar(terminate))
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
