"""For whom a model works, what it recommends, and what the order of a history is worth to it: HTML sections."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from raserec_jax.report.tables import (
    BASELINE_LABELS,
    HEADLINE_METRIC,
    PROTOCOLS,
    STAGE_LABELS,
    number,
    signed,
)

_TITLES = {
    "popularity": "Training interactions of the target: groups of equal mass",
    "length": "Items of the history",
    "length_quantiles": "Items of the history: groups of equal size",
}
# Of the baselines the strongest; the others would crowd the table.
_MODELS = {**STAGE_LABELS, "markov_knn": BASELINE_LABELS["markov_knn"]}


def groups_section(results: Mapping[str, Any]) -> str:
    """The headline metric by group and model, and RaSeRec's gain in each; "" without groups."""
    groups = results.get("groups") or {}
    tables = [
        f"<h3>{escape(title)}</h3>"
        + "".join(_group_table(groups[name], protocol) for protocol in PROTOCOLS)
        for name, title in _TITLES.items()
        if groups.get(name)
    ]
    if not tables:
        return ""
    return (
        f"<section><h2>Groups of test users</h2>"
        f'<p class="soft">Test {HEADLINE_METRIC}; the best of each group is marked. The gain is RaSeRec minus '
        f"{_against(groups)}, with its 95% interval by paired bootstrap over the users of the group, marked where "
        f'it leaves out zero.</p><div class="scroll">{"".join(tables)}</div></section>'
    )


def recommended_section(results: Mapping[str, Any]) -> str:
    """Coverage and popularity of what each stage recommends; "" where it was not computed."""
    rows = []
    for stage, label in STAGE_LABELS.items():
        found = ((results.get("stages") or {}).get(stage) or {}).get("recommended")
        if found:
            cells = [
                _cell(found.get(protocol) or {}, kind)
                for kind in ("coverage", "mean_popularity")
                for protocol in PROTOCOLS
            ]
            rows.append(_row(label, cells, stage))
    if not rows:
        return ""
    taken = _mean_target_popularity(results)
    if taken is not None:
        rows.append(
            _row("What users took", ["–", "–", f"{taken:,.1f}", f"{taken:,.1f}"], "baseline")
        )
    head = "".join(
        f"<th>{name}, {protocol}</th>"
        for name in ("coverage@10", "mean popularity@10")
        for protocol in PROTOCOLS
    )
    return (
        "<section><h2>What is recommended</h2>"
        '<p class="soft">Coverage: share of the catalogue that is in the ten best of any test user. Mean popularity: '
        "training interactions of the items in these lists, and of the items that users took next.</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def order_section(results: Mapping[str, Any]) -> str:
    """Stage 1 with shuffled histories beside its test; "" where it was not computed."""
    stage = (results.get("stages") or {}).get("pretrain") or {}
    shuffled, ordered = stage.get("shuffled_history") or {}, stage.get("test") or {}
    rows = [
        _row(f"{metric}, {protocol}", cells)
        for protocol in PROTOCOLS
        for metric in (HEADLINE_METRIC, "HR@10")
        for cells in _order_cells(ordered, shuffled, protocol, metric)
    ]
    if not rows:
        return ""
    return (
        "<section><h2>What the order is worth</h2>"
        '<p class="soft">Stage 1 on the test, once more with the items of each history in a random order: what it '
        "loses is what it knew from the order. The change has its 95% interval by paired bootstrap.</p>"
        '<div class="scroll"><table><thead><tr><th></th><th>in order</th><th>shuffled</th><th>change</th>'
        f"<th>interval</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _group_table(groups: Sequence[Mapping[str, Any]], protocol: str) -> str:
    present = {name for group in groups for name in group.get("models") or {}}
    models = [name for name in _MODELS if name in present]
    gains = any(group.get("gain") for group in groups)
    head = "".join(f"<th>{escape(_MODELS[name])}</th>" for name in models)
    if gains:
        head += "<th>gain</th><th>interval</th>"
    rows = []
    for group in groups:
        found = group.get("models") or {}
        values = [
            ((found.get(name) or {}).get(protocol) or {}).get(HEADLINE_METRIC) for name in models
        ]
        reached = [value for value in values if value is not None]
        best = max(reached) if len(reached) > 1 else None
        cells = [f"<td>{group.get('queries', 0):,}</td>"]
        for value in values:
            mark = ' class="best"' if value is not None and value == best else ""
            cells.append(f"<td{mark}>{number(value)}</td>")
        if gains:
            cells.append(_gain_cells((group.get("gain") or {}).get(protocol)))
        rows.append(f"<tr><td>{escape(str(group.get('label', '')))}</td>{''.join(cells)}</tr>")
    return (
        f"<table><caption>{escape(protocol)}</caption><thead><tr><th></th><th>users</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _gain_cells(gain: Mapping[str, float] | None) -> str:
    if not gain:
        return "<td>–</td><td>–</td>"
    sure = ' class="best"' if gain["low"] > 0 or gain["high"] < 0 else ""
    return f"<td{sure}>{signed(gain['mean'])}</td><td>{_interval(gain)}</td>"


def _order_cells(ordered, shuffled, protocol: str, metric: str) -> Iterator[list[str]]:
    before = (ordered.get(protocol) or {}).get(metric)
    after = (shuffled.get(protocol) or {}).get(metric)
    if before is None or after is None:
        return
    change = shuffled.get("change") or {}
    change = (change if protocol == "unfiltered" else change.get(protocol) or {}).get(metric)
    told = [signed(change["mean"]), _interval(change)] if change else [signed(after - before), "–"]
    if before > 0:
        told[0] += f" ({signed(100 * (after / before - 1), 0)}%)"
    yield [number(before), number(after), *told]


def _against(groups: Mapping[str, Any]) -> str:
    for found in groups.values():
        for group in found or []:
            if group.get("gain"):
                against = group["gain"].get("against", "control")
                return {"control": "its control", "pretrain": "stage 1"}.get(against, against)
    return "its control"


def _mean_target_popularity(results: Mapping[str, Any]) -> float | None:
    found = [
        (group["queries"], group["mean"])
        for group in (results.get("groups") or {}).get("popularity") or []
        if group.get("queries") and group.get("mean") is not None
    ]
    users = sum(queries for queries, _ in found)
    return sum(queries * mean for queries, mean in found) / users if users else None


def _cell(found: Mapping[str, float], kind: str) -> str:
    value = next((value for name, value in found.items() if name.startswith(f"{kind}@")), None)
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if kind == "coverage" else f"{value:,.1f}"


def _interval(gain: Mapping[str, float]) -> str:
    return f"{signed(gain['low'])} to {signed(gain['high'])}"


def _row(label: str, cells: Sequence[str], kind: str = "") -> str:
    of = f' class="{escape(kind)}"' if kind else ""
    return f"<tr{of}><td>{escape(label)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
