"""One configuration under several seeds: a workdir each, and mean and standard deviation of every metric.

What is made of it: seeds.json, seeds.md, plots/seeds.png and report.html in the folder of the workdirs.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raserec_jax.data.storage import PathLike
from raserec_jax.distributed import by_writer
from raserec_jax.errors import ConfigError
from raserec_jax.report.results import write_json_atomic
from raserec_jax.report.seeds import COLUMNS, gain_sentences, spread_text, write_seeds_report
from raserec_jax.report.tables import PROTOCOLS, Row, gain_list, table_rows
from raserec_jax.training.pipeline import STAGES, train

SEEDS_FILE = "seeds.json"


def train_seeds(
    config, workdir: PathLike, seeds: Sequence[int], stages: Sequence[str] = STAGES
) -> dict[str, Any]:
    """Trains the configuration once per seed, in WORKDIR/seed_N, and writes WORKDIR/seeds.json and the report of it.

    What is finished in a seed's folder is reused, so a killed call goes on, and more seeds can be added later.

    Args:
      config: as `presets` makes it; its seed is replaced.
      workdir: folder of the folders.
      seeds: distinct integers.
      stages: as `train`.

    Returns:
      {"protocol": as in results.json, "seeds": [...], "rows": [{"label", "stage", PROTOCOL: {METRIC: {"mean", "std",
      "values"}}}, ...], "gains": [{"stage", "against", PROTOCOL: as in the rows}, ...]} of the test; std is the
      sample standard deviation, None for one seed and for baselines, which no seed changes.

    Raises:
      ConfigError: no seed, or one twice; else as `train`.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds={','.join(map(str, seeds))} should be distinct integers")
    results = []
    for seed in seeds:
        one = config.copy_and_resolve_references()
        one.seed = seed
        print(f"seed {seed}", flush=True)
        results.append(train(one, workdir=Path(workdir) / f"seed_{seed}", stages=stages).results)
    summary = {
        "protocol": results[0].get("protocol") or {},
        "seeds": list(seeds),
        "rows": summarize(results),
        "gains": summarize_gains(results),
    }
    by_writer("seeds", lambda: _write(workdir, summary))
    return summary


def _write(workdir: PathLike, summary: dict[str, Any]) -> None:
    write_json_atomic(Path(workdir) / SEEDS_FILE, summary)
    if summary["rows"]:
        print(f"report: {write_seeds_report(workdir, summary)}", flush=True)


def summarize(results: Sequence[dict]) -> list[dict]:
    """Mean and spread of every test metric over runs; rows that some run lacks are left out."""
    tables = [{row.label: row for row in table_rows(one, "test")} for one in results]
    common = [label for label in tables[0] if all(label in table for table in tables)]
    return [_row([table[label] for table in tables]) for label in common]


def summarize_gains(results: Sequence[dict]) -> list[dict]:
    """Mean and spread over runs of what each stage added; stages that some run lacks are left out."""
    tables = [{(gain.stage, gain.against): gain for gain in gain_list(one)} for one in results]
    found = []
    for stage, against in tables[0]:
        gains = [table.get((stage, against)) for table in tables]
        if None in gains:
            continue
        row: dict[str, Any] = {"stage": stage, "against": against}
        for protocol in PROTOCOLS:
            parts = [gain.metrics.get(protocol) or {} for gain in gains]
            common = [metric for metric in parts[0] if all(metric in part for part in parts)]
            row[protocol] = {
                metric: over_seeds([part[metric]["mean"] for part in parts]) for metric in common
            }
        found.append(row)
    return found


def _row(rows: list[Row]) -> dict:
    found: dict[str, Any] = {"label": rows[0].label, "stage": rows[0].stage}
    for protocol in PROTOCOLS:
        found[protocol] = {
            metric: over_seeds(
                [row.value(protocol, metric) for row in rows], varies=rows[0].stage != "baseline"
            )
            for metric in rows[0].metrics.get(protocol) or {}
        }
    return found


def over_seeds(values: Sequence[float], *, varies: bool = True) -> dict[str, Any]:
    """{"mean", "std", "values"}; std, of the sample, is None for one value or where seeds change nothing."""
    deviation = statistics.stdev(values) if len(values) > 1 and varies else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def format_seeds(summary: dict[str, Any]) -> str:
    """The summary for a terminal: mean ± standard deviation, both protocols."""
    rows, lines = summary["rows"], []
    width = max((len(row["label"]) for row in rows), default=0) + 2
    for protocol in PROTOCOLS:
        head = f"test, {protocol}, {len(summary['seeds'])} seeds"
        lines.append(f"{head:<{max(width, len(head) + 2)}}" + "".join(f"{c:>18}" for c in COLUMNS))
        for row in rows:
            cells = "".join(f"{spread_text(row[protocol].get(column)):>18}" for column in COLUMNS)
            lines.append(f"{row['label']:<{max(width, len(head) + 2)}}{cells}")
        lines.append("")
    return "\n".join([*lines, *gain_sentences(summary)])
