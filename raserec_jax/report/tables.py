"""Results as rows and sentences, and as a plain text table for the terminal.

All reads of the layout of results.json are here; whatever a run has not made is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

PROTOCOLS = ("unfiltered", "filtered")
COLUMNS = tuple(f"{metric}@{k}" for k in (5, 10, 20) for metric in ("HR", "NDCG", "MRR"))
HEADLINE_METRIC = "NDCG@10"
STAGE_LABELS = {
    "pretrain": "Stage 1",
    "control": "Control",
    "mixing": "Mixing",
    "finetune": "RaSeRec",
}
BASELINE_LABELS = {"popularity": "Popularity", "item_knn": "Item kNN", "markov": "Markov chain"}


class Row(NamedTuple):
    """One line of a table.

    Fields:
      label: what a person reads.
      stage: "pretrain", "control", "mixing", "finetune" or "baseline".
      metrics: protocol -> metric -> value.
    """

    label: str
    stage: str
    metrics: Mapping[str, Mapping[str, float]]

    def value(self, protocol: str, metric: str) -> float | None:
        """One number, or None where it was not computed."""
        return (self.metrics.get(protocol) or {}).get(metric)


def table_rows(results: Mapping[str, Any], split: str) -> list[Row]:
    """What has metrics on `split` ("valid" or "test"): the stages, then the baselines."""
    return [*_stage_rows(results, split), *_baseline_rows(results, split)]


def _stage_rows(results: Mapping[str, Any], split: str) -> Iterator[Row]:
    stages = results.get("stages") or {}
    bank = (stages.get("memory") or {}).get("bank")
    for stage, label in STAGE_LABELS.items():
        found = stages.get(stage) or {}
        with_memory = stage in ("mixing", "finetune")
        if with_memory and split == "test" and found.get("test_train_bank"):
            yield Row(f"{label}, bank train", stage, found["test_train_bank"])
            bank = "train+valid"
        if found.get(split):
            # Validation targets are searched for in the training bank alone.
            told = with_memory and split == "test" and bank
            yield Row(f"{label}, bank {bank}" if told else label, stage, found[split])


def _baseline_rows(results: Mapping[str, Any], split: str) -> Iterator[Row]:
    for name, found in (results.get("baselines") or {}).items():
        found = found or {}
        # A baseline has no validation of its own unless it says so.
        metrics = found.get(split) or (split == "test" and "unfiltered" in found and found)
        if metrics:
            yield Row(BASELINE_LABELS.get(name, name.replace("_", " ")), "baseline", metrics)


def best_values(rows: list[Row], protocol: str) -> dict[str, float]:
    """Metric -> the highest value among the rows; nothing where there is one row only."""
    best = {}
    for metric in COLUMNS:
        values = [row.value(protocol, metric) for row in rows]
        values = [value for value in values if value is not None]
        if len(values) > 1:
            best[metric] = max(values)
    return best


def gains(results: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Protocol -> metric -> {"mean", "low", "high"}; a layout without protocols is unfiltered."""
    gain = (results.get("stages") or {}).get("gain") or {}
    nested = {protocol: gain[protocol] for protocol in PROTOCOLS if gain.get(protocol)}
    flat = {name: part for name, part in gain.items() if "@" in name and part}
    return nested or ({"unfiltered": flat} if flat else {})


def headline(results: Mapping[str, Any], protocol: str = "unfiltered") -> str:
    """What memory added, in one sentence."""
    rows = {row.stage: row for row in table_rows(results, "test")}  # the last bank of a stage wins
    values = {
        stage: rows[stage].value(protocol, HEADLINE_METRIC) if stage in rows else None
        for stage in STAGE_LABELS
    }
    name = f"test {HEADLINE_METRIC}, {protocol}"
    if values["finetune"] is None:
        if values["pretrain"] is None:
            return "No test results yet."
        return f"Stage 1 reached {number(values['pretrain'])} ({name}); no memory stage has run."
    gain = gains(results).get(protocol, {}).get(HEADLINE_METRIC)
    if values["control"] is None:
        return f"RaSeRec reached {number(values['finetune'])} ({name}); no control has run."
    if not gain:
        return (
            f"RaSeRec reached {number(values['finetune'])}, the same encoder trained as long "
            f"without memory {number(values['control'])} ({name}); no interval was computed."
        )
    return (
        f"{_verdict(gain)}: {signed(gain['mean'])}{_relative(gain, values['control'])} over the "
        f"same encoder trained as long without memory, 95% interval {signed(gain['low'])} to "
        f"{signed(gain['high'])} ({name})."
    )


def _verdict(gain: Mapping[str, float]) -> str:
    if gain["low"] > 0:
        return "Memory helped"
    return "Memory hurt" if gain["high"] < 0 else "Memory made no clear difference"


def _relative(gain: Mapping[str, float], control: float) -> str:
    return f" ({100 * gain['mean'] / control:+.1f}%)" if control > 0 else ""


def number(value: float | None) -> str:
    """Four digits, as the papers print metrics; a dash for what is absent."""
    return "–" if value is None else f"{value:.4f}"


def signed(value: float) -> str:
    """With a sign, and a real minus."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def format_results_table(results: Mapping[str, Any]) -> str:
    """The test table for a terminal, both protocols and what memory added; 102 columns wide."""
    rows = table_rows(results, "test")
    lines = []
    for protocol in PROTOCOLS:
        best = best_values(rows, protocol)
        head = f"test, {protocol}"
        lines.append(f"{head:<30}" + "".join(f"{column:>8}" for column in COLUMNS))
        for row in rows:
            cells = [_text_cell(row.value(protocol, c), best.get(c)) for c in COLUMNS]
            lines.append(f"{row.label:<30}" + "".join(cells))
        lines.append("")
    if any(best_values(rows, protocol) for protocol in PROTOCOLS):
        lines.append("* best of its column")
    return "\n".join([*lines, headline(results)])


def _text_cell(value: float | None, best: float | None) -> str:
    return f"{number(value):>7}" + ("*" if value is not None and value == best else " ")
