"""fit(): the only training loop, for every objective.

Restore, then per epoch: many steps per device call, one validation, one save, maybe stop. A step's batch, dropout
and draws are functions of (seed, step) alone, so a resumed run goes on as if it had never stopped.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from raserec_jax import checkpoints
from raserec_jax.errors import Interrupted, NonFiniteLossError
from raserec_jax.training.early_stopping import EarlyStopping, should_stop, update
from raserec_jax.training.objectives import Task
from raserec_jax.training.state import TrainState, create_state


class FitSettings(NamedTuple):
    """How long, how often, and what decides.

    epochs: most epochs.  patience: epochs without improvement before stopping, 0 = never.
    metric: "unfiltered/NDCG@10" and the like, of the validation metrics.
    steps_per_call: steps per device call; progress and signals are looked at between calls.
    keep: newest checkpoints kept.
    """

    epochs: int
    patience: int
    metric: str
    steps_per_call: int
    keep: int


class FitResult(NamedTuple):
    """What a stage leaves: the best parameters, where they were reached, and what it cost."""

    params: dict
    best_epoch: int
    best_value: float
    epochs_run: int
    valid: dict
    seconds: float
    steps_per_second: float


def make_run_steps(task: Task, optimizer: optax.GradientTransformation) -> Callable:
    """A jitted function that runs `count` steps (traced, at most `most`) in one device call.

    (state, constants, order, first_step_in_epoch, count, key, most) -> (state, losses [most], metric sums);
    losses beyond `count` are 0.
    """

    def run_steps(state, constants, order, first, count, key, most):
        def one(i, carry):
            state, losses, sums = carry
            (loss, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(
                state.params, constants, order, first + i, jax.random.fold_in(key, state.step)
            )
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            sums = {name: sums[name] + value for name, value in metrics.items()}
            return TrainState(state.step + 1, params, opt_state), losses.at[i].set(loss), sums

        shapes = jax.eval_shape(task.loss, state.params, constants, order, first, key)[1]
        sums = {name: jnp.zeros((), shape.dtype) for name, shape in shapes.items()}
        return jax.lax.fori_loop(0, count, one, (state, jnp.zeros(most), sums))

    return jax.jit(run_steps, static_argnames="most", donate_argnums=0)


def fit(
    task: Task,
    optimizer: optax.GradientTransformation,
    init_params: dict,
    settings: FitSettings,
    *,
    key: jax.Array,
    evaluate: Callable[[dict], dict],
    folder: Path,
    best_folder: Path,
    stage: str,
    writer: Any,
    progress: Callable,
) -> FitResult:
    """Trains until the epochs are over or the metric stops improving; resumes from `folder` if it holds a state.

    Args:
      task: what a step minimises.
      init_params: start, if there is nothing to resume.
      key: fixes every draw, with the step number.
      evaluate: params -> {"unfiltered": {...}, "filtered": {...}} on validation.
      folder: newest checkpoints.  best_folder: parameters of the best epoch.
      stage: name in the logs.
      writer: a MetricWriter.
      progress: makes a Progress from (total, desc, unit, initial=).

    Raises:
      NonFiniteLossError: the loss of a step was NaN or infinite; the checkpoints stay as they were.
      Interrupted: SIGTERM or SIGINT came; the state was saved.
    """
    run = _Fit(task, optimizer, init_params, settings, key, folder, stage)
    total = settings.epochs * task.steps_per_epoch
    with _SignalFlag() as stop, progress(total, stage, "step", initial=run.steps_done) as bar:
        while run.epoch < settings.epochs and not should_stop(run.stopping, settings.patience):
            averages = run.train_epoch(bar, stop)
            run.check_params()
            valid = evaluate(run.state.params)
            value = _metric(valid, settings.metric)
            run.stopping = update(run.stopping, value, run.epoch)
            if run.stopping.best_epoch == run.epoch:
                meta = {"stage": stage, "epoch": run.epoch, "valid": valid, "value": value}
                checkpoints.save(best_folder, run.state.params, meta)
            metrics = {"train": averages, "valid": valid}
            writer.write(stage, run.steps_done, metrics, epoch=run.epoch)
            bar.line(run.epoch_line(averages["loss"], valid))
            run.epoch += 1
            run.save()
            if stop.is_set:
                raise Interrupted(f"{stage}: stopped after epoch {run.epoch}, state saved")
    params, meta = checkpoints.restore(best_folder, run.state.params)
    rate = run.steps_done / max(run.seconds, 1e-9)
    return FitResult(
        params, meta["epoch"], meta["value"], run.epoch, meta["valid"], run.seconds, rate
    )


class _Fit:
    """The state of one fit: what a checkpoint holds, and how an epoch is run."""

    def __init__(self, task, optimizer, init_params, settings, key, folder, stage):
        self.task, self.settings, self.folder, self.stage = task, settings, folder, stage
        self.state, self.stopping = create_state(init_params, optimizer), EarlyStopping()
        self.epoch, self.seconds = 0, 0.0
        self.step_key, self.order_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        restored = checkpoints.restore_newest(folder, self.state)
        if restored is not None:
            self.state, meta = restored
            self.stopping = EarlyStopping(*meta["stopping"])
            self.epoch, self.seconds = meta["epochs_done"], meta["seconds"]
        self.run_steps = make_run_steps(task, optimizer)
        self.make_order = jax.jit(task.order)
        self.began = time.perf_counter()
        self.first_epoch = self.epoch

    @property
    def steps_done(self) -> int:
        return int(self.state.step)

    def save(self) -> None:
        meta = {
            "stage": self.stage,
            "epochs_done": self.epoch,
            "stopping": list(self.stopping),
            "seconds": self.seconds,
        }
        checkpoints.save_step(
            self.folder, self.steps_done, self.state, meta, keep=self.settings.keep
        )

    def check_params(self) -> None:
        """No state is evaluated or saved whose parameters are not finite: the loss would show it a step late."""
        if not bool(_all_finite(self.state.params)):
            raise NonFiniteLossError(
                f"{self.stage}: the loss of step {self.steps_done} is nan: the parameters are no longer finite; the "
                f"last good checkpoint is kept in {self.folder}; lower the learning rate or set a clip_norm"
            )

    def train_epoch(self, bar, stop: "_SignalFlag") -> dict[str, float]:
        """Runs what is left of the epoch; averages of the loss and the task's metrics over it."""
        steps = self.task.steps_per_epoch
        order = self.make_order(self.task.constants, jax.random.fold_in(self.order_key, self.epoch))
        first = done = self.steps_done - self.epoch * steps
        sums: dict[str, float] = {}
        while done < steps:
            began = time.perf_counter()
            count = min(self.settings.steps_per_call, steps - done)
            self.state, losses, metrics = self.run_steps(
                self.state,
                self.task.constants,
                order,
                done,
                count,
                self.step_key,
                most=self.settings.steps_per_call,
            )
            losses = np.asarray(losses)[:count]
            self.seconds += time.perf_counter() - began
            _check_finite(losses, self.epoch * steps + done, self.stage, self.folder)
            for name, value in {"loss": losses.sum(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            done += count
            bar.update(count, loss=float(losses.mean()))
            if stop.is_set and done < steps:
                self.check_params()
                self.save()
                raise Interrupted(f"{self.stage}: stopped at step {self.steps_done}, state saved")
        return {name: value / max(done - first, 1) for name, value in sums.items()}

    def epoch_line(self, loss: float, valid: dict) -> str:
        """What an epoch reached, how long epochs take and how many there may be."""
        per_epoch = (time.perf_counter() - self.began) / (self.epoch + 1 - self.first_epoch)
        left = per_epoch * (self.settings.epochs - self.epoch - 1)
        shown = valid["unfiltered"]
        return (
            f"{self.stage} epoch {self.epoch + 1}/{self.settings.epochs}: loss {loss:.4f}  valid HR@10 "
            f"{shown['HR@10']:.4f} NDCG@10 {shown['NDCG@10']:.4f} unfiltered, best {self.settings.metric} "
            f"{self.stopping.best:.4f} at epoch {self.stopping.best_epoch + 1}  "
            f"{per_epoch:.1f} s/epoch, at most {left / 60:.0f} min left"
        )


class _SignalFlag:
    """Context in which SIGTERM and SIGINT set a flag; a second signal ends the process at once."""

    def __init__(self):
        self.is_set = False
        self._previous: dict = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread: the caller keeps its own handling
                pass
        return self

    def _on_signal(self, number, frame):
        if self.is_set:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.is_set = True

    def __exit__(self, *exc_info):
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@jax.jit
def _all_finite(params: dict) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]).all()


def _check_finite(losses: np.ndarray, first_step: int, stage: str, folder: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise NonFiniteLossError(
            f"{stage}: the loss of step {first_step + int(bad[0])} is {losses[bad[0]]}; the last good checkpoint "
            f"is kept in {folder}; lower the learning rate or set a clip_norm"
        )


def _metric(valid: dict, name: str) -> float:
    protocol, metric = name.split("/")
    return float(valid[protocol][metric])
