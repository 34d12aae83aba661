"""fit(): the only training loop, for every objective.

Restore, then per epoch: many steps per device call, one validation, one save (written while the next epoch runs),
maybe stop. A step's batch, dropout and draws are functions of (seed, step) alone, so a resumed run goes on as if it
had never stopped.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from raserec_jax import checkpoints
from raserec_jax.batching.prefetch import Prefetch
from raserec_jax.batching.record_feed import Calls
from raserec_jax.batching.shares import joined, send, share_of
from raserec_jax.distributed import barrier, of_writer, to_host
from raserec_jax.errors import CheckpointError, Interrupted, NonFiniteLossError
from raserec_jax.mesh import filled_up_shapes, on_mesh_shapes, put_tree, use, without_padding
from raserec_jax.training.early_stopping import EarlyStopping, should_stop, update
from raserec_jax.training.objectives import Task
from raserec_jax.training.optimizer import SkipState
from raserec_jax.training.profiling import StepProfile
from raserec_jax.training.saving import Saver, host_copy
from raserec_jax.training.signals import StopFlag
from raserec_jax.training.state import TrainState, create_state
from raserec_jax.training.steps import make_run_steps
from raserec_jax.training.workdir import differences


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
    """What a stage leaves: the best parameters, where they were reached, what it cost, and facts of its task."""

    params: dict
    best_epoch: int
    best_value: float
    epochs_run: int
    valid: dict
    seconds: float
    steps_per_second: float
    facts: dict = {}


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
    identity: dict | None = None,
    served: Callable[[dict], dict] = lambda params: params,
    mesh: Mesh | None = None,
    num_items: int = 0,
    profile: StepProfile | None = None,
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
      identity: JSON values that name the run (configuration, fingerprint of the data): kept in every checkpoint, and
        a checkpoint with others is refused.
      served: the part of the parameters that is evaluated and kept as the best; what only training needs is left out.
      mesh: of several devices, over which a step is spread; None = one device. Checkpoints, and what is evaluated and
        returned, are those of one device, so a run may go on with another mesh.
      num_items: of the catalogue; for a mesh, which fills item tables up.
      profile: traces some steps; None = none.

    Raises:
      CheckpointError: what is to be resumed is damaged or of another run, or the state cannot be written.
      NonFiniteLossError: the loss of a step was NaN or infinite; the checkpoints stay as they were.
      Interrupted: SIGTERM or SIGINT came; the state was saved.
    """
    run = _Fit(
        task,
        optimizer,
        init_params,
        settings,
        key,
        folder,
        best_folder,
        stage,
        identity,
        mesh,
        num_items,
        profile or StepProfile(folder, None),
    )
    run.served = served
    total = settings.epochs * task.steps_per_epoch
    bar = progress(total, stage, "step", initial=run.steps_done)
    with StopFlag() as stop, run.saver, run.stream(), run.profile, bar as bar:
        while run.epoch < settings.epochs and not should_stop(run.stopping, settings.patience):
            averages = run.train_epoch(bar, stop)
            run.check_state()
            valid = evaluate(served(run.unspread(run.state.params)))
            valid = of_writer(f"{stage}: validation", valid)
            value = _metric(valid, settings.metric)
            run.stopping = update(run.stopping, value, run.epoch)
            best = None
            if run.stopping.best_epoch == run.epoch:
                best = {"stage": stage, "epoch": run.epoch, "valid": valid, "value": value}
            metrics = {"train": averages, "valid": valid}
            writer.write(stage, run.steps_done, metrics, epoch=run.epoch)
            bar.line(run.epoch_line(averages["loss"], valid))
            run.epoch, run.sums = run.epoch + 1, {}
            run.save(best)
            if stop.asked():
                run.finish_saving()
                raise Interrupted(f"{stage}: stopped after epoch {run.epoch}, state saved")
    barrier(f"{stage}: all saved")
    if stop.asked():  # it came while the last save was under way
        raise Interrupted(f"{stage}: stopped at its end, state saved")
    params, meta = checkpoints.restore(best_folder, served(run.template.params), together=True)
    _check_best(best_folder, meta["epoch"] == run.stopping.best_epoch)
    rate = run.steps_done / max(run.seconds, 1e-9)
    return FitResult(
        params,
        meta["epoch"],
        meta["value"],
        run.epoch,
        meta["valid"],
        run.seconds,
        rate,
        task.facts or {},
    )


class _Fit:
    """The state of one fit: what a checkpoint holds, and how an epoch is run."""

    def __init__(
        self,
        task,
        optimizer,
        init_params,
        settings,
        key,
        folder,
        best_folder,
        stage,
        identity,
        mesh,
        num_items,
        profile,
    ):
        self.task, self.settings, self.stage = task, settings, stage
        self.mesh, self.num_items, self.profile = mesh, num_items, profile
        self.folder, self.best_folder, self.saver = folder, best_folder, Saver()
        self.served: Callable[[dict], dict] = lambda params: params
        refreshes = task.refresh is not None
        self.state = create_state(init_params, optimizer, refreshes=refreshes, mesh=mesh)
        self.template, onto = jax.eval_shape(lambda state: state, self.state), None
        if mesh is not None:
            self.template = without_padding(self.template, num_items)
            onto = on_mesh_shapes(mesh, filled_up_shapes(mesh, self.template))
        self.stopping, self.constants = EarlyStopping(), None
        self.epoch, self.seconds = 0, 0.0
        self.sums: dict[str, float] = {}  # of the epoch so far
        self.step_key, self.order_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        self.identity = {
            **(identity or {}),
            "key": np.asarray(jax.random.key_data(key)).tolist(),
            "steps_per_epoch": task.steps_per_epoch,
        }
        restored = checkpoints.restore_newest(folder, self.template, onto=onto)
        if restored is not None:
            self._resume(*restored)
        self.run_steps = make_run_steps(task, optimizer)
        self.make_order = jax.jit(task.order)
        self.share = None if mesh is None else share_of(mesh)
        self.join = jax.jit(functools.partial(joined, rows=task.batch_rows))
        self.began = time.perf_counter()
        self.first_epoch = self.epoch

    def _resume(self, state: TrainState, meta: dict) -> None:
        """Takes over what a checkpoint holds; what is wrong with it is better known now than at the end."""
        differing = differences(meta.get("identity", self.identity), self.identity)
        if differing:
            raise CheckpointError(
                f"{self.folder}: these checkpoints are of another run: {'; '.join(differing[:6])}; give another "
                "--workdir, or the configuration and data that they were made with"
            )
        self.state = state
        self.stopping = EarlyStopping(*meta["stopping"])
        self.epoch, self.seconds = meta["epochs_done"], meta["seconds"]
        self.sums = meta.get("sums", {})
        if self.stopping.best_epoch >= 0:
            # Later than the state's, if the state after it was never saved: then that epoch is run once more.
            saved = checkpoints.read_meta(self.best_folder, together=True)["epoch"]
            _check_best(self.best_folder, saved >= self.stopping.best_epoch)

    @property
    def steps_done(self) -> int:
        return int(self.state.step)

    def unspread(self, tree: Any) -> Any:
        """A part of the state as it is on one device; from a mesh on the host, where each process gathers it."""
        if self.mesh is None:
            return tree
        return without_padding(jax.tree.map(to_host, tree), self.num_items)

    def spread(self, constants: Any) -> Any:
        """What steps read, from wherever it is to where they read it."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, constants)
        return put_tree(self.mesh, constants)

    def sent(self, batches: Any) -> Any:
        """Batches from the host, on the device, or this process's share of them on its devices of the mesh."""
        if self.mesh is None:
            return jax.device_put(batches)
        return send(self.mesh, self.share, batches)

    def joined(self, batches: Any) -> Any:
        """What was sent, on every device; devices exchange their rows, so only the thread that runs the steps asks."""
        if self.mesh is None:
            return batches
        with use(self.mesh):
            return self.join(batches)

    def save(self, best: dict | None = None) -> None:
        """Hands the state to the saver: its parameters as the best ones, if `best` says about what, then the step."""
        meta = {
            "stage": self.stage,
            "epochs_done": self.epoch,
            "stopping": list(self.stopping),
            "seconds": self.seconds,
            "sums": self.sums,
            "identity": self.identity,
        }
        state, step = host_copy(self.state), self.steps_done
        if self.mesh is not None:
            state = without_padding(state, self.num_items)

        def write() -> None:
            if best is not None:
                checkpoints.save_together(self.best_folder, self.served(state.params), best)
            checkpoints.save_step(self.folder, step, state, meta, keep=self.settings.keep)

        self.saver.submit(write)

    def finish_saving(self) -> None:
        """Returns when what was handed over is on disk, whichever process writes it."""
        self.saver.wait()
        barrier(f"{self.stage}: saved")

    def check_state(self) -> None:
        """No state is evaluated or saved that is not finite: the loss would show it a step late."""
        if not bool(_all_finite(self.state)):
            raise NonFiniteLossError(
                f"{self.stage}: the loss of step {self.steps_done} is nan: parameters or the optimizer's state are no "
                f"longer finite; the last good checkpoint is kept in {self.folder}; lower the learning rate or set a "
                "clip_norm"
            )

    def train_epoch(self, bar, stop: StopFlag) -> dict[str, float]:
        """Runs what is left of the epoch; averages of the loss and the task's metrics over all of it."""
        steps = self.task.steps_per_epoch
        done = self.steps_done - self.epoch * steps
        self.refresh_constants(starting=done == 0)
        with self.calls(done) as calls:
            while done < steps:
                began = time.perf_counter()
                given, first, count = next(calls)
                self.profile.before_call(self.epoch * steps + done, count)
                with use(self.mesh):
                    self.state, losses, metrics = self.run_steps(
                        self.state,
                        self.constants,
                        given,
                        first,
                        count,
                        self.step_key,
                        most=self.settings.steps_per_call,
                    )
                losses, metrics = jax.device_get((losses, metrics))  # the call's one wait
                self.profile.after_call(self.epoch * steps + done + count)
                losses = losses[:count]
                self.seconds += time.perf_counter() - began
                losses = self._finite(losses, self.epoch * steps + done)
                found = {"steps": len(losses), "loss": losses.sum(), **metrics}
                self.sums = {name: self.sums.get(name, 0.0) + float(x) for name, x in found.items()}
                done += count
                bar.update(count, loss=float(losses.mean()) if len(losses) else float("nan"))
                self.saver.check()
                if stop.asked() and done < steps:
                    self.check_state()
                    self.save()
                    self.finish_saving()
                    raise Interrupted(
                        f"{self.stage}: stopped at step {self.steps_done}, state saved"
                    )
        averages = {name: x / max(self.sums["steps"], 1.0) for name, x in self.sums.items()}
        del averages["steps"]
        if isinstance(self.state.opt_state, SkipState):
            averages["skipped_steps"] = int(self.state.opt_state.skipped)
        return averages

    @contextlib.contextmanager
    def calls(self, done: int) -> Iterator[Iterator[tuple]]:
        """Context that gives, for each call that is left of the epoch: what `run_steps` takes as order, the first step
        in it, the number of steps. Batches from the host are made and sent by a thread while the device computes."""
        steps, most = self.task.steps_per_epoch, self.settings.steps_per_call
        spans = [(first, min(most, steps - first)) for first in range(done, steps, most)]
        if self.task.stream is not None:
            with Prefetch(lambda _: self.sent(next(self.streamed)), spans) as batches:
                calls = zip(batches, spans, strict=True)
                yield ((self.joined(batch), 0, count) for batch, (_, count) in calls)
            return
        order = self.order_of(self.epoch)
        if self.task.host_batches is None:
            yield ((order, first, count) for first, count in spans)
            return
        on_host = np.asarray(order)

        def make(span):
            return self.sent(self.task.host_batches(on_host, *span, most, self.share)), span[1]

        with Prefetch(make, spans) as batches:
            yield ((self.joined(batch), 0, count) for batch, count in batches)

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Context in which the task's stream is open, if it has one: from the present step to the end of the run."""
        task, settings = self.task, self.settings
        if task.stream is None:
            yield
            return
        steps = task.steps_per_epoch
        last = settings.epochs * steps
        calls = Calls(steps, settings.steps_per_call, self.steps_done, last)

        def order_of(epoch):
            return np.asarray(self.order_of(epoch))

        with task.stream(calls, order_of, self.share) as self.streamed:
            yield

    def order_of(self, epoch: int) -> jax.Array:
        """The order of an epoch."""
        return self.make_order(self.constants, jax.random.fold_in(self.order_key, epoch))

    def refresh_constants(self, starting: bool) -> None:
        """Brings the constants up to date where the task asks for it; a resumed run gets those it was stopped with."""
        task, every = self.task, self.task.refresh_epochs
        if task.refresh is None:
            if self.constants is None:
                self.constants = self.spread(task.constants)
            return
        due = self.epoch == 0 or (every > 0 and self.epoch % every == 0)
        if starting and due:
            self.state = self.state._replace(refreshed=jax.tree.map(jnp.copy, self.state.params))
        elif self.constants is not None:
            return
        fresh = task.refresh(self.unspread(self.state.refreshed), task.constants)
        self.constants = self.spread(fresh)

    def _finite(self, losses: np.ndarray, first_step: int) -> np.ndarray:
        """The losses, if all are finite; without those of steps that were skipped, if not too many in a row were."""
        skipping = self.state.opt_state
        bad = np.flatnonzero(~np.isfinite(losses))
        if not isinstance(skipping, SkipState):
            if len(bad):
                raise NonFiniteLossError(
                    f"{self.stage}: the loss of step {first_step + int(bad[0])} is {losses[bad[0]]}; the last good "
                    f"checkpoint is kept in {self.folder}; lower the learning rate or set a clip_norm"
                )
            return losses
        if bool(skipping.gave_up):
            raise NonFiniteLossError(
                f"{self.stage}: too many steps in a row were not finite, {int(skipping.skipped)} skipped by step "
                f"{self.steps_done}; the last good checkpoint is kept in {self.folder}; lower the learning rate or set "
                "a clip_norm"
            )
        return np.delete(losses, bad)

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


@jax.jit
def _all_finite(state: TrainState) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]).all()


def _check_best(folder: Path, fits: bool) -> None:
    if not fits:
        raise CheckpointError(
            f"{folder}: not the best parameters of this run (another epoch's); restore it from a copy, or delete the "
            "checkpoints of this stage to train it anew"
        )


def _metric(valid: dict, name: str) -> float:
    protocol, metric = name.split("/")
    return float(valid[protocol][metric])
