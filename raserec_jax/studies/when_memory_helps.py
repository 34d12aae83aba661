"""When does memory help? A prediction from what is known before the answer, judged on users that it never saw.

The effect of memory on a query is the reciprocal rank of its target by the reader minus that by the encoder alone. On
the validation queries of one half of the users two logistic regressions are fitted to its sign: one counts every query
alike, for odds that can be read and checked; the other by the size of the effect, for the decision. Both are judged on
the test queries of the other half.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ml_collections import ConfigDict

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import DataError
from raserec_jax.evaluation.logistic import Logistic, area_under_curve, calibration, fit_logistic
from raserec_jax.evaluation.metrics import bootstrap_mean, metric_values
from raserec_jax.report.plot_style import INK, style_axes
from raserec_jax.report.tables import number
from raserec_jax.studies.analysis_page import Table, change_words, flat, write_analysis
from raserec_jax.studies.memory_signals import SIGNALS, memory_signals
from raserec_jax.studies.trained_run import TrainedRun, halves, trained_run
from raserec_jax.training.testing import Ranks, training_popularity

METRICS = ("HR@10", "NDCG@10", "MRR@10")
_QUESTION = (
    "Can it be told before the answer whether a user's memories will help? Fitted on the validation queries of one "
    "half of the users, judged on the test queries of the other half."
)
_LEAST = 20  # queries that memory moves, on either side, for anything to be fitted


def run_when_memory_helps(
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int = 0,
    run: PathLike | None = None,
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
) -> dict[str, Any]:
    """Trains a run or reads a finished one, fits and judges; writes when_memory_helps.* into the workdir.

    Args:
      as `trained_run`; `config.evaluation.bootstrap_samples` serves the intervals.

    Returns:
      {"queries", "moved": {"fitted", "judged"}: queries whose reciprocal rank memory changes, "helped": share of those,
      of the judged, "area": {"test", "valid", "low", "high"} under the curve on held-out users, "coefficients":
      [{"signal", "log_odds", "error", "weighted"}], "calibration": [...] as `calibration`, "policies": [...] as
      `policy_rows`, "protocol", "devices"}.

    Raises:
      DataError: memory moves too few queries; else as `trained_run`.
    """
    trained = trained_run(config, workdir, seed=seed, run=run, log=log, item_text=item_text)
    memory, popularity = trained.memory, training_popularity(trained.split)
    first = halves(trained.split.log.num_users, seed)
    fitted = _asked(trained, memory.valid, memory.train_bank, popularity)
    judged = _asked(trained, memory.test, memory.full_bank, popularity)
    fit_rows = first[memory.valid.evaluation.user_ids]
    judge_rows = ~first[memory.test.evaluation.user_ids]
    fit_moved, moved = fit_rows & (fitted.effect != 0), judge_rows & (judged.effect != 0)
    for name, rows, effect in (
        ("validation", fit_moved, fitted.effect),
        ("test", moved, judged.effect),
    ):
        if min((effect[rows] > 0).sum(), (effect[rows] < 0).sum()) < _LEAST:
            raise DataError(
                f"memory helps {int((effect[rows] > 0).sum())} and harms {int((effect[rows] < 0).sum())} of the "
                f"{name} queries, fewer than {_LEAST}; take more users, or a reader that was trained"
            )
    labels, sizes = fitted.effect[fit_moved] > 0, np.abs(fitted.effect[fit_moved])
    odds = fit_logistic(fitted.signals[fit_moved], labels)
    weighted = fit_logistic(fitted.signals[fit_moved], labels, sizes)
    other = ~fit_rows & (fitted.effect != 0)
    helped, chances = judged.effect[moved] > 0, odds.probabilities(judged.signals[moved])
    samples = {"samples": config.evaluation.bootstrap_samples, "seed": seed}
    valid_area = _area(fitted.effect[other] > 0, odds.probabilities(fitted.signals[other]))
    summary = {
        "queries": int(judge_rows.sum()),
        "moved": {"fitted": int(fit_moved.sum()), "judged": int(moved.sum())},
        "helped": float(helped.mean()),
        "area": {
            "test": area_under_curve(helped, chances),
            "valid": valid_area,
            **_area_interval(helped, chances, seed),
        },
        "coefficients": _coefficients(odds, weighted),
        "calibration": calibration(helped, chances),
        "policies": policy_rows(
            judged.take(judge_rows),
            {"odds above even": odds, "odds weighted by effect": weighted},
            **samples,
        ),
        "protocol": trained.protocol,
        "devices": trained.devices,
    }
    _write(Path(workdir), summary)
    return summary


class _Asked:
    """Queries of a part: signals [queries, SIGNALS], ranks with and without memory, effect [queries]."""

    def __init__(self, signals: np.ndarray, with_memory: Ranks, without: Ranks):
        self.signals, self.with_memory, self.without = signals, with_memory, without
        now, before = (1.0 / (one.unfiltered + 1.0) for one in (with_memory, without))
        self.effect = now - before

    def take(self, rows: np.ndarray) -> "_Asked":
        ranks = (Ranks(*(one[rows] for one in both)) for both in (self.with_memory, self.without))
        return _Asked(self.signals[rows], *ranks)


def _asked(trained: TrainedRun, part, bank, popularity) -> _Asked:
    table, top_k = trained.opened.encoder_params["item_table"], trained.opened.config.memory.top_k
    signals = memory_signals(part, bank, table, popularity, top_k)
    return _Asked(signals, trained.ranks_with(part, bank), trained.ranks_without(part))


def policy_rows(
    judged: _Asked, models: dict[str, Logistic], *, samples: int, seed: int
) -> list[dict[str, Any]]:
    """HR, NDCG and MRR@10 where memory is used for all, for nobody, where a model predicts that it helps, for as many
    at random (the mean of all draws: each query's metric with and without memory, weighed by the share), and where it
    does help under the protocol that is told.

    Returns:
      [{"policy", "share": of the queries that use memory, "protocol", "metric", "mean", "change": minus memory for all,
      {"mean", "low", "high"}, None for that}].
    """
    count = len(judged.effect)
    policies = {"memory for all": np.ones(count), "no memory": np.zeros(count)}
    for name, model in models.items():
        chosen = model.probabilities(judged.signals) > 0.5
        policies[name] = chosen.astype(float)
        policies[f"at random, as {name}"] = np.full(count, chosen.mean())
    rows = []
    for protocol in Ranks._fields:
        after, before = (getattr(one, protocol) for one in (judged.with_memory, judged.without))
        bound = {"where it helps (bound)": (after < before).astype(float)}
        for name, used in (policies | bound).items():
            for metric in METRICS:
                own, bare = metric_values(after, metric), metric_values(before, metric)
                values = used * own + (1.0 - used) * bare
                change = bootstrap_mean(values - own, samples=samples, seed=seed)
                rows.append(
                    {"policy": name, "share": float(used.mean()), "protocol": protocol}
                    | {"metric": metric, "mean": float(values.mean())}
                    | {"change": None if name == "memory for all" else change}
                )
    return rows


def _area(labels: np.ndarray, chances: np.ndarray) -> float | None:
    return None if labels.all() or not labels.any() else area_under_curve(labels, chances)


def _area_interval(labels: np.ndarray, chances: np.ndarray, seed: int) -> dict[str, float]:
    """The 95% interval of Hanley and McNeil (1982)."""
    area = area_under_curve(labels, chances)
    positive, negative = labels.sum(), (~labels).sum()
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positive - 1) * (first - area**2)
    variance = (variance + (negative - 1) * (second - area**2)) / (positive * negative)
    reach = 1.96 * float(np.sqrt(variance))
    return {"low": area - reach, "high": area + reach}


def _coefficients(odds: Logistic, weighted: Logistic) -> list[dict[str, Any]]:
    parts = zip(SIGNALS, odds.coefficients, odds.errors, weighted.coefficients, strict=True)
    return [
        {"signal": name, "log_odds": float(a), "error": float(e), "weighted": float(w)}
        for name, a, e, w in parts
    ]


def _write(workdir: Path, summary: dict[str, Any]) -> None:
    area = summary["area"]
    told = (
        f"{_QUESTION} Memory changes the reciprocal rank of {summary['moved']['judged']:,} of the "
        f"{summary['queries']:,} judged queries and helps {summary['helped']:.1%} of those; area under the curve "
        f"{area['test']:.3f} (95% {area['low']:.3f} to {area['high']:.3f}; 0.5 is guessing). "
        f"{summary['protocol'].get('dataset', '')}; {summary['devices']}."
    )
    coefficients = [
        (
            one["signal"],
            f"{one['log_odds']:+.3f} ± {1.96 * one['error']:.3f}",
            f"{one['weighted']:+.3f}",
        )
        for one in summary["coefficients"]
    ]
    deciles = [
        (f"{one['rows']:,}", f"{one['predicted']:.3f}", f"{one['observed']:.3f}")
        for one in summary["calibration"]
    ]
    tables = [
        Table(
            "Log odds that memory helps, per standard deviation of the signal",
            ("signal", "all queries alike (95%)", "weighted by effect"),
            coefficients,
        ),
        Table("Calibration by decile", ("queries", "predicted", "helped"), deciles),
        *(_policy_table(summary["policies"], protocol) for protocol in Ranks._fields),
    ]
    lines = [{"kind": "coefficient"} | one for one in summary["coefficients"]]
    lines += [{"kind": "calibration"} | one for one in summary["calibration"]]
    lines += [{"kind": "policy"} | flat(one) for one in summary["policies"]]
    write_analysis(
        workdir,
        "when_memory_helps",
        "When memory helps",
        told,
        summary=summary,
        lines=lines,
        tables=tables,
        figure=draw_when(summary),
        caption="What speaks for memory, how far the odds hold, and what following them gives",
    )


def _policy_table(rows: list[dict[str, Any]], protocol: str) -> Table:
    by_policy: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["protocol"] == protocol:
            by_policy.setdefault(row["policy"], []).append(row)
    cells = [
        [name, f"{found[0]['share']:.1%}"]
        + [number(one["mean"]) for one in found]
        + [change_words(found[METRICS.index("NDCG@10")]["change"])]
        for name, found in by_policy.items()
    ]
    heads = ("memory is used", "queries", *METRICS, "NDCG@10 against memory for all (95%)")
    return Table(f"Following the prediction, {protocol}", heads, cells)


def draw_when(summary: dict[str, Any]) -> Figure:
    """Coefficients, calibration, and NDCG@10 by policy."""
    figure = Figure(figsize=(15, 4.2), dpi=150, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1.2))
    for axis in (left, middle, right):
        style_axes(axis)
    found = summary["coefficients"]
    places = range(len(found))
    reach = [1.96 * one["error"] for one in found]
    left.errorbar(
        [one["log_odds"] for one in found], places, xerr=reach, fmt="o", color="#0072b2", capsize=3
    )
    left.axvline(0.0, color=INK, linewidth=0.8, linestyle=":")
    left.set_yticks(places, [one["signal"] for one in found])
    left.invert_yaxis()
    left.set_xlabel("per standard deviation")
    left.set_title("log odds that memory helps", fontsize=9.5)
    bins = summary["calibration"]
    predicted = [one["predicted"] for one in bins]
    ends = [min(predicted), max(predicted)]
    middle.plot(ends, ends, color=INK, linewidth=0.8, linestyle=":")
    middle.errorbar(
        predicted,
        [one["observed"] for one in bins],
        yerr=[1.96 * one["error"] for one in bins],
        fmt="o",
        color="#0072b2",
        capsize=3,
    )
    middle.set_xlabel("predicted, by decile")
    middle.set_ylabel("share that memory helped")
    middle.set_title(f"held-out users, area {summary['area']['test']:.3f}", fontsize=9.5)
    shown = [
        row
        for row in summary["policies"]
        if (row["protocol"], row["metric"]) == ("unfiltered", "NDCG@10")
    ]
    right.axvline(0.0, color=INK, linewidth=0.8, linestyle=":")
    right.grid(axis="y", visible=False)
    for place, row in enumerate(shown):
        change = row["change"] or {"mean": 0.0, "low": 0.0, "high": 0.0}
        right.plot([change["low"], change["high"]], [place, place], color="#0072b2", linewidth=2)
        right.plot([change["mean"]], [place], "o", color="#0072b2", markersize=5)
        right.annotate(
            f"{row['mean']:.4f}".removeprefix("0"),
            (change["mean"], place),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
        )
    names = [f"{row['policy']}, {row['share']:.0%}" for row in shown]
    right.set_yticks(range(len(shown)), names)
    right.set_ylim(len(shown) - 0.5, -0.7)
    right.margins(x=0.12)
    right.set_xlabel("minus memory for all")
    right.set_title("test NDCG@10, unfiltered", fontsize=9.5)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(5))
    return figure
