"""report.html: one page that needs nothing else; everything that comes from data, titles and configuration above all,
is escaped."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from raserec_jax.report.attention import attention_section
from raserec_jax.report.facts import facts_list, facts_section
from raserec_jax.report.frame import html_page, plots_section
from raserec_jax.report.groups import groups_section, order_section, recommended_section
from raserec_jax.report.noise import noise_section
from raserec_jax.report.results import RESULTS_FILE, read_json, write_bytes_atomic
from raserec_jax.report.samples import samples_section
from raserec_jax.report.tables import (
    COLUMNS,
    HEADLINE_METRIC,
    PROTOCOLS,
    STAGE_LABELS,
    Gain,
    Row,
    baseline_sentence,
    best_values,
    gain_list,
    headline,
    number,
    signed,
    table_rows,
)
from raserec_jax.semantic.quality_page import quality_section

REPORT_FILE = "report.html"
_CAPTIONS = {
    "comparison.png": "Test metrics of the stages side by side, and what memory added",
    "groups.png": "Test users in groups: by the popularity of the target and by the length of the history",
    "attention.png": "What the reader attends to: all test users",
    "attention_samples.png": "What the reader attends to: users of the samples below, memories by channel",
    "validation.png": "Validation by epoch; a ring marks the best of each curve",
    "loss.png": "Training losses",
}


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
    """Draws the plots and writes workdir/report.html from what the workdir holds.

    Reads results.json; metrics.jsonl, timings.json and samples.json where they are. Stages that
    did not run are left out.

    Returns:
      The path of the page.

    Raises:
      CheckpointError: no results.json, or a damaged file.
    """
    from raserec_jax.report.plots import write_plots  # matplotlib: slow to import

    workdir = pathlib.Path(workdir)
    results = read_json(workdir / RESULTS_FILE)
    timings = _read_if_there(workdir / "timings.json") or {}
    samples = _read_if_there(workdir / "samples.json") or []
    sections = (
        _headline_section(results),
        _protocol_section(results),
        _metrics_section(results, "test", "Test"),
        _gains_section(gain_list(results)),
        plots_section(write_plots(workdir, results, samples), _CAPTIONS),
        groups_section(results),
        recommended_section(results),
        order_section(results),
        noise_section(results),
        attention_section(results),
        samples_section(samples),
        _semantic_section(workdir),
        _metrics_section(results, "valid", "Validation"),
        facts_section("Memory", (results.get("stages") or {}).get("memory")),
        facts_section("Chosen on validation", _choices(results.get("stages") or {})),
        facts_section("Times and rates", timings),
        _config_section(results.get("config")),
    )
    path = workdir / REPORT_FILE
    write_bytes_atomic(path, html_page(_title(results), sections).encode())
    return path


def _semantic_section(workdir: pathlib.Path) -> str:
    """Examples of semantic neighbours, if texts were embedded in this workdir."""
    found = _read_if_there(workdir / "semantic" / "quality.json")
    return "" if found is None else quality_section(found)


def _read_if_there(path: pathlib.Path) -> Any:
    return read_json(path) if path.exists() else None


def _title(results: Mapping[str, Any]) -> str:
    dataset = (results.get("protocol") or {}).get("dataset")
    return f"RaSeRec on {dataset}" if dataset else "RaSeRec"


def _headline_section(results: Mapping[str, Any]) -> str:
    gains = [gain for gain in gain_list(results) if gain.stage == "finetune"]
    gain = gains[0].metrics.get("unfiltered", {}).get(HEADLINE_METRIC) if gains else None
    mood = "" if not gain else "good" if gain["low"] > 0 else "bad" if gain["high"] < 0 else ""
    rows = {row.stage: row for row in table_rows(results, "test") if row.stage != "baseline"}
    tiles = [
        (number(row.value("unfiltered", HEADLINE_METRIC)), STAGE_LABELS[stage])
        for stage, row in rows.items()
    ]
    if gain:
        against = STAGE_LABELS.get(gains[0].against, gains[0].against).lower()
        tiles.append((signed(gain["mean"]), f"RaSeRec minus {against}"))
    boxes = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
        for value, label in tiles
    )
    note = f"Test {HEADLINE_METRIC}, unfiltered: items a user has met may be recommended again."
    baselines = baseline_sentence(results)
    return (
        f'<section class="headline {mood}"><p>{escape(headline(results))}</p>'
        f'<div class="tiles">{boxes}</div>'
        + (f"<p>{escape(baselines)}</p>" if baselines else "")
        + (f'<p class="soft">{escape(note)}</p>' if tiles else "")
        + "</section>"
    )


def _protocol_section(results: Mapping[str, Any]) -> str:
    protocol = dict(results.get("protocol") or {})
    fingerprint = protocol.pop("fingerprint", None)
    facts = {"dataset": protocol.pop("dataset", None)}
    facts["fingerprint"] = fingerprint and str(fingerprint)[:12]
    for name in ("split", "num_users", "num_items", "num_interactions", *protocol):
        facts[name.removeprefix("num_").replace("_", " ")] = protocol.get(name)
    facts |= {name: results.get(name) for name in ("seed", "devices")}
    left = facts_list(facts)
    right = facts_list(results.get("versions") or {})
    if not left and not right:
        return ""
    return (
        '<section><h2>Protocol</h2><div class="columns">'
        f"<div>{left}</div><div>{right}</div></div></section>"
    )


def _metrics_section(results: Mapping[str, Any], split: str, title: str) -> str:
    rows = table_rows(results, split)
    if not rows:
        return ""
    tables = "".join(_metrics_table(rows, protocol) for protocol in PROTOCOLS)
    return f'<section><h2>{escape(title)}</h2><div class="scroll">{tables}</div></section>'


def _metrics_table(rows: Sequence[Row], protocol: str) -> str:
    best = best_values(list(rows), protocol)
    head = "".join(f"<th{_from(column)}>{escape(column)}</th>" for column in COLUMNS)
    body = []
    for row in rows:
        cells = []
        for column in COLUMNS:
            value = row.value(protocol, column)
            mark = "best" if value is not None and value == best.get(column) else ""
            cells.append(f"<td{_from(column, mark)}>{number(value)}</td>")
        label = f"<td>{escape(row.label)}</td>"
        body.append(f'<tr class="{escape(row.stage)}">{label}{"".join(cells)}</tr>')
    return (
        f"<table><caption>{escape(protocol)}</caption><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _from(column: str, more: str = "") -> str:
    """The class attribute of a cell; a line stands left of each cutoff's first column."""
    names = f"{'from' if column.startswith('HR') else ''} {more}".strip()
    return f' class="{names}"' if names else ""


def _gains_section(gains: Sequence[Gain]) -> str:
    lines = []
    for stage, against, metrics in gains:
        name = f"{STAGE_LABELS[stage]} minus {STAGE_LABELS.get(against, against).lower()}"
        for protocol, part in metrics.items():
            for metric, gain in part.items():
                text = f"{signed(gain['low'])} to {signed(gain['high'])}"
                sure = ' class="best"' if gain["low"] > 0 or gain["high"] < 0 else ""
                lines.append(
                    f"<tr><td>{escape(name)}</td><td>{escape(protocol)}</td>"
                    f"<td>{escape(metric)}</td><td{sure}>{signed(gain['mean'])}</td>"
                    f"<td>{text}</td></tr>"
                )
    if not lines:
        return ""
    return (
        "<section><details><summary>What memory added, all metrics</summary>"
        '<p class="soft">Mean difference over test users and its 95% interval by paired bootstrap; '
        "marked where the interval leaves out zero.</p>"
        "<table><thead><tr><th></th><th>protocol</th><th>metric</th><th>gain</th>"
        f"<th>interval</th></tr></thead><tbody>{''.join(lines)}</tbody></table></details></section>"
    )


def _choices(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Epochs, weights and the like: what a stage has beside its metrics; of the reader also alpha and beta."""
    return {
        f"{label} / {name.replace('_', ' ')}": value
        for stage, label in STAGE_LABELS.items()
        for name, value in (stages.get(stage) or {}).items()
        if not isinstance(value, Mapping) or name == "reader"
    }


def _config_section(config: Any) -> str:
    if not config:
        return ""
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    return (
        f"<section><details><summary>Configuration</summary><pre>{text}</pre></details></section>"
    )
