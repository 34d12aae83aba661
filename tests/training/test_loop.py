"""The loop: what it learns, what it keeps, and that stopping and going on changes no bit."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from raserec_jax import checkpoints
from raserec_jax.batching.feeds import packed_feed
from raserec_jax.batching.sampling import same_target_index
from raserec_jax.batching.windows import training_examples
from raserec_jax.errors import CheckpointError, Interrupted, NonFiniteLossError
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.training import loop
from raserec_jax.training.contrast import ContrastSettings, same_target_term
from raserec_jax.training.objectives import pretrain_task
from raserec_jax.training.optimizer import skip_steps
from raserec_jax.training.state import create_state
from tests.small_logs import cyclic_split
from tests.training.toy_fit import (
    OPTIMIZER,
    STEPS,
    TOY_STEPS,
    Bar,
    Writer,
    init_params,
    metrics_of,
    quick_steps,
    run_fit,
    toy_task,
)

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def toy_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_run_steps", lambda task, optimizer: TOY_STEPS)
        yield


def newest_state(folder, template=None):
    template = create_state(init_params(), OPTIMIZER) if template is None else template
    return checkpoints.restore_newest(folder / "steps", template)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def without_seconds(meta):
    return {name: value for name, value in meta.items() if name != "seconds"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Three epochs in one go: where its files are, and the result."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    writer, bar = Writer(), Bar()
    return folder, run_fit(folder, epochs=3, writer=writer, bar=bar), writer, bar


def assert_ends_as(uninterrupted, folder, result):
    expected_folder, expected, *_ = uninterrupted
    state, meta = newest_state(folder)
    expected_state, expected_meta = newest_state(expected_folder)
    assert_same_bits(state, expected_state)
    assert without_seconds(meta) == without_seconds(expected_meta)
    assert_same_bits(result.params, expected.params)
    assert result[1:5] == expected[1:5]


def test_what_is_written_down(uninterrupted):
    folder, result, writer, bar = uninterrupted
    assert [record[:3] for record in writer.written] == [
        ("toy", 7, 0),
        ("toy", 14, 1),
        ("toy", 21, 2),
    ]
    losses = [metrics["train"]["loss"] for *_, metrics in writer.written]
    assert losses[0] > losses[1] > losses[2]
    assert all(metrics["train"]["error"] > 0 for *_, metrics in writer.written)
    assert writer.written[-1][3]["valid"] == result.valid
    assert (bar.total, bar.done, len(bar.lines)) == (3 * STEPS, 3 * STEPS, 3)
    assert "toy epoch 3/3" in bar.lines[-1] and f"loss {losses[2]:.4f}" in bar.lines[-1]
    names = [path.name for path in checkpoints.step_folders(folder / "steps")]
    assert names == ["000000014", "000000021"]
    assert result.epochs_run == 3 and result.seconds > 0 and result.steps_per_second > 0


def test_reported_averages_are_those_of_the_steps(uninterrupted):
    """Losses of the first epoch, one step at a time."""
    task, key = toy_task(), jax.random.key(5)
    order = task.order(task.constants, jax.random.fold_in(jax.random.fold_in(key, 1), 0))
    state, losses = create_state(init_params(), OPTIMIZER), []
    for step in range(STEPS):
        state, loss, _ = TOY_STEPS(
            state, task.constants, order, step, 1, jax.random.fold_in(key, 0), most=1
        )
        losses.append(float(loss[0]))
    assert len(set(losses)) == STEPS
    _, _, writer, bar = uninterrupted
    assert writer.written[0][3]["train"]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    shown = [(3, np.mean(losses[:3])), (3, np.mean(losses[3:6])), (1, losses[6])]
    np.testing.assert_allclose(bar.updates[:3], shown, rtol=1e-6)


@pytest.mark.parametrize("epochs", [1, 2])
def test_resuming_between_epochs_changes_no_bit(tmp_path, uninterrupted, epochs):
    run_fit(tmp_path, epochs=epochs)
    bar = Bar()
    result = run_fit(tmp_path, epochs=3, bar=bar)
    assert bar.started == epochs * STEPS
    assert_ends_as(uninterrupted, tmp_path, result)


def test_how_many_steps_a_call_runs_changes_no_bit(tmp_path, uninterrupted):
    assert_ends_as(uninterrupted, tmp_path, run_fit(tmp_path, epochs=3, steps_per_call=1))


@pytest.mark.parametrize("every", [0, 1, 2])
def test_constants_follow_the_parameters_on_schedule_and_across_a_stop(tmp_path, every):
    task, seen = toy_task(), []

    def refresh(params, rows):
        seen.append(np.asarray(params["w"]).copy())
        return rows + 0.3 * params["w"][None]

    task = task._replace(refresh=refresh, refresh_epochs=every)
    whole = run_fit(tmp_path / "whole", epochs=4, task=task)
    assert len(seen) == {0: 1, 1: 4, 2: 2}[every]
    np.testing.assert_array_equal(seen[0], init_params()["w"])
    uninterrupted = list(seen)

    def interrupt(done):
        if done in (3, STEPS + 3, 3 * STEPS + 6):
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(3):
        with pytest.raises(Interrupted):
            run_fit(tmp_path / "parts", epochs=4, task=task, bar=Bar(interrupt))
    parts = run_fit(tmp_path / "parts", epochs=4, task=task)
    assert_same_bits(parts.params, whole.params)
    assert {w.tobytes() for w in seen} == {w.tobytes() for w in uninterrupted}


def test_sigterm_saves_the_state_and_going_on_changes_no_bit(tmp_path, uninterrupted):
    command = [sys.executable, "-m", "tests.training.toy_fit", str(tmp_path), str(STEPS + 3)]
    environment = os.environ | {"JAX_PLATFORMS": jax.default_backend()}
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert child.returncode == 4, child.stderr
    assert "toy: stopped at step 10, state saved" in child.stdout
    assert newest_state(tmp_path)[1]["epochs_done"] == 1
    assert_ends_as(uninterrupted, tmp_path, run_fit(tmp_path, epochs=3))


def test_a_signal_during_the_last_call_of_an_epoch_finishes_the_epoch(tmp_path, uninterrupted):
    def interrupt(done):
        if done == STEPS:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="toy: stopped after epoch 1, state saved"):
        run_fit(tmp_path, epochs=3, bar=Bar(interrupt))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert newest_state(tmp_path)[1]["epochs_done"] == 1
    assert_ends_as(uninterrupted, tmp_path, run_fit(tmp_path, epochs=3))


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tmp_path):
    values, seen = iter([0.1, 0.4, 0.2, 0.4, 0.3, 0.9]), []

    def evaluate(params):
        seen.append(jax.tree.map(np.array, params))
        return metrics_of(next(values))

    result = run_fit(tmp_path, epochs=6, evaluate=evaluate, patience=2)
    assert (result.best_epoch, result.best_value, result.epochs_run) == (1, 0.4, 5)
    assert_same_bits(result.params, seen[1])
    assert result.valid == metrics_of(0.4)
    params, meta = checkpoints.restore(tmp_path / "best", init_params())
    assert_same_bits(params, seen[1])
    assert (meta["epoch"], meta["value"]) == (1, 0.4)
    # A run that has stopped stays stopped, with the same result and without another evaluation.
    again = run_fit(tmp_path, epochs=6, evaluate=evaluate, patience=2)
    assert len(seen) == 5
    assert_same_bits(again.params, seen[1])
    assert again[1:5] == result[1:5]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path, uninterrupted):
    run_fit(tmp_path, epochs=1)
    before = checkpoints.step_folders(tmp_path / "steps")
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 1), 1)
    bad_row = 4
    step = STEPS + np.asarray(toy_task().order(None, key)).tolist().index(bad_row)
    with pytest.raises(
        NonFiniteLossError, match=f"toy: the loss of step {step} is nan; .* kept in"
    ):
        run_fit(tmp_path, epochs=3, task=toy_task(bad_row))
    assert checkpoints.step_folders(tmp_path / "steps") == before
    assert_ends_as(uninterrupted, tmp_path, run_fit(tmp_path, epochs=3))


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    run_fit(tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="made by another configuration"):
        run_fit(tmp_path, epochs=2, params={"w": jnp.zeros(9)})


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    mine = {"config": {"seed": 0, "checkpoint": {"keep": 2}}, "data": "abc"}
    run_fit(tmp_path, epochs=1, identity=mine)
    other = {"config": {"seed": 1, "checkpoint": {"keep": 9}}, "data": "def"}
    words = r"of another run: config.seed is 0 there and 1 here; data is 'abc' there and 'def' here"
    with pytest.raises(CheckpointError, match=words):
        run_fit(tmp_path, epochs=2, identity=other)
    mine["config"]["checkpoint"]["keep"] = 3  # as free as anywhere
    run_fit(tmp_path, epochs=2, identity=mine)


def test_best_parameters_of_another_run_are_refused(tmp_path):
    run_fit(tmp_path / "a", epochs=2)
    run_fit(tmp_path / "b", epochs=1)
    shutil.rmtree(tmp_path / "a" / "best")
    with pytest.raises(CheckpointError, match="best: no checkpoint there"):
        run_fit(tmp_path / "a", epochs=3)
    shutil.copytree(tmp_path / "b" / "best", tmp_path / "a" / "best")
    with pytest.raises(CheckpointError, match="best: not the best parameters of this run"):
        run_fit(tmp_path / "a", epochs=3)


def test_the_epoch_of_a_stop_is_reported_whole(tmp_path, uninterrupted):
    """Averages over all of its steps, those before the stop too."""

    writer = Writer()
    with pytest.raises(Interrupted, match="toy: stopped at step 10, state saved"):
        run_fit(tmp_path, epochs=3, bar=Bar(_interrupt_at(STEPS + 3)), writer=writer)
    run_fit(tmp_path, epochs=3, writer=writer)
    assert writer.written == uninterrupted[2].written


SKIPPING = skip_steps(OPTIMIZER, 2)


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, monkeypatch):
    steps = quick_steps(toy_task(), SKIPPING)
    monkeypatch.setattr(loop, "make_run_steps", lambda task, optimizer: steps)
    common = {"task": toy_task(bad_row=4), "optimizer": SKIPPING}
    writer = Writer()
    whole = run_fit(tmp_path / "whole", epochs=3, writer=writer, **common)
    told = [metrics["train"] for *_, metrics in writer.written]
    assert [averages["skipped_steps"] for averages in told] == [1, 2, 3]  # one in each epoch
    assert all(np.isfinite(averages["loss"]) for averages in told)
    # As if the bad row had not been there: the state before and after its step is the same.
    task, key, state = toy_task(), jax.random.key(5), create_state(init_params(), OPTIMIZER)
    losses = []
    for epoch in range(3):
        order = task.order(None, jax.random.fold_in(jax.random.fold_in(key, 1), epoch))
        for step in range(STEPS):
            if int(order[step]) == 4:
                state = state._replace(step=state.step + 1)
                continue
            keys = jax.random.fold_in(key, 0)
            state, loss, _ = TOY_STEPS(state, task.constants, order, step, 1, keys, most=1)
            losses.append(float(loss[0]))
    assert told[0]["loss"] == pytest.approx(np.mean(losses[: STEPS - 1]), rel=1e-6)
    template = create_state(init_params(), SKIPPING)
    found = newest_state(tmp_path / "whole", template)[0]
    assert_same_bits(found.params, state.params)
    assert_same_bits(found.opt_state.inner, state.opt_state)
    # And the count goes through a stop.
    with pytest.raises(Interrupted):
        run_fit(tmp_path / "parts", epochs=3, bar=Bar(_interrupt_at(STEPS + 3)), **common)
    resumed = run_fit(tmp_path / "parts", epochs=3, **common)
    assert_same_bits(resumed.params, whole.params)
    assert_same_bits(newest_state(tmp_path / "parts", template)[0], found)


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run(tmp_path, monkeypatch):
    steps = quick_steps(toy_task(), SKIPPING)
    monkeypatch.setattr(loop, "make_run_steps", lambda task, optimizer: steps)
    rows = jnp.full((STEPS, 4), jnp.inf)
    with pytest.raises(NonFiniteLossError, match="too many steps in a row were not finite, 3 skip"):
        run_fit(tmp_path, epochs=1, task=toy_task()._replace(constants=rows), optimizer=SKIPPING)
    assert checkpoints.step_folders(tmp_path / "steps") == []


def _interrupt_at(step):
    def interrupt(done):
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return interrupt


def test_the_initial_parameters_stay_usable(tmp_path):
    """The step takes its state over (donation), but not what the caller still holds."""
    params = init_params()
    run_fit(tmp_path, epochs=1, params=params)
    np.testing.assert_array_equal(params["w"], init_params()["w"])


def tiny_pretraining():
    """Stage 1 on a log in which each item has one successor; two dropout passes and positives."""
    split = cyclic_split(users=60, length=12)
    encoder = SequenceEncoder(
        split.log.num_items,
        max_len=8,
        dim=8,
        num_layers=1,
        inner_dim=8,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        init_scale=0.3,
    )
    feed = packed_feed(
        split, max_len=8, long_history="chunked", targets_per_batch=40, row_len=16, seed=0
    )
    task = pretrain_task(
        encoder,
        feed,
        [
            same_target_term(
                ContrastSettings("us_x", "dot", 1.0, 0.1, 0.1, 10, True),
                same_target_index(training_examples(split)),
                training_examples(split).user_ids,
                10,
            )
        ],
        next_item="full",
        num_negatives=0,
        include_padding_class=False,
        chunk_items=8,
    )
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), s.dtype), shapes)
    return task, optax.adam(0.03), params


def test_pretraining_learns_resumes_and_compiles_once(tmp_path, monkeypatch):
    task, optimizer, params = tiny_pretraining()
    shared = quick_steps(task, optimizer)  # one program for all the runs of this test
    monkeypatch.setattr(loop, "make_run_steps", lambda task, optimizer: shared)
    common = {"task": task, "optimizer": optimizer, "params": params}
    writer = Writer()
    whole = run_fit(tmp_path / "whole", epochs=4, writer=writer, **common)
    # The short call at an epoch's end, the epochs and the steps all share one compilation.
    assert shared._cache_size() == 1
    losses = [metrics["train"]["next_item_loss"] for *_, metrics in writer.written]
    assert losses[-1] < 0.6 * losses[0]
    assert losses[0] > 0.5 * np.log(12)

    def interrupt(done):
        if done > 2 * task.steps_per_epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    parts = tmp_path / "parts"
    with pytest.raises(Interrupted, match="stopped at step"):
        run_fit(parts, epochs=4, bar=Bar(interrupt), **common)
    resumed = run_fit(parts, epochs=4, **common)
    assert_same_bits(resumed.params, whole.params)
    template = create_state(params, optimizer)
    found, expected = (newest_state(tmp_path / name, template)[0] for name in ("parts", "whole"))
    assert_same_bits(found, expected)
