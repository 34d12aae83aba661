"""Rows about meshes: stage 1's packed step on one device and spread over several, and what devices send.

Times are measured; bytes sent are read from the compiled step; the arithmetic beside them is that of the dry run.
Emulated devices of a CPU are those of a process of its own, as their number is settled before JAX starts:

python -m raserec_jax.benchmarks.mesh_rows DEVICES '{"sizes": {...}, "workdir": "...", "seed": 0}'
"""

import json
import os
import pathlib
import sys

import jax

from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.contest import Contestant, Line
from raserec_jax.benchmarks.other_process import last_line_of
from raserec_jax.benchmarks.sizes import Sizes
from raserec_jax.benchmarks.stepping import Stepper
from raserec_jax.benchmarks.training_rows import size_of, stage_1_stepper
from raserec_jax.mesh import MeshShape, mesh_over
from raserec_jax.training.collectives import sent_by_kind
from raserec_jax.training.dry_run import bytes_on_device, computed_of

_TIMEOUT_S = 3600
_EMULATED = "emulated devices share the cores: of real ones only the bytes tell, the time tells what partitioning costs"


def mesh_point(bench: Bench, devices: int) -> list[Line]:
    """The meshes of so many devices: those that are there, or emulated ones where a CPU computes.

    Raises:
      Skipped: there are fewer accelerators, or the process of the emulated devices failed.
    """
    if jax.default_backend() == "cpu":
        return emulated(bench, devices)
    if (there := len(jax.devices())) < devices:
        raise Skipped(f"{devices} devices are asked for, {there} of {jax.default_backend()} there")
    return mesh_lines(bench, devices)


def emulated(bench: Bench, devices: int) -> list[Line]:
    """`mesh_lines` of a process that has so many emulated devices.

    Raises:
      Skipped: it failed, or did not end.
    """
    asked = {
        "sizes": bench.sizes._asdict(),
        "workdir": os.fspath(bench.workdir),
        "seed": bench.seed,
    }
    lines = last_line_of(
        [sys.executable, "-m", "raserec_jax.benchmarks.mesh_rows", str(devices), json.dumps(asked)],
        f"the process of {devices} emulated devices",
        lambda told: [Line(**line) for line in told],
        environment=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
        timeout_s=_TIMEOUT_S,
    )
    return [
        line._replace(note=f"{line.note}; {_EMULATED}") if line.note else line for line in lines
    ]


def mesh_lines(bench: Bench, devices: int) -> list[Line]:
    """One device, then each mesh of so many, in turns; times and bytes are of one step."""
    config, shapes = bench.config(), [MeshShape(1, 1)]
    if devices > 1:
        shapes.append(MeshShape(devices, 1))
    if devices > 1 and devices % 2 == 0:
        shapes.append(MeshShape(devices // 2, 2))
    contestants, sent = [], []
    for shape in shapes:
        mesh = mesh_over(shape, jax.devices()[: shape.data * shape.model])
        stepper, _, targets = stage_1_stepper(bench, config, most=bench.sizes.mesh_steps, mesh=mesh)
        contestants.append(_contestant(shape, stepper, targets))
        sent.append(_sent(bench, config, stepper))
    steps = stepper.most
    size = f"{size_of(bench, config)}; times are of one step, {steps} in a call"
    lines = bench.measure("", size, "targets", contestants)
    return [
        line._replace(
            units=line.units / steps,
            seconds=line.seconds / steps,
            median_s=line.median_s / steps,
            **fields,
        )
        for line, fields in zip(lines, sent, strict=True)
    ]


def _contestant(shape: MeshShape, stepper: Stepper, targets: float) -> Contestant:
    words = "one device" if stepper.mesh is None else f"data:{shape.data},model:{shape.model}"
    steps = stepper.most
    return Contestant(
        words, lambda: stepper.run(steps), targets * steps, temp_bytes=stepper.temp_bytes
    )


def _sent(bench: Bench, config, stepper: Stepper) -> dict:
    """Fields of a line: what each device sends in a step, in bytes and in words."""
    sent = sent_by_kind(stepper.exchanges())
    read = float(sum(count for count, _ in sent.values()))
    if stepper.mesh is None:
        return {"sent_bytes": read, "sent_computed": 0.0}
    held = bytes_on_device(stepper.state.params)
    computed = sum(computed_of(config, bench.split, stepper.mesh, held).values())
    kinds = ", ".join(f"{kind} {_mib(count)} in {times}" for kind, (count, times) in sent.items())
    note = f"each device sends {_mib(read)} MiB a step, read from the compiled program"
    note += f" ({kinds}), and by arithmetic {_mib(computed)} MiB"
    return {"sent_bytes": read, "sent_computed": computed, "note": note}


def _mib(count: float) -> str:
    return f"{count / 2**20:,.3g}"


def main(devices: str, asked: str) -> None:
    """What `emulated` starts."""
    told = json.loads(asked)
    sizes = Sizes(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in told["sizes"].items()
        }
    )
    bench = Bench(sizes, pathlib.Path(told["workdir"]), seed=told["seed"])
    print(json.dumps([line._asdict() for line in mesh_lines(bench, int(devices))]))


if __name__ == "__main__":
    main(*sys.argv[1:])
