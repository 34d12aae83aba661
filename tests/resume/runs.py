"""Runs of launch/train.py on a small generated log, to be killed and compared bit for bit."""

import itertools
import os
import pathlib
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType

import jax
import numpy as np
import orbax.checkpoint as ocp

from raserec_jax import checkpoints
from raserec_jax.metric_writer import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
STAGES = ("pretrain", "memory", "finetune", "mixing", "control", "evaluate", "report")
# Code that is compiled quickly, the same in every run; jaxlib 0.10.2 needs the last one to be right. Later ones know
# neither of the last two, and end at a flag that they do not know.
_XLA_FLAGS = ("--xla_backend_optimization_level=0",)
if jax.__version_info__ < (0, 11):
    _XLA_FLAGS += (
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_experimental_ynn_fusion_type=",
    )
_SETTINGS = {
    "data.min_interactions": 2,
    "encoder.max_len": 8,
    "encoder.dim": 8,
    "encoder.num_layers": 1,
    "encoder.inner_dim": 16,
    "reader.inner_dim": 16,
    "pretrain.batching.targets_per_batch": 32,
    "pretrain.optimizer.warmup_steps": 0,
    "pretrain.stopping.epochs": 6,
    "finetune.stopping.epochs": 3,
    "finetune.batch_size": 64,
    "memory.top_k": 5,
    "memory.engine": "exact",
    "mixing.temperatures": "(0.05,)",
    "mixing.weights": "(0.3,)",
    "mixing.top_k": 8,
    "evaluation.bootstrap_samples": 20,
    "evaluation.samples": 0,
    "checkpoint.steps_per_call": 4,
}


class Runs:
    """Starts runs that share a log, a configuration and a cache of compiled programs.

    Args:
      folder: for all of it.
      stages: what a run consists of.
      settings: configuration values, in place of or beside the common ones.
    """

    def __init__(self, folder: pathlib.Path, stages=STAGES, **settings):
        self.folder, self.stages = folder, stages
        self.log = folder / "log.tsv"
        self.log.write_text(_rows())
        self.settings = _SETTINGS | settings
        self._numbers = itertools.count()

    def start(
        self,
        workdir: pathlib.Path,
        *flags: str,
        most_bytes: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        """A process that trains in `workdir`; no file that it writes may be larger than `most_bytes`."""
        values = self.settings | {"data.interactions": self.log}
        return self.program(
            *("launch/train.py", "--config=configs/raserec.py"),
            f"--workdir={workdir}",
            f"--stages={','.join(self.stages)}",
            *(f"--config.{name}={value}" for name, value in values.items()),
            *flags,
            most_bytes=most_bytes,
            environment=environment,
        )

    def program(
        self,
        *arguments: str,
        most_bytes: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        """A process of any of the repository's programs, with its arguments, that compiles as the runs do."""
        command = [sys.executable, *arguments]
        variables = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": " ".join(_XLA_FLAGS),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environment,
        }
        output = self.folder / f"out{next(self._numbers)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdout=file if most_bytes is None else subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            process.output, process.copier = output, None
            if (
                most_bytes is not None
            ):  # which would hold for a file of the output too, not for a pipe
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
                process.copier = subprocess.Popen(["cat"], stdin=process.stdout, stdout=file)
                process.stdout.close()
        return process

    def finish(self, workdir: pathlib.Path, *flags: str) -> None:
        """Trains to the end, which must be a good one."""
        process = self.start(workdir, *flags)
        assert process.wait() == 0, process.output.read_text()


def _rows() -> str:
    draw = random.Random(1)
    rows = ["user_id\titem_id\ttimestamp"]
    for user in range(40):
        first = draw.randrange(20)
        for place in range(draw.randint(5, 12)):
            item = (first + place) % 20 if draw.random() < 0.8 else draw.randrange(20)
            rows.append(f"u{user}\ti{item}\t{100 * place + user}")
    return "\n".join(rows) + "\n"


def exit_code_and_output(process) -> tuple[int, str]:
    """Waits for the end."""
    code = process.wait()
    if process.copier is not None:
        process.copier.wait()
    return code, process.output.read_text()


def wait_for(process, happened) -> bool:
    """Whether `happened()` came true before the process ended."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(0.002)
    return False


def is_at(process, workdir: pathlib.Path, stage: str) -> bool:
    """Whether the process works at a stage, or is past it: by what it prints, and by the records that it leaves."""
    if stage in ("evaluate", "report"):  # not announced: they begin where the stage before ends
        before = STAGES[STAGES.index(stage) - 1]
        said = {"evaluate": "control:", "report": "test, unfiltered"}[stage]
        if not (workdir / "stages" / f"{before}.json").exists():
            return False
    else:
        said = f"{stage}:"
    return any(line.startswith(said) for line in process.output.read_text().splitlines())


def leftovers(workdir: pathlib.Path) -> list[str]:
    """Files and folders that are being written, or that a killed process left so."""
    places = [workdir, *workdir.glob("checkpoints/*"), workdir / "memory" / "segments"]
    places += [workdir / name for name in ("best", "stages", "memory")]
    names = (p.name for place in places if place.is_dir() for p in place.iterdir())
    return [
        name
        for name in names
        if name.startswith((".building", ".outgoing", ".unfinished"))
        or name.endswith((".partial", ".tmp", ".building"))
    ]


def stage_of(workdir: pathlib.Path) -> str:
    """The stage that is under way: the first without a record; the last one has none."""
    records = workdir / "stages"
    return next((s for s in STAGES if not (records / f"{s}.json").exists()), STAGES[-1])


def assert_same_run(workdir: pathlib.Path, expected: pathlib.Path, stages=STAGES) -> None:
    """Two runs are the same, but for parameters and metrics.jsonl of stages other than `stages`.

    results.json is the same bytes (nothing is excluded: times go to timings.json), and so are all parameters,
    optimiser states, the memory, the neighbours, the ranks, and every line of metrics.jsonl for the same step.
    """
    for name in ("results.json", "ranks.npz"):
        assert (workdir / name).exists() == (expected / name).exists()
    if (expected / "results.json").exists():
        assert (workdir / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    for folder in sorted((expected / "best").iterdir()):
        if folder.name not in stages:
            continue
        _assert_same_checkpoint(workdir / "best" / folder.name, folder)
        steps = [
            checkpoints.step_folders(place / "checkpoints" / folder.name)[-1]
            for place in (workdir, expected)
        ]
        assert steps[0].name == steps[1].name
        _assert_same_checkpoint(*steps)
    for path in sorted((expected / "memory" / "segments").rglob("*.npy")):
        assert (workdir / path.relative_to(expected)).read_bytes() == path.read_bytes()
    for path in [*sorted((expected / "memory").glob("*.npz")), *expected.glob("ranks.npz")]:
        with np.load(path) as arrays, np.load(workdir / path.relative_to(expected)) as found:
            assert set(found) == set(arrays)
            for name in arrays:
                np.testing.assert_array_equal(found[name], arrays[name])
    lines = {(line["stage"], line["step"]): line for line in read_metrics(expected)}
    for line in read_metrics(workdir):
        assert line["stage"] not in stages or line == lines[line["stage"], line["step"]]


def _assert_same_checkpoint(folder: pathlib.Path, expected: pathlib.Path) -> None:
    found, tree = _arrays(folder), _arrays(expected)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    one, other = (checkpoints.read_meta(place) for place in (folder, expected))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def _arrays(folder: pathlib.Path):
    with ocp.StandardCheckpointer() as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.restore(folder.absolute() / "tree"))
