"""Runs of one configuration under several seeds: a Markdown table and a small report.html beside seeds.json."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from raserec_jax.report.facts import facts_section
from raserec_jax.report.frame import html_page, plots_section
from raserec_jax.report.results import write_bytes_atomic
from raserec_jax.report.tables import HEADLINE_METRIC, PROTOCOLS, STAGE_LABELS, number, signed

COLUMNS = ("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20")
MARKDOWN_FILE, PLOT_FILE = "seeds.md", "plots/seeds.png"
_CAPTIONS = {"seeds.png": "Test metrics: mean and standard deviation, a dot per seed"}


def write_seeds_report(workdir: str | os.PathLike, summary: Mapping[str, Any]) -> pathlib.Path:
    """Writes seeds.md, plots/seeds.png and report.html into the folder of the seeds' workdirs.

    Args:
      workdir: made if absent.
      summary: as in seeds.json; "gains" and "protocol" may be absent.

    Returns:
      The path of the page.
    """
    from raserec_jax.report.plots import png_of  # matplotlib: slow to import
    from raserec_jax.report.seeds_plot import draw_seeds

    workdir = pathlib.Path(workdir)
    write_bytes_atomic(workdir / MARKDOWN_FILE, format_markdown(summary).encode())
    plots = []
    figure = draw_seeds(summary)
    if figure is not None:
        plots = [workdir / PLOT_FILE]
        write_bytes_atomic(plots[0], png_of(figure))
    path = workdir / "report.html"
    sections = (
        _headline_section(summary),
        _metrics_section(summary),
        _gains_section(summary),
        plots_section(plots, _CAPTIONS),
        facts_section("Protocol", _protocol(summary)),
    )
    write_bytes_atomic(path, html_page(_title(summary), sections).encode())
    return path


def format_markdown(summary: Mapping[str, Any]) -> str:
    """Both protocols as Markdown tables, mean ± sample standard deviation, and what memory added."""
    lines = [f"# {markdown_text(_title(summary))}", ""]
    for protocol in PROTOCOLS:
        lines += [
            f"| test, {protocol} | {' | '.join(COLUMNS)} |",
            "|---" * (len(COLUMNS) + 1) + "|",
        ]
        for row in summary["rows"]:
            cells = " | ".join(spread_text(row[protocol].get(column)) for column in COLUMNS)
            lines.append(f"| {markdown_text(row['label'])} | {cells} |")
        lines.append("")
    return "\n".join([*lines, *(f"- {line}" for line in gain_sentences(summary)), ""])


def gain_sentences(summary: Mapping[str, Any]) -> list[str]:
    """What each stage with memory added to its control, over the seeds."""
    lines = []
    for gain in summary.get("gains") or []:
        parts = []
        for protocol in PROTOCOLS:
            one = (gain.get(protocol) or {}).get(HEADLINE_METRIC)
            if one:
                above = sum(value > 0 for value in one["values"])
                parts.append(
                    f"{_signed_spread(one)} {protocol}, above zero in {above} of {len(one['values'])}"
                )
        if parts:
            stage, against = (STAGE_LABELS.get(gain[k], gain[k]) for k in ("stage", "against"))
            lines.append(
                f"{stage} minus {against.lower()}, test {HEADLINE_METRIC}: {'; '.join(parts)}."
            )
    return lines


def spread_text(found: Mapping[str, Any] | None) -> str:
    """mean ± standard deviation, the mean alone where that is None, a dash for what is absent."""
    if found is None:
        return "–"
    return number(found["mean"]) + _deviation(found)


def _signed_spread(found: Mapping[str, Any]) -> str:
    return signed(found["mean"]) + _deviation(found)


def _deviation(found: Mapping[str, Any]) -> str:
    return "" if found["std"] is None else f" ± {found['std']:.4f}"


def _title(summary: Mapping[str, Any]) -> str:
    dataset = (summary.get("protocol") or {}).get("dataset")
    count = len(summary["seeds"])
    return f"RaSeRec on {dataset or 'a data set'}, {count} seed{'s' if count != 1 else ''}"


def _headline_section(summary: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, summary["seeds"]))
    sentences = gain_sentences(summary) or ["No stage with memory has run beside a control."]
    body = "".join(f"<p>{escape(line)}</p>" for line in sentences)
    folders = ", ".join(f"seed_{seed}" for seed in summary["seeds"])
    note = f"Mean ± sample standard deviation over the seeds {seeds}; each has its own report in {folders}."
    return f'<section class="headline">{body}<p class="soft">{escape(note)}</p></section>'


def _metrics_section(summary: Mapping[str, Any]) -> str:
    tables = "".join(_table(summary["rows"], protocol) for protocol in PROTOCOLS)
    return f'<section><h2>Test</h2><div class="scroll">{tables}</div></section>'


def _table(rows: Sequence[Mapping[str, Any]], protocol: str) -> str:
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    means = {
        column: [row[protocol][column]["mean"] for row in rows if column in row[protocol]]
        for column in COLUMNS
    }
    lines = []
    for row in rows:
        cells = []
        for column in COLUMNS:
            found = row[protocol].get(column)
            best = found is not None and len(rows) > 1 and found["mean"] == max(means[column])
            mark = ' class="best"' if best else ""
            cells.append(f"<td{mark}>{spread_text(found)}</td>")
        kind = escape(str(row["stage"]))
        lines.append(f'<tr class="{kind}"><td>{escape(row["label"])}</td>{"".join(cells)}</tr>')
    return (
        f"<table><caption>{escape(protocol)}</caption><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _gains_section(summary: Mapping[str, Any]) -> str:
    lines = []
    for gain in summary.get("gains") or []:
        stage, against = (STAGE_LABELS.get(gain[k], gain[k]) for k in ("stage", "against"))
        for protocol in PROTOCOLS:
            for metric, one in (gain.get(protocol) or {}).items():
                values = ", ".join(signed(value) for value in one["values"])
                lines.append(
                    f"<tr><td>{escape(f'{stage} minus {against.lower()}')}</td><td>{escape(protocol)}</td>"
                    f"<td>{escape(metric)}</td><td>{_signed_spread(one)}</td><td>{values}</td></tr>"
                )
    if not lines:
        return ""
    return (
        "<section><details><summary>What memory added, all metrics, seed by seed</summary>"
        "<table><thead><tr><th></th><th>protocol</th><th>metric</th><th>gain</th><th>by seed</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></details></section>"
    )


def _protocol(summary: Mapping[str, Any]) -> dict[str, Any]:
    protocol = summary.get("protocol") or {}
    facts = {name.removeprefix("num_").replace("_", " "): one for name, one in protocol.items()}
    if "fingerprint" in facts:
        facts["fingerprint"] = str(facts["fingerprint"])[:12]
    return facts


def markdown_text(text: str) -> str:
    """On one line and without what Markdown or HTML would read into it."""
    text = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#&" else letter for letter in text)
