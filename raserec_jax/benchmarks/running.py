"""Runs a benchmark row by row: each is on disk as soon as it is measured, and is not measured again.

WORKDIR/rows/NAME.json  benchmark.csv  benchmark.md  benchmark.png  curves.png  opponents/
"""

import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from raserec_jax import __version__
from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.catalogue import measurements
from raserec_jax.benchmarks.ceilings import Ceilings
from raserec_jax.benchmarks.contest import Line
from raserec_jax.benchmarks.curves import curve_lines
from raserec_jax.benchmarks.machine import device_name
from raserec_jax.benchmarks.sizes import SIZES
from raserec_jax.benchmarks.tables import benchmark_csv, benchmark_markdown, line_words, slope_words
from raserec_jax.errors import ConfigError
from raserec_jax.report.results import write_bytes_atomic, write_json_atomic

FORMAT = 1


def run_benchmark(
    workdir: str | Path,
    *,
    size: str = "full",
    rows: Sequence[str] | None = None,
    fresh: bool = False,
    seed: int = 0,
    pythons: dict[str, str | None] | None = None,
    opponent_batch: int = 2048,
    scann_banks: Sequence[int] | None = None,
    say=print,
) -> list[Line]:
    """Measures what is not measured yet and writes the table and the pictures.

    Args:
      workdir: made if absent.
      size: one of `sizes.SIZES`.
      rows: names, as `catalogue.measurements` takes them; None: all.
      fresh: measure the chosen rows again.
      seed: of all that is generated.
      pythons, opponent_batch: of other libraries, as in `Bench`.
      scann_banks: rows of the generated banks of the row scann; None: the size's.
      say: gets a line of text per row.

    Returns:
      The table's lines: those measured now and before.

    Raises:
      ConfigError: an unknown size or row, or rows that another kind of run left in the workdir.
    """
    if size not in SIZES:
        raise ConfigError(f"size={size!r} is unknown; use one of {', '.join(SIZES)}")
    sizes = SIZES[size]
    if scann_banks is not None:
        if not scann_banks or min(scann_banks) < 100:
            raise ConfigError(
                f"--scann_banks={','.join(map(str, scann_banks))} should be numbers of rows, 100 or more"
            )
        sizes = sizes._replace(scann_banks=tuple(scann_banks))
    if opponent_batch < 1:
        raise ConfigError(f"--opponent_batch={opponent_batch} must be at least 1")
    chosen, everything = measurements(sizes, rows), measurements(sizes)
    workdir = Path(workdir)
    bench = Bench(sizes, workdir, seed=seed, pythons=pythons, opponent_batch=opponent_batch)
    identity = _identity(bench, size)
    found = {name: _read(workdir, name, identity, fresh and name in chosen) for name in everything}
    for place, (name, measurement) in enumerate(chosen.items()):
        head = f"[{place + 1}/{len(chosen)}] {name}"
        if found[name] is not None:
            say(f"{head}: measured before")
            continue
        say(f"{head} ...")
        began = time.perf_counter()
        try:
            lines = [line._replace(row=line.row or name) for line in measurement(bench)]
        except Skipped as reason:
            found[name] = [Line(name, "not measured", "", "", device_name(), note=str(reason))]
            say(f"{head}: not measured: {reason}")
            continue
        record = {
            "format": FORMAT,
            "identity": identity,
            "ceilings": bench.ceilings.told(),
            "took_s": time.perf_counter() - began,
            "lines": [line._asdict() for line in lines],
        }
        write_json_atomic(_path(workdir, name), record)
        found[name] = lines
        for line in lines:
            say(f"    {line_words(line)}")
        say(f"    took {record['took_s']:.0f} s")
        gc.collect()  # large tables go before the next row makes its own
        _write_text(workdir, _joined(found), identity, bench.ceilings)
    lines = _joined(found)
    _write_text(workdir, lines, identity, bench.ceilings)
    for name, points in curve_lines(lines).items():
        say(f"{name}: {slope_words(points)}")
    _write_pictures(workdir, lines)
    return lines


def _joined(found: dict[str, list[Line] | None]) -> list[Line]:
    return [line for one in found.values() for line in one or ()]


def _write_text(
    workdir: Path, lines: Sequence[Line], identity: dict[str, Any], ceilings: Ceilings
) -> None:
    """benchmark.csv and benchmark.md."""
    write_bytes_atomic(workdir / "benchmark.csv", benchmark_csv(lines).encode())
    text = benchmark_markdown(lines, identity, ceilings.told())
    write_bytes_atomic(workdir / "benchmark.md", text.encode())


def _write_pictures(workdir: Path, lines: Sequence[Line]) -> None:
    from raserec_jax.benchmarks.plots import draw_curves, draw_rows
    from raserec_jax.report.plots import png_of  # matplotlib: slow to import

    for name, figure in (("benchmark.png", draw_rows(lines)), ("curves.png", draw_curves(lines))):
        if figure is not None:
            write_bytes_atomic(workdir / name, png_of(figure))


def _identity(bench: Bench, size: str) -> dict[str, Any]:
    """What must be equal for rows to stand in one table."""
    return {
        "size": size,
        "data": bench.data_name,
        "seed": bench.seed,
        "device": device_name(),
        "raserec_jax": __version__,
        "jax": jax.__version__,
    }


def _path(workdir: Path, name: str) -> Path:
    return workdir / "rows" / f"{name.replace('/', '_')}.json"


def _read(workdir: Path, name: str, identity: dict[str, Any], fresh: bool) -> list[Line] | None:
    """A row that was measured before; None if it was not, or what is there cannot be read.

    Raises:
      ConfigError: it belongs to another kind of run.
    """
    path = _path(workdir, name)
    if fresh:
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        there = record["identity"]
        lines = [Line(**line) for line in record["lines"]]
        if record["format"] != FORMAT or not isinstance(there, dict):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if there != identity:
        differing = ", ".join(
            f"{field} {there.get(field)} there and {value} here"
            for field, value in identity.items()
            if there.get(field) != value
        )
        raise ConfigError(
            f"{path}: measured by another kind of run ({differing}); give another --workdir, or --fresh"
        )
    return lines
