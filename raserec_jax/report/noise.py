"""What survives wrong items in the histories: an HTML section."""

from collections.abc import Mapping
from html import escape
from typing import Any

from raserec_jax.report.tables import HEADLINE_METRIC, PROTOCOLS, STAGE_LABELS, number


def noise_section(results: Mapping[str, Any]) -> str:
    """The headline metric by share of replaced items, a row per stage and protocol; "" where it was not computed."""
    stages = results.get("stages") or {}
    noisy = {name: stages[name] for name in STAGE_LABELS if (stages.get(name) or {}).get("noise")}
    shares = sorted({share for stage in noisy.values() for share in stage["noise"]}, key=float)
    if not shares:
        return ""
    rows = []
    for protocol in PROTOCOLS:
        for name, stage in noisy.items():
            found = [stage.get("test"), *(stage["noise"].get(share) for share in shares)]
            values = [((one or {}).get(protocol) or {}).get(HEADLINE_METRIC) for one in found]
            cells = "".join(f"<td>{number(value)}</td>" for value in values)
            label = escape(f"{STAGE_LABELS[name]}, {protocol}")
            rows.append(f'<tr class="{escape(name)}"><td>{label}</td>{cells}</tr>')
    head = "".join(f"<th>{100 * float(share):g}%</th>" for share in ("0", *shares))
    return (
        "<section><h2>Noise in the histories</h2>"
        f'<p class="soft">Test {HEADLINE_METRIC} with a share of the items of each history replaced by random ones; '
        "the memory has none.</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )
