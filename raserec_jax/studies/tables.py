"""A study as CSV, a line per run, and as Markdown, a line per variant."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from raserec_jax.report.seeds import markdown_text, spread_text
from raserec_jax.report.tables import PROTOCOLS, number, signed

COLUMNS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")


def study_csv(summary: Mapping[str, Any]) -> str:
    """One line per variant and seed: what was changed, best epoch, seconds, every metric of validation and test."""
    metrics = list(summary["variants"][0]["test"]["unfiltered"])
    columns = [f"{part}/{p}/{m}" for part in ("valid", "test") for p in PROTOCOLS for m in metrics]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["variant", "label", "value", "changes", "seed", "best_epoch", "seconds", *columns]
    )
    for one in summary["variants"]:
        changes = " ".join(f"{name}={value}" for name, value in one["changes"].items())
        for place, seed in enumerate(summary["seeds"]):
            values = []
            for column in columns:
                part, protocol, metric = column.split("/")
                found = one[part][protocol].get(metric)
                values.append("" if found is None else f"{found['values'][place]:.8g}")
            writer.writerow(
                [
                    one["name"],
                    one["label"],
                    "" if one["value"] is None else f"{one['value']:g}",
                    changes,
                    seed,
                    one["epochs"][place],
                    one["seconds"][place],
                    *values,
                ]
            )
    return out.getvalue()


def study_markdown(summary: Mapping[str, Any]) -> str:
    """Title, question, a table per protocol with the differences to the reference, and one by length of history."""
    seeds = ", ".join(map(str, summary["seeds"]))
    lines = [
        f"# {markdown_text(summary['title'])}",
        "",
        f"{summary['question']} {summary['protocol'].get('dataset', '')}, "
        f"{summary['protocol'].get('split', '')}, test; seeds {seeds}; {summary['devices']}.",
        "",
    ]
    for protocol in PROTOCOLS:
        lines += [
            f"| {protocol} | {' | '.join(COLUMNS)} | {summary['metric']} change (95%) | seconds |",
            "|---" * (len(COLUMNS) + 3) + "|",
        ]
        for one in summary["variants"]:
            cells = [spread_text(one["test"][protocol].get(column)) for column in COLUMNS]
            seconds = sum(one["seconds"]) / len(one["seconds"])
            change = markdown_text(change_text(one, protocol, summary["metric"]))
            cells += [change, f"{seconds:.0f}"]
            lines.append(f"| {markdown_text(one['label'])} | {' | '.join(cells)} |")
        lines.append("")
    groups = [group["label"] for group in summary["variants"][0]["lengths"]]
    if groups:
        lines += [
            f"| NDCG@10 unfiltered, history | {' | '.join(map(markdown_text, groups))} |",
            "|---" * (len(groups) + 1) + "|",
        ]
        for one in summary["variants"]:
            cells = " | ".join(number(group["unfiltered"]) for group in one["lengths"])
            lines.append(f"| {markdown_text(one['label'])} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def change_text(variant: Mapping[str, Any], protocol: str, metric: str) -> str:
    """A variant's difference to what it is compared with in words; a dash for the reference."""
    if variant["change"] is None:
        return "–"
    one = variant["change"][protocol][metric]
    relative = "" if one["relative"] is None else f" ({one['relative']:+.1%})"
    words = f"{signed(one['mean'])}{relative}, {signed(one['low'])} to {signed(one['high'])}"
    words += f", against {variant['against']}" if variant["against"] else ""
    return words.replace("(-", "(\N{MINUS SIGN}")


def new_items_csv(summary: Mapping[str, Any]) -> str:
    """One line per step, method, protocol and kind of target."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["share_back", "items", "method", "protocol", "target", "queries", *COLUMNS])
    for level in summary["levels"]:
        for method, by_protocol in level["metrics"].items():
            for protocol, kinds in by_protocol.items():
                for kind, found in kinds.items():
                    values = [f"{found[column]:.8g}" for column in COLUMNS]
                    head = [level["share"], level["items"], method, protocol, kind]
                    writer.writerow([*head, level["queries"][kind], *values])
    return out.getvalue()


def new_items_markdown(summary: Mapping[str, Any]) -> str:
    """A line per step: NDCG@20 of both methods for known and for new targets."""
    lines = [
        "# New items, with text, after training",
        "",
        f"{summary['items']} of {summary['protocol']['num_items'] + summary['items']} items "
        f"({summary['share']:.0%}) were taken out before training; {summary['protocol']['dataset']}, seed "
        f"{summary['seed']}, test, unfiltered, NDCG@20; {summary['devices']}.",
        "",
        "| new items back | known targets | bare | semantic | new targets | bare | semantic |",
        "|---|---|---|---|---|---|---|",
    ]
    for level in summary["levels"]:
        cells = [f"{level['items']} ({level['share']:.0%})"]
        for kind in ("known", "new"):
            cells.append(f"{level['queries'][kind]:,}")
            for method in ("bare", "semantic"):
                found = level["metrics"][method]["unfiltered"].get(kind)
                cells.append("–" if found is None else number(found["NDCG@20"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
