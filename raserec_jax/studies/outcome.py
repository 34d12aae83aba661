"""What a finished run says to a study, and all runs together: means, spreads, differences to the reference."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raserec_jax.data.storage import PathLike
from raserec_jax.evaluation.metrics import bootstrap_mean, metric_values
from raserec_jax.metric_writer import read_metrics
from raserec_jax.report.results import read_json
from raserec_jax.report.tables import PROTOCOLS
from raserec_jax.studies.study import Study
from raserec_jax.training.comparing import read_ranks
from raserec_jax.training.seeds import over_seeds

METRICS = ("HR@5", "NDCG@5", "HR@10", "NDCG@10", "HR@20", "NDCG@20")
CURVES = ("attention_entropy", "neighbor_share")
_TRAINED = {
    "pretrain": ("pretrain",),
    "mixing": ("pretrain",),
    "control": ("pretrain", "control"),
}
"""Stages that were trained for a model; for any other, stage 1 and, where it was run, stage 2."""


class Outcome(NamedTuple):
    """One run: results as in results.json; ranks of the compared model by protocol; curves: name -> value by epoch."""

    results: Mapping[str, Any]
    model: str
    ranks: Mapping[str, np.ndarray]
    curves: Mapping[str, list[float]]

    @property
    def test(self) -> Mapping[str, Any]:
        return self.results["stages"][self.model]["test"]

    @property
    def seconds(self) -> float:
        """Of all training that the model needs."""
        stages = _TRAINED.get(self.model, ("pretrain", "finetune"))
        return sum(self.results["timings"].get(stage, 0.0) for stage in stages)


def read_outcome(workdir: PathLike, model: str) -> Outcome:
    """Reads what a study needs of a finished workdir.

    Raises:
      CheckpointError: it is damaged or not finished.
    """
    workdir = Path(workdir)
    results = read_json(workdir / "results.json")
    timings = read_json(workdir / "timings.json")
    results = {
        **results,
        "timings": {name: one.get("seconds", 0.0) for name, one in timings.items()},
    }
    ranks, _ = read_ranks(workdir)
    by_protocol = {protocol: ranks[f"{model}/{protocol}"] for protocol in PROTOCOLS}
    curves: dict[str, dict[int, float]] = {}
    for record in read_metrics(workdir):
        for name in CURVES:
            if record.get("stage") == "pretrain" and f"train/{name}" in record:
                curves.setdefault(name, {})[record["epoch"]] = record[f"train/{name}"]
    told = {name: [found[epoch] for epoch in sorted(found)] for name, found in curves.items()}
    return Outcome(results, model, by_protocol, told)


def summarize(
    study: Study, outcomes: Mapping[str, Sequence[Outcome]], seeds: Sequence[int], config: dict
) -> dict[str, Any]:
    """All runs of a study.

    Args:
      outcomes: variant name -> its runs, in the order of `seeds`.
      config: of the reference, as JSON values.

    Returns:
      {"title", "question", "model", "metric", "axis", "seeds", "protocol", "devices", "versions", "config", "variants":
      [{"name", "label", "changes", "value", "test": {PROTOCOL: {METRIC: {"mean", "std", "values"}}}, "valid": the same,
      "change": {PROTOCOL: {METRIC: {"mean", "low", "high", "relative"}}} against the first variant, None for itself, or
      against the variant whose label is "against",
      "lengths": [{"label", "queries", PROTOCOL: NDCG@10}], "curves": {name: [by epoch]}, "epochs", "seconds"}]}; a
      difference is that of each user's metric, averaged over seeds, with its bootstrap interval over users.
    """
    reference = study.variants[0].name
    first = outcomes[reference][0].results
    labels = {variant.name: variant.label for variant in study.variants} | {"": ""}
    return {
        "title": study.title,
        "question": study.question,
        "model": study.model,
        "metric": study.metric,
        "axis": study.axis,
        "seeds": list(seeds),
        "protocol": first["protocol"],
        "devices": first["devices"],
        "versions": first["versions"],
        "config": config,
        "variants": [
            {
                "name": variant.name,
                "label": variant.label,
                "changes": dict(variant.changes),
                "value": variant.value,
                "test": _spreads([run.test for run in outcomes[variant.name]]),
                "valid": _spreads([_valid(run) for run in outcomes[variant.name]]),
                "against": labels[variant.against],
                "change": _change(outcomes[variant.against or reference], outcomes[variant.name])
                if place
                else None,
                "lengths": _lengths(outcomes[variant.name]),
                "curves": _mean_curves(outcomes[variant.name]),
                "epochs": [_epochs(run) for run in outcomes[variant.name]],
                "seconds": [round(run.seconds, 1) for run in outcomes[variant.name]],
            }
            for place, variant in enumerate(study.variants)
        ],
    }


def _valid(run: Outcome) -> Mapping[str, Any]:
    found = run.results["stages"][run.model].get("valid") or {}
    return found if "unfiltered" in found else {protocol: {} for protocol in PROTOCOLS}


def _epochs(run: Outcome) -> int | None:
    return run.results["stages"][run.model].get("best_epoch")


def _spreads(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        protocol: {
            metric: over_seeds([run[protocol][metric] for run in runs])
            for metric in METRICS
            if all(metric in run[protocol] for run in runs)
        }
        for protocol in PROTOCOLS
    }


def _change(reference: Sequence[Outcome], runs: Sequence[Outcome]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        found[protocol] = {}
        for metric in METRICS:
            before, after = (
                np.mean([metric_values(run.ranks[protocol], metric) for run in group], axis=0)
                for group in (reference, runs)
            )
            one = bootstrap_mean(np.round(after - before, 12))
            one["relative"] = one["mean"] / before.mean() if before.mean() > 0 else None
            found[protocol][metric] = one
    return found


def _lengths(runs: Sequence[Outcome]) -> list[dict[str, Any]]:
    """NDCG@10 by length of the history, mean over seeds."""
    found = []
    for groups in zip(*(run.results["groups"].get("length") or [] for run in runs), strict=True):
        if not all(runs[0].model in one.get("models", {}) for one in groups):
            continue
        models = [one["models"][runs[0].model] for one in groups]
        found.append(
            {
                "label": groups[0]["label"],
                "queries": groups[0]["queries"],
                **{p: statistics.fmean(model[p]["NDCG@10"] for model in models) for p in PROTOCOLS},
            }
        )
    return found


def _mean_curves(runs: Sequence[Outcome]) -> dict[str, list[float]]:
    found = {}
    for name in CURVES:
        curves = [run.curves[name] for run in runs if name in run.curves]
        if curves:
            length = min(map(len, curves))
            found[name] = np.mean([curve[:length] for curve in curves], axis=0).tolist()
    return found
