"""What the reader attends to, over all test users: an HTML section."""

from collections.abc import Mapping
from html import escape
from typing import Any

from raserec_jax.report.tables import number

CHANNEL_LABELS = {
    "history_to_target": "Channel 1: compares histories, reads what followed",
    "target_to_history": "Channel 2: compares what followed, reads histories",
}


def attention_of(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the results tell of the attention; empty if it was not computed."""
    stage = (results.get("stages") or {}).get("finetune") or {}
    return stage.get("attention") or {}


def attention_section(results: Mapping[str, Any]) -> str:
    """How evenly each channel reads, and its weight on memories of the item that came next; "" without attention."""
    attention = attention_of(results)
    channels = attention.get("channels") or {}
    if not channels:
        return ""
    told = attention.get("next_item") or {}
    ranks = max(len(channel.get("mean") or []) for channel in channels.values())
    rows = "".join(_row(name, channel, told) for name, channel in channels.items())
    share = (
        f" Of {attention['queries']:,} test users {told['queries']:,} retrieved memories of the item that they took "
        f"next (and others); chance is the share of these among the memories, {number(told['share'])}."
        if told.get("queries")
        else " No test user retrieved a memory of the item that was taken next."
    )
    return (
        "<section><h2>Attention over memories</h2>"
        '<p class="soft">Weights of the last read, mean over heads. Entropy is relative to that of uniform weights: '
        "at 1 the reader takes the mean of what was retrieved. The weight on memories of the next item is marked where "
        f"its 95% interval leaves out chance.{share}</p>"
        '<div class="scroll"><table><thead><tr><th></th><th>entropy</th><th>weight at rank 1</th>'
        f"<th>at rank {ranks}</th>"
        "<th>on the next item</th><th>interval</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _row(name: str, channel: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    mean = channel.get("mean") or [None]
    found = channel.get("next_item")
    cells = [
        f"<td>{escape(CHANNEL_LABELS.get(name, name))}</td>",
        f"<td>{number(channel.get('entropy'))}</td>",
        f"<td>{number(mean[0])}</td>",
        f"<td>{number(mean[-1])}</td>",
    ]
    if found:
        sure = found["low"] > told["share"] or found["high"] < told["share"]
        mark = ' class="best"' if sure else ""
        interval = f"{number(found['low'])} to {number(found['high'])}"
        cells += [f"<td{mark}>{number(found['mass'])}</td>", f"<td>{interval}</td>"]
    else:
        cells += ["<td>–</td>", "<td>–</td>"]
    return f"<tr>{''.join(cells)}</tr>"
