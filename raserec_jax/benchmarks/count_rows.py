"""Counts instead of clocks: what must not happen during training. Tests hold them too."""

import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.benchmarks.bench import Bench
from raserec_jax.benchmarks.contest import Line
from raserec_jax.benchmarks.events import Count, compilations
from raserec_jax.benchmarks.generated import generated_log
from raserec_jax.benchmarks.machine import device_name
from raserec_jax.data.splits import leave_one_out
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.scann_index import ScannIndex
from raserec_jax.training import loop
from raserec_jax.training.finetuning import run_finetuning
from raserec_jax.training.pretraining import Tools, make_encoder, run_pretraining
from raserec_jax.training.remembering import run_memory

_EPOCHS = 4
_SETTLED = (
    1  # epochs after which everything has run once, the evaluation and saving of the first with it
)


class Counts:
    """What happened in each epoch of a stage: compilations, searches, device calls, reads of their losses."""

    def __init__(self):
        self.compilations: list[int] = []
        self.searches: list[int] = []
        self.calls = Count()
        self.reads = Count()


class _Losses:
    """Losses of a call that count how often the host asks for them."""

    def __init__(self, losses, reads: Count):
        self._losses, self._reads = losses, reads

    def __array__(self, dtype=None, copy=None):
        self._reads.value += 1
        return np.asarray(self._losses, dtype)


class _Silence:
    """A Progress that tells nothing."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self) -> "_Silence":
        return self

    def __exit__(self, *exception) -> None:
        pass

    def update(self, n: int = 1, **metrics) -> None:
        """As `Progress.update`."""

    def line(self, text: str) -> None:
        """As `Progress.line`."""


class _Writer:
    """Takes what was counted at the end of each epoch; writes nothing."""

    def __init__(self, counts: Counts, compiled: Count, searched: Count):
        self._counts, self._compiled, self._searched = counts, compiled, searched
        self._before = (0, 0)

    def write(self, stage, step, metrics, *, epoch=None) -> None:
        now = (int(self._compiled), int(self._searched))
        self._counts.compilations.append(now[0] - self._before[0])
        self._counts.searches.append(now[1] - self._before[1])
        self._before = now


def count_stage(run, workdir: Path) -> Counts:
    """Runs a stage, `run(tools)`, and counts, epoch by epoch."""
    counts, searched = Counts(), Count()
    make_run_steps = loop.make_run_steps

    def counted_steps(task, optimizer):
        run_steps = make_run_steps(task, optimizer)

        def counted(*args, **kwargs):
            state, losses, metrics = run_steps(*args, **kwargs)
            counts.calls.value += 1
            return state, _Losses(losses, counts.reads), metrics

        return counted

    def counting(search):
        def counted(*args, **kwargs):
            searched.value += 1
            return search(*args, **kwargs)

        return counted

    with (
        compilations() as compiled,
        mock.patch.object(loop, "make_run_steps", counted_steps),
        mock.patch.object(ExactIndex, "search", counting(ExactIndex.search)),
        mock.patch.object(ScannIndex, "search", counting(ScannIndex.search)),
    ):
        run(Tools(workdir, _Writer(counts, compiled, searched), _Silence))
    return counts


def small_config(bench: Bench):
    """Four epochs of a small model; what is counted does not depend on sizes."""
    config = bench.config()
    config.encoder.update(max_len=8, dim=8, num_layers=1, inner_dim=16)
    config.pretrain.batching.targets_per_batch = 64
    config.pretrain.stopping.update(epochs=_EPOCHS, patience=0)
    config.finetune.batch_size = 64
    config.finetune.stopping.update(epochs=_EPOCHS, patience=0)
    config.reader.inner_dim = 16
    config.memory.update(top_k=5, engine="exact")
    config.mixing.top_k = 5
    config.checkpoint.steps_per_call = 4
    return config


def counted_stages(bench: Bench, workdir: Path) -> dict[str, Counts]:
    """Stage 1 and stage 2 of a small log."""
    config = small_config(bench)
    split = leave_one_out(generated_log(users=80, items=40, mean_length=9.0, seed=bench.seed))
    encoder = make_encoder(config, split.log.num_items)
    params = jax.jit(encoder.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    found = {"stage 1": count_stage(lambda tools: run_pretraining(config, split, tools), workdir)}
    memory = run_memory(config, encoder, params, split, workdir)
    found["stage 2"] = count_stage(
        lambda tools: run_finetuning(config, params, memory, split, tools), workdir
    )
    return found


def counts(bench: Bench) -> list[Line]:
    """As lines: compilations after the first epochs, searches inside stage 2, reads of losses by device call."""
    with tempfile.TemporaryDirectory() as folder:
        found = counted_stages(bench, Path(folder))
    lines = []
    for stage, told in found.items():
        later = sum(told.compilations[_SETTLED:])
        note = (
            f"{later} compilations in epochs {_SETTLED + 1} to {_EPOCHS} ({told.compilations[0]} in the first), "
            f"{sum(told.searches)} searches, {int(told.reads)} waits for losses in {int(told.calls)} device calls"
        )
        lines.append(Line("counts", stage, "a small generated log", "", device_name(), note=note))
    return lines
