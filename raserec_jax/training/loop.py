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
    progress: Any,
) -> FitResult:
    """Trains until the epochs are over or the metric stops improving; resumes from `folder` if it holds a state.

    Args:
      task: what a step minimises.
      init_params: start, if there is nothing to resume.
      key: fixes every draw, with the step number.
      evaluate: params -> {"unfiltered": {...}, "filtered": {...}} on validation.
      folder: newest checkpoints.  best_folder: parameters of the best epoch.
      stage: name in the logs.
      writer: MetricWriter or anything with `write(stage, step, epoch, values)`.
      progress: factory `(total, desc) -> context manager` with `update(n, **values)` and `line(text)`.

    Raises:
      NonFiniteLossError: the loss of a step was NaN or infinite; the checkpoints stay as they were.
      Interrupted: SIGTERM or SIGINT came; the state was saved.
    """
    state, stopping, start = create_state(init_params, optimizer), EarlyStopping(), 0
    seconds = 0.0
    restored = checkpoints.restore_newest(folder, state)
    if restored is not None:
        state, meta = restored
        stopping = EarlyStopping(*meta["stopping"])
        start, seconds = meta["epochs_done"], meta["seconds"]
    run_steps = make_run_steps(task, optimizer)
    make_order = jax.jit(task.order)
    total = settings.epochs * task.steps_per_epoch
    stop_asked = _SignalFlag()
    epoch = start

    def save(epochs_done: int) -> None:
        meta = {
            "stage": stage,
            "epochs_done": epochs_done,
            "stopping": list(stopping),
            "seconds": seconds,
        }
        checkpoints.save_step(folder, int(state.step), state, meta, keep=settings.keep)

    with stop_asked, progress(total, stage) as bar:
        bar.update(int(state.step))
        while epoch < settings.epochs and not should_stop(stopping, settings.patience):
            began = time.perf_counter()
            order = make_order(
                task.constants, jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
            )
            done = int(state.step) - epoch * task.steps_per_epoch
            sums: dict[str, float] = {}
            seen = 0
            while done < task.steps_per_epoch:
                count = min(settings.steps_per_call, task.steps_per_epoch - done)
                state, losses, metrics = run_steps(
                    state,
                    task.constants,
                    order,
                    done,
                    count,
                    jax.random.fold_in(key, 0),
                    most=settings.steps_per_call,
                )
                losses = np.asarray(losses)[:count]
                _check_finite(losses, epoch * task.steps_per_epoch + done, stage, folder)
                for name, value in {"loss": losses.sum(), **metrics}.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
                done, seen = done + count, seen + count
                bar.update(count, loss=float(losses.mean()))
                if stop_asked.is_set and done < task.steps_per_epoch:
                    seconds += time.perf_counter() - began
                    save(epoch)
                    raise Interrupted(f"{stage}: stopped at step {int(state.step)}, state saved")
            seconds += time.perf_counter() - began
            valid = evaluate(state.params)
            value = _metric(valid, settings.metric)
            stopping = update(stopping, value, epoch)
            if stopping.best_epoch == epoch:
                meta = {"stage": stage, "epoch": epoch, "valid": valid, "value": value}
                checkpoints.save(best_folder, state.params, meta)
            writer.write(
                stage,
                int(state.step),
                epoch,
                {**{f"train/{k}": v / max(seen, 1) for k, v in sums.items()}, **_flat(valid)},
            )
            bar.line(_epoch_line(stage, epoch, sums, seen, valid, settings.metric, stopping))
            epoch += 1
            save(epoch)
            if stop_asked.is_set:
                raise Interrupted(f"{stage}: stopped after epoch {epoch}, state saved")
    params, meta = checkpoints.restore(best_folder, state.params)
    return FitResult(
        params,
        meta["epoch"],
        meta["value"],
        epoch,
        meta["valid"],
        seconds,
        int(state.step) / max(seconds, 1e-9),
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


def _flat(valid: dict) -> dict[str, float]:
    return {f"valid/{p}/{name}": v for p, values in valid.items() for name, v in values.items()}


def _epoch_line(stage, epoch, sums, seen, valid, metric, stopping) -> str:
    loss = sums.get("loss", float("nan")) / max(seen, 1)
    return (
        f"{stage} epoch {epoch}: loss {loss:.4f}  valid {metric} {_metric(valid, metric):.4f} "
        f"(best {stopping.best:.4f} at {stopping.best_epoch})  "
        f"HR@10 {valid['unfiltered']['HR@10']:.4f} NDCG@10 {valid['unfiltered']['NDCG@10']:.4f} unfiltered"
    )
