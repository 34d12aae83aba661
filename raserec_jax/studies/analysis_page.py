"""What a study that trains at most one run writes: JSON, CSV, Markdown, a picture and one self-contained page."""

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from raserec_jax.report.facts import facts_section
from raserec_jax.report.frame import html_page, plots_section
from raserec_jax.report.plots import png_of
from raserec_jax.report.results import write_bytes_atomic, write_json_atomic
from raserec_jax.report.seeds import markdown_text
from raserec_jax.report.tables import signed


class Table(NamedTuple):
    """title: of the section.  heads: one per column.  rows: cells, text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_analysis(
    workdir: Path,
    name: str,
    title: str,
    told: str,
    *,
    summary: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    tables: Sequence[Table],
    figure: Figure,
    caption: str,
) -> None:
    """Writes NAME.json, .csv, .md, plots/NAME.png and report.html.

    Args:
      name: of the study.
      title, told: heading, and the question and its terms in a sentence or two.
      summary: for the JSON file; its "protocol" and "devices" end the page.
      lines: of the CSV file, all with the same keys.
      tables: for people.
      figure, caption: the picture.
    """
    picture = workdir / "plots" / f"{name}.png"
    write_json_atomic(workdir / f"{name}.json", summary)
    write_bytes_atomic(workdir / f"{name}.csv", _csv(lines).encode())
    write_bytes_atomic(workdir / f"{name}.md", _markdown(title, told, tables).encode())
    write_bytes_atomic(picture, png_of(figure))
    facts = {key.removeprefix("num_"): value for key, value in summary["protocol"].items()}
    sections = [
        f'<section class="headline"><p>{escape(told)}</p></section>',
        plots_section([picture], {picture.name: caption}),
        *map(_section, tables),
        facts_section("Protocol", facts | {"devices": summary["devices"]}),
    ]
    write_bytes_atomic(workdir / "report.html", html_page(title, sections).encode())
    print(f"report: {workdir / 'report.html'}", flush=True)


def change_words(change: Mapping[str, float] | None) -> str:
    """A difference with its interval; a dash where there is none."""
    if change is None:
        return "–"
    return f"{signed(change['mean'])}, {signed(change['low'])} to {signed(change['high'])}"


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose mappings are spread over columns NAME_KEY."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}_{key}": one for key, one in value.items()}
        else:
            found[name] = value
    return found


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: _cell(value) for key, value in line.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else value


def _markdown(title: str, told: str, tables: Sequence[Table]) -> str:
    lines = [f"# {markdown_text(title)}", "", told, ""]
    for table in tables:
        lines += [f"## {markdown_text(table.title)}", ""]
        lines += [f"| {' | '.join(table.heads)} |", "|---" * len(table.heads) + "|"]
        lines += [f"| {' | '.join(map(markdown_text, row))} |" for row in table.rows] + [""]
    return "\n".join(lines)


def _section(table: Table) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in table.heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )
