"""Drift as CSV, as Markdown and as a page."""

import csv
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from raserec_jax.report.facts import facts_section
from raserec_jax.report.frame import html_page, plots_section
from raserec_jax.report.tables import number, signed
from raserec_jax.studies.drift import VALIDATION
from raserec_jax.studies.drift_plot import shown_rows

_COLUMNS = (
    "kind",
    "group",
    "days",
    "queries",
    "model",
    "protocol",
    "metric",
    "mean",
    "low",
    "high",
)
_CHANGE = ("mean", "low", "high")
_HEADS = {
    "window": "By time since the cut",
    "popularity": "By popularity of the target in training, all windows",
    "length": "By length of the history, all windows",
}
_QUESTION = (
    "Training ends at an instant. How does each model do in the windows of time after it, NDCG@10 unfiltered, and what "
    "does a memory that is kept fresh give back without any retraining?"
)


def drift_csv(summary: Mapping[str, Any]) -> str:
    """One line per group, model, protocol and metric, with intervals and the change against the frozen encoder."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(f"change_{end}" for end in _CHANGE)])
    for row in summary["rows"]:
        change = row["change"] or {}
        cells = [row[name] for name in _COLUMNS] + [change.get(end) for end in _CHANGE]
        writer.writerow([_cell(cell) for cell in cells])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else value


def drift_markdown(summary: Mapping[str, Any]) -> str:
    """A table per kind of group: a line per group, a column per model."""
    lines = ["# Drift", "", f"{_QUESTION} {_told(summary)}", ""]
    for kind, head in _HEADS.items():
        heads, rows = _table(summary, kind)
        lines += [f"## {head}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return "\n".join(lines)


def drift_page(workdir: Path, summary: Mapping[str, Any]) -> str:
    """The same with the plot, as HTML that needs nothing else."""
    sections = [
        f'<section class="headline"><p>{escape(_QUESTION)}</p><p class="soft">{escape(_told(summary))}</p></section>',
        plots_section([workdir / "plots" / "drift.png"], {"drift.png": "Quality over time"}),
    ]
    for kind, head in _HEADS.items():
        heads, rows = _table(summary, kind)
        top = "".join(f"<th>{escape(one)}</th>" for one in heads)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        sections.append(
            f'<section><h2>{escape(head)}</h2><div class="scroll"><table><thead><tr>{top}</tr></thead>'
            f"<tbody>{body}</tbody></table></div></section>"
        )
    facts = {name.removeprefix("num_"): value for name, value in summary["protocol"].items()}
    facts |= {"devices": summary["devices"], "reads against time": summary["violations"]}
    return html_page("Drift", [*sections, facts_section("Protocol", facts)])


def _told(summary: Mapping[str, Any]) -> str:
    dataset, cut = summary["protocol"].get("dataset", ""), summary["cut"]
    return (
        f"{dataset}, training with the first {cut:.0%} of the interactions (those from {cut - VALIDATION:.0%} on only "
        f"choose the best epoch); seed {summary['seed']}; {summary['violations']} reads of later memories; in "
        f"brackets the change against the frozen encoder with its 95% interval over users; {summary['devices']}."
    )


def _table(summary: Mapping[str, Any], kind: str) -> tuple[list[str], list[list[str]]]:
    by_model = {model: shown_rows(summary, kind, model) for model in summary["models"]}
    first = next(iter(by_model.values()))
    heads = [{"window": "days after", "popularity": "trained", "length": "items"}[kind], "queries"]
    rows = []
    for place, row in enumerate(first):
        label = f"{row['days']:.0f}" if kind == "window" else row["group"]
        cells = [label, f"{row['queries']:,}"]
        for found in by_model.values():
            cells.append(_with_change(found[place]))
        rows.append(cells)
    everything = [shown_rows(summary, "all", model)[0] for model in summary["models"]]
    if kind == "window":
        rows.append(["all", f"{everything[0]['queries']:,}", *map(_with_change, everything)])
    return [*heads, *summary["models"]], rows


def _with_change(row: Mapping[str, Any]) -> str:
    if row["change"] is None:
        return number(row["mean"])
    mean, low, high = (signed(row["change"][end]) for end in _CHANGE)
    return f"{number(row['mean'])} ({mean}: {low} to {high})"
