"""One configuration under several seeds: a workdir each, and mean and standard deviation of every metric."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raserec_jax.data.storage import PathLike
from raserec_jax.errors import ConfigError
from raserec_jax.report.results import write_json_atomic
from raserec_jax.report.tables import PROTOCOLS, Row, table_rows
from raserec_jax.training.pipeline import STAGES, train

SEEDS_FILE = "seeds.json"
COLUMNS = ("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20")


def train_seeds(
    config, workdir: PathLike, seeds: Sequence[int], stages: Sequence[str] = STAGES
) -> dict[str, Any]:
    """Trains the configuration once per seed, in WORKDIR/seed_N, and writes WORKDIR/seeds.json.

    What is finished in a seed's folder is reused, so a killed call goes on, and more seeds can be added later.

    Args:
      config: as `presets` makes it; its seed is replaced.
      workdir: folder of the folders.
      seeds: distinct integers.
      stages: as `train`.

    Returns:
      {"seeds": [...], "rows": [{"label", "stage", PROTOCOL: {METRIC: {"mean", "std", "values"}}}, ...]} of the test;
      std is the sample standard deviation, None for one seed.

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
    summary = {"seeds": list(seeds), "rows": summarize(results)}
    write_json_atomic(Path(workdir) / SEEDS_FILE, summary)
    return summary


def summarize(results: Sequence[dict]) -> list[dict]:
    """Mean and spread of every test metric over runs; rows that some run lacks are left out."""
    tables = [{row.label: row for row in table_rows(one, "test")} for one in results]
    common = [label for label in tables[0] if all(label in table for table in tables)]
    return [_row([table[label] for table in tables]) for label in common]


def _row(rows: list[Row]) -> dict:
    found: dict[str, Any] = {"label": rows[0].label, "stage": rows[0].stage}
    for protocol in PROTOCOLS:
        found[protocol] = {}
        for metric in rows[0].metrics.get(protocol) or {}:
            values = [row.value(protocol, metric) for row in rows]
            found[protocol][metric] = {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "values": values,
            }
    return found


def format_seeds(summary: dict[str, Any]) -> str:
    """The summary for a terminal: mean ± standard deviation, both protocols."""
    rows, lines = summary["rows"], []
    width = max((len(row["label"]) for row in rows), default=0) + 2
    for protocol in PROTOCOLS:
        head = f"test, {protocol}, {len(summary['seeds'])} seeds"
        lines.append(f"{head:<{max(width, len(head) + 2)}}" + "".join(f"{c:>15}" for c in COLUMNS))
        for row in rows:
            cells = "".join(f"{_cell(row[protocol].get(column)):>15}" for column in COLUMNS)
            lines.append(f"{row['label']:<{max(width, len(head) + 2)}}{cells}")
        lines.append("")
    return "\n".join(lines[:-1])


def _cell(found: dict | None) -> str:
    if found is None:
        return "–"
    spread = "" if found["std"] is None else f" ± {found['std']:.4f}"
    return f"{found['mean']:.4f}{spread}"
