"""Two finished workdirs, user by user: what one added over the other on the same test."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from raserec_jax.data.storage import PathLike
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.evaluation.metrics import metrics_from_ranks, paired_bootstrap
from raserec_jax.report.results import read_json
from raserec_jax.report.tables import PROTOCOLS, STAGE_LABELS, number, signed

METRICS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
# What two runs may differ in and still have been asked the same questions.
_MODEL_KEYS = ("max_len", "long_history")


def compare(workdir: PathLike, other: PathLike, *, samples: int = 2000) -> dict[str, Any]:
    """Paired bootstrap over users of `workdir` minus `other`, for every model that both have.

    Returns:
      {model: {protocol: {metric: {"this", "other", "mean", "low", "high"}}}}.

    Raises:
      CheckpointError: a workdir without test results, or a damaged one.
      ConfigError: the two were not evaluated on the same data, split and users; names what differs.
    """
    folders = [Path(workdir), Path(other)]
    results = [read_json(folder / "results.json") for folder in folders]
    _check_protocols(folders, [_protocol(*pair) for pair in zip(folders, results, strict=True)])
    (ranks, users), (other_ranks, other_users) = map(read_ranks, folders)
    if not np.array_equal(users, other_users):
        raise ConfigError(f"{workdir} and {other} have other test users; compare runs of one split")
    found: dict[str, Any] = {}
    for name in ranks:
        if name not in other_ranks:
            continue
        model, protocol = name.split("/")
        found.setdefault(model, {})[protocol] = {
            metric: _difference(ranks[name], other_ranks[name], metric, samples)
            for metric in METRICS
        }
    if not found:
        raise ConfigError(f"{workdir} and {other} have no evaluated model in common")
    return found


def format_comparison(found: dict[str, Any]) -> str:
    """One line per model, protocol and metric."""
    lines = [f"{'test':<30}{'metric':<20}{'this':>8}{'other':>8}{'change':>9}   95% interval"]
    for model, by_protocol in found.items():
        name = model.removesuffix("_train_bank")
        label = STAGE_LABELS.get(name, name) + (", bank train" if name != model else "")
        for protocol in PROTOCOLS:
            for metric, one in by_protocol.get(protocol, {}).items():
                lines.append(
                    f"{label:<30}{f'{metric} {protocol}':<20}{number(one['this']):>8}{number(one['other']):>8}"
                    f"{signed(one['mean']):>9}   {signed(one['low'])} to {signed(one['high'])}"
                )
    return "\n".join(lines)


def _difference(ranks, other_ranks, metric: str, samples: int) -> dict[str, float]:
    return {
        "this": metrics_from_ranks(ranks)[metric],
        "other": metrics_from_ranks(other_ranks)[metric],
        **paired_bootstrap(other_ranks, ranks, metric, samples=samples),
    }


def _protocol(folder: Path, results: dict) -> dict:
    try:
        return {k: v for k, v in results["protocol"].items() if k not in _MODEL_KEYS}
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{folder / 'results.json'}: not the results of a run; give the workdir of launch/train.py"
        ) from None


def _check_protocols(folders: list[Path], protocols: list[dict]) -> None:
    this, other = protocols
    differing = [
        f"{key} is {_shown(this.get(key))} and {_shown(other.get(key))}"
        for key in sorted(set(this) | set(other))
        if this.get(key) != other.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folders[0]} and {folders[1]} were not evaluated on the same questions: {'; '.join(differing[:4])}; "
            "compare runs of one data set and split"
        )


def _shown(value: Any) -> str:
    """A fingerprint needs no 64 letters to be seen to differ."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:16]}…"


def read_ranks(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """("MODEL/PROTOCOL" -> 0-based rank of each test user's target, labels of the users) of a workdir.

    Raises:
      CheckpointError: there are none, or damaged ones.
    """
    path = folder / "ranks.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return arrays, arrays.pop("user_labels")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: no ranks of test users can be read ({type(error).__name__}); "
            "run launch/train.py with this --workdir again"
        ) from None
