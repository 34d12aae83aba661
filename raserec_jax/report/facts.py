"""Names and values as HTML lists: protocol, memory, choices, times."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any


def facts_section(title: str, facts: Mapping[str, Any] | None) -> str:
    """A section of the page, nested facts flattened; "" without facts."""
    listed = facts_list(dict(_flat(facts or {})))
    return f"<section><h2>{escape(title)}</h2>{listed}</section>" if listed else ""


def facts_list(facts: Mapping[str, Any]) -> str:
    """A definition list of what is not None; "" if nothing is."""
    lines = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_fact_text(str(name), value))}</dd>"
        for name, value in facts.items()
        if value is not None
    )
    return f"<dl>{lines}</dl>" if lines else ""


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} / ")
        else:
            yield f"{prefix}{name}", value


def _fact_text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or name == "seed":
        return str(value)
    if name.endswith(("_s", "seconds")) and "per_s" not in name and value >= 120:
        minutes, seconds = divmod(round(value), 60)
        return f"{value:,.0f} ({minutes} min {seconds:02d} s)"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
