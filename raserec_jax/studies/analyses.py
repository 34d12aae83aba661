"""The studies that are no list of variants, by name: `catalogue.ANALYSES` asks, this runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from raserec_jax.data.storage import PathLike
from raserec_jax.errors import ConfigError
from raserec_jax.studies.drift import run_drift
from raserec_jax.studies.drift_page import drift_markdown
from raserec_jax.studies.memory_cost import run_memory_cost
from raserec_jax.studies.memory_usefulness import run_memory_usefulness
from raserec_jax.studies.mixing_groups import run_mixing_groups
from raserec_jax.studies.new_items import run_new_items
from raserec_jax.studies.tables import new_items_markdown
from raserec_jax.studies.when_memory_helps import run_when_memory_helps

OF_ONE_RUN: dict[str, Callable] = {
    "when_memory_helps": run_when_memory_helps,
    "memory_usefulness": run_memory_usefulness,
    "memory_cost": run_memory_cost,
}


def run_analysis(
    name: str,
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int,
    runs: Sequence[PathLike] = (),
    windows: int = 5,
    retrain: bool = True,
) -> str:
    """Runs a study of `catalogue.ANALYSES` in its workdir.

    Args:
      runs: finished workdirs that it looks at, in place of a training of its own; for those that can.
      windows, retrain: of "drift".

    Returns:
      What it found, as Markdown.

    Raises:
      ConfigError: `runs` for a study that cannot use them, or too many; else as the study.
    """
    if name in OF_ONE_RUN:
        if len(runs) > 1:
            raise ConfigError(f"--study={name} looks at one run; give --runs one workdir")
        OF_ONE_RUN[name](config, workdir, seed=seed, run=runs[0] if runs else None)
    elif name == "mixing_groups":
        run_mixing_groups(config, workdir, seed=seed, runs=runs)
    elif runs:
        raise ConfigError(f"--study={name} trains what it needs itself; leave out --runs")
    elif name == "new_items":
        return new_items_markdown(run_new_items(config, workdir, seed=seed))
    else:
        summary = run_drift(config, workdir, seed=seed, windows=windows, retrain=retrain)
        return drift_markdown(summary)
    return (Path(workdir) / f"{name}.md").read_text(encoding="utf-8")
