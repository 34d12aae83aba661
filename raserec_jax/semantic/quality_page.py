"""The quality of neighbour tables as text for a terminal and as HTML for report.html; everything is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_SIDES = {"items": "Items", "histories": "Histories"}
_SHOWN = 5  # neighbours of an example
_LONGEST = 160


def quality_text(found: Mapping[str, Any]) -> str:
    """Lines for a terminal."""
    lines = [f"Semantic neighbours, pool {found['pool']}, {found['top_k']} each"]
    for side, label in _SIDES.items():
        part = found[side]
        lines.append(
            f"  {label}: {part['with_neighbors']:,} of {part['rows']:,} have neighbours; cosine of the first "
            f"{_number(part['mean_cosine'])}; of the same text {_percent(part['same_cosine'])}"
        )
        lines += [f"    same {name}: {_against(shares)}" for name, shares in part["same"].items()]
    lines.append(f"    items shared with the first neighbour: {_against(found['history_overlap'])}")
    for side, label in _SIDES.items():
        for example in found[side]["examples"]:
            lines += ["", f"{label}: {example['of'][:_LONGEST]}"]
            lines += [
                f"  {neighbor['cosine']:.3f}  {neighbor['is'][:_LONGEST]}"
                for neighbor in example["neighbors"][:_SHOWN]
            ]
    return "\n".join(lines)


def quality_section(found: Mapping[str, Any]) -> str:
    """A <section> for report.html."""
    rows = []
    for side, label in _SIDES.items():
        for name, shares in found[side]["same"].items():
            rows.append((f"{label}: same {name}", shares))
    rows.append(("Histories: items shared with the first", found["history_overlap"]))
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{_percent(shares['neighbors'])}</td><td>{_percent(shares['random'])}</td></tr>"
        for name, shares in rows
    )
    counts = " ".join(
        f"{label}: {found[side]['with_neighbors']:,} of {found[side]['rows']:,} have neighbours, mean cosine of the "
        f"first {_number(found[side]['mean_cosine'])}."
        for side, label in _SIDES.items()
    )
    return (
        "<section><h2>Semantic neighbours</h2>"
        f'<p class="soft">By text alone; pool {escape(found["pool"])}, {found["top_k"]} each. {escape(counts)}</p>'
        "<table><thead><tr><th></th><th>neighbours</th><th>random pairs</th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
        + "".join(_examples(label, found[side]["examples"]) for side, label in _SIDES.items())
        + "</section>"
    )


def quality_page(found: Mapping[str, Any], css: str) -> str:
    """A page of its own, with the style sheet of report.html."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Semantic neighbours</title><style>{css}</style></head><body><main>"
        f"<h1>Text</h1>{quality_section(found)}</main></body></html>\n"
    )


def _examples(label: str, examples: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for example in examples:
        hits = "".join(
            f"<li>{escape(neighbor['is'])} <small>{neighbor['cosine']:.3f}</small></li>"
            for neighbor in example["neighbors"][:_SHOWN]
        )
        parts.append(f'<div class="sample"><p>{escape(example["of"])}</p><ol>{hits}</ol></div>')
    return f"<h3>{label}</h3>{''.join(parts)}" if parts else ""


def _against(shares: Mapping[str, float | None]) -> str:
    return f"{_percent(shares['neighbors'])} of neighbours, {_percent(shares['random'])} of random pairs"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
