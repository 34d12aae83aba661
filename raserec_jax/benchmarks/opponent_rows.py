"""Rows about other libraries: SASRec as they train it, each by an interpreter of its own, beside our stage 1.

The scripts are in `opponents`, whose docstrings say how to make an environment for each.
"""

import os
import pathlib
import statistics

import numpy as np

from raserec_jax.batching.windows import training_examples
from raserec_jax.benchmarks import opponents
from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.contest import Line
from raserec_jax.benchmarks.machine import device_name
from raserec_jax.benchmarks.other_process import last_line_of
from raserec_jax.benchmarks.training_rows import stage_1_contestant
from raserec_jax.data.splits import Split
from raserec_jax.report.results import write_bytes_atomic

_SCRIPTS = pathlib.Path(opponents.__file__).parent
_ROWS_PER_BATCH = 128  # RecTools' own default, in rows of whole histories
_TIMEOUT_S = 4 * 3600


def opponent(bench: Bench, name: str) -> list[Line]:
    """Ours before and after it, the faster counts, and an epoch of theirs.

    Raises:
      Skipped: no interpreter was named, or it failed.
    """
    python = bench.pythons.get(name)
    if not python:
        raise Skipped(f"--{name}_python names no interpreter")
    config = bench.config()
    folder = bench.workdir / "opponents"
    write_log(folder, bench.split)
    ours = stage_1_contestant(bench, "raserec_jax, stage 1, packed", config, bench.sizes.steps)
    before = bench.measure(name, "", "targets", [ours])
    told = run_script(python, name, _arguments(bench, name, config, folder), folder)
    after = bench.measure(name, "", "targets", [ours])
    targets = len(training_examples(bench.split).lengths)
    (line,) = min(before, after, key=lambda lines: lines[0].seconds)
    size = f"{bench.size_words()}, {targets:,} targets, width {config.encoder.dim}"
    line = line._replace(size=size, whole_s=targets / line.rate)
    return [line, their_line(name, told, line)]


def their_line(name: str, told: dict, ours: Line) -> Line:
    """What a script told, as a line beside ours."""
    seconds = min(told["seconds"])
    rate = told["examples"] / seconds
    versions = ", ".join(f"{library} {version}" for library, version in told["versions"].items())
    part = "" if told["examples"] == told["whole"] else f", {told['examples']:,} of them timed"
    return Line(
        ours.row,
        f"{name}, SASRec by its own trainer",
        ours.size,
        ours.unit,
        device_name(),
        float(told["examples"]),
        seconds,
        statistics.median(told["seconds"]),
        len(told["seconds"]),
        rate=rate,
        ratio=ours.rate / rate,
        whole_s=told["whole"] / rate,
        note=f"{versions}; {told['whole']:,} targets{part}, {told['items']:,} items",
    )


def write_log(folder: pathlib.Path, split: Split) -> None:
    """bench/bench.inter with all interactions, and train.tsv with those for training."""
    log = split.log
    place = np.arange(log.num_interactions) - log.offsets[log.user_ids]
    columns = [log.user_ids, log.item_ids, place]
    everything = np.stack(columns, axis=1)
    training = everything[place < split.train_end[log.user_ids]]
    for path, header, rows in (
        ("bench/bench.inter", "user_id:token\titem_id:token\ttimestamp:float", everything),
        ("train.tsv", "user\titem\tplace", training),
    ):
        lines = "\n".join("\t".join(map(str, row)) for row in rows.tolist())
        write_bytes_atomic(folder / path, f"{header}\n{lines}\n".encode())


def _arguments(bench: Bench, name: str, config, folder: pathlib.Path) -> list[str]:
    encoder, sizes = config.encoder, bench.sizes
    values = {
        "folder": folder.resolve(),
        "examples": sizes.opponent_examples,
        "epochs": sizes.opponent_epochs,
        "batch": _ROWS_PER_BATCH if name == "rectools" else bench.opponent_batch,
        "dim": encoder.dim,
        "inner_dim": encoder.inner_dim,
        "layers": encoder.num_layers,
        "heads": encoder.num_heads,
        "max_len": encoder.max_len,
        "dropout": encoder.hidden_dropout,
    }
    return [f"--{flag}={value}" for flag, value in values.items()]


def run_script(python: str, name: str, arguments: list[str], folder: pathlib.Path) -> dict:
    """Runs opponents/NAME_sasrec.py, which leaves its own logs in the folder; the JSON of its last line.

    Raises:
      Skipped: the interpreter is not there, the script failed, or did not end, or told something else.
    """
    command = [
        os.path.abspath(python) if os.sep in python else python,
        str(_SCRIPTS / f"{name}_sasrec.py"),
        *arguments,
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def checked(told):
        if not (told["seconds"] and told["examples"] and told["whole"] and told["versions"]):
            raise ValueError("an empty field")
        return told | {"items": int(told["items"])}

    return last_line_of(
        command,
        name,
        checked,
        program=f"--{name}_python={python}",
        cwd=folder,
        environment=environment,
        timeout_s=_TIMEOUT_S,
    )
