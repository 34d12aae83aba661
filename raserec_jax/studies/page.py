"""A study as files for people: study.md, plots and one self-contained report.html."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from raserec_jax.report.facts import facts_section
from raserec_jax.report.frame import html_page, plots_section
from raserec_jax.report.results import write_bytes_atomic
from raserec_jax.report.seeds import spread_text
from raserec_jax.report.tables import PROTOCOLS, number
from raserec_jax.studies.study import Study
from raserec_jax.studies.tables import COLUMNS, change_text, study_markdown

_CAPTIONS = {
    "study.png": "The variants side by side",
    "entropy.png": "Does the synthesizer collapse? Entropy of its weights over training",
}


def write_study_report(workdir: Path, study: Study, summary: Mapping[str, Any]) -> Path:
    """Writes study.md, plots/*.png and report.html; returns the page's path."""
    from raserec_jax.report.plots import png_of  # matplotlib: slow to import
    from raserec_jax.studies.plots import draw_entropy, draw_study

    write_bytes_atomic(workdir / "study.md", study_markdown(summary).encode())
    figures = {"study.png": draw_study(summary), "entropy.png": draw_entropy(summary)}
    plots = []
    for name, figure in figures.items():
        if figure is not None:
            plots.append(workdir / "plots" / name)
            write_bytes_atomic(plots[-1], png_of(figure))
    sections = (
        _headline(study, summary),
        *(_table(summary, protocol) for protocol in PROTOCOLS),
        plots_section(plots, _CAPTIONS),
        _lengths(summary),
        facts_section("Protocol", _protocol(summary)),
    )
    path = workdir / "report.html"
    write_bytes_atomic(path, html_page(summary["title"], sections).encode())
    return path


def _headline(study: Study, summary: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, summary["seeds"]))
    first = study.variants[0].label
    note = f"Seeds {seeds}. Each variant against the first, {first}, or the one named, user by user on the test."
    return (
        f'<section class="headline"><p>{escape(summary["question"])}</p>'
        f'<p class="soft">{escape(note)}</p></section>'
    )


def _table(summary: Mapping[str, Any], protocol: str) -> str:
    means = {
        column: max(one["test"][protocol][column]["mean"] for one in summary["variants"])
        for column in COLUMNS
    }
    rows = []
    for one in summary["variants"]:
        cells = ""
        for column in COLUMNS:
            found = one["test"][protocol][column]
            best = ' class="best"' if found["mean"] == means[column] else ""
            cells += f"<td{best}>{spread_text(found)}</td>"
        valid = one["valid"][protocol].get(summary["metric"])
        seconds = sum(one["seconds"]) / len(one["seconds"])
        cells += f"<td>{spread_text(valid)}</td>"
        cells += f"<td>{escape(change_text(one, protocol, summary['metric']))}</td><td>{seconds:,.0f}</td>"
        changes = ", ".join(f"{name}={value}" for name, value in one["changes"].items())
        rows.append(
            f'<tr><td title="{escape(changes, quote=True)}">{escape(one["label"])}</td>{cells}</tr>'
        )
    heads = [*COLUMNS, f"valid {summary['metric']}", f"{summary['metric']} change, 95%", "seconds"]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        f'<section><h2>Test, {protocol}</h2><div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _lengths(summary: Mapping[str, Any]) -> str:
    groups = summary["variants"][0]["lengths"]
    if not groups:
        return ""
    head = "".join(
        f"<th>{escape(group['label'])}<br>{group['queries']:,} users</th>" for group in groups
    )
    rows = "".join(
        f"<tr><td>{escape(one['label'])}</td>"
        + "".join(f"<td>{number(group['unfiltered'])}</td>" for group in one["lengths"])
        + "</tr>"
        for one in summary["variants"]
    )
    return (
        "<section><h2>By length of the history</h2><p>Test NDCG@10, unfiltered.</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _protocol(summary: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name.removeprefix("num_"): value for name, value in summary["protocol"].items()}
    return facts | {"devices": summary["devices"], **summary["versions"]}
