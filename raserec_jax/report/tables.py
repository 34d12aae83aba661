"""Results as rows and sentences, and as a plain text table for the terminal.

All reads of the layout of results.json are here; whatever a run has not made is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

PROTOCOLS = ("unfiltered", "filtered")
COLUMNS = tuple(f"{metric}@{k}" for k in (5, 10, 20) for metric in ("HR", "NDCG", "MRR"))
HEADLINE_METRIC = "NDCG@10"
MINUS = "\N{MINUS SIGN}"
STAGE_LABELS = {
    "pretrain": "Stage 1",
    "control": "Control",
    "mixing": "Mixing",
    "finetune": "RaSeRec",
    "combined": "RaSeRec + mixing",
}
_WITH_MEMORY = ("mixing", "finetune", "combined")
BASELINE_LABELS = {
    "popularity": "Popularity",
    "recent_popularity": "Recent popularity",
    "item_knn": "Item kNN",
    "markov": "Markov chain",
    "markov_knn": "Markov + kNN",
}


class Row(NamedTuple):
    """One line of a table.

    Fields:
      label: what a person reads.
      stage: a key of STAGE_LABELS, or "baseline".
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
        # Only a test may use another bank than the training one.
        told = bank if stage in _WITH_MEMORY and split == "test" else None
        if split == "test" and found.get("test_train_bank"):
            yield Row(f"{label}, bank train", stage, found["test_train_bank"])
            told = "train+valid"
        if found.get(split):
            yield Row(f"{label}, bank {told}" if told else label, stage, found[split])


def _baseline_rows(results: Mapping[str, Any], split: str) -> Iterator[Row]:
    baselines = results.get("baselines") or {}
    known = [name for name in BASELINE_LABELS if name in baselines]
    for name in [*known, *(name for name in baselines if name not in known)]:
        found = baselines[name] or {}
        label = BASELINE_LABELS.get(name, name.replace("_", " "))
        # A baseline has no validation of its own unless it says so.
        metrics = found.get(split) or (split == "test" and "unfiltered" in found and found)
        with_valid = found.get("test_with_valid") if split == "test" else None
        if metrics:
            yield Row(f"{label}, counts train" if with_valid else label, "baseline", metrics)
        if with_valid:  # as the bank "train+valid" of the stages with memory
            yield Row(f"{label}, counts train+valid", "baseline", with_valid)


def best_values(rows: list[Row], protocol: str) -> dict[str, float]:
    """Metric -> the highest value among the rows; nothing where there is one row only."""
    best = {}
    for metric in COLUMNS:
        values = [row.value(protocol, metric) for row in rows]
        values = [value for value in values if value is not None]
        if len(values) > 1:
            best[metric] = max(values)
    return best


class Gain(NamedTuple):
    """What a stage added over another, by the paired bootstrap over users.

    Fields:
      stage, against: keys of STAGE_LABELS.
      metrics: protocol -> metric -> {"mean", "low", "high"}.
    """

    stage: str
    against: str
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]


def gain_list(results: Mapping[str, Any]) -> list[Gain]:
    """RaSeRec's gain first, then those of the other stages that have one."""
    stages = results.get("stages") or {}
    found = {"finetune": stages.get("gain") or {}}
    found |= {name: (stages.get(name) or {}).get("gain") or {} for name in ("combined", "mixing")}
    against = found["finetune"].get("against", "control")
    return [
        Gain(stage, gain.get("against", against), _by_protocol(gain))
        for stage, gain in found.items()
        if _by_protocol(gain)
    ]


def _by_protocol(gain: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that stand outside a protocol are unfiltered."""
    outside = {name: part for name, part in gain.items() if "@" in name and part}
    parts = {"unfiltered": gain.get("unfiltered") or outside, "filtered": gain.get("filtered")}
    return {protocol: part for protocol, part in parts.items() if part}


def headline(results: Mapping[str, Any], protocol: str = "unfiltered") -> str:
    """What memory added, in one sentence."""
    reached = _test_values(results, protocol)
    name = f"test {HEADLINE_METRIC}, {protocol}"
    if "finetune" not in reached:
        if "pretrain" not in reached:
            return "No test results yet."
        return f"Stage 1 reached {number(reached['pretrain'])} ({name}); RaSeRec has not run."
    gain = next((gain for gain in gain_list(results) if gain.stage == "finetune"), None)
    interval = gain and gain.metrics.get(protocol, {}).get(HEADLINE_METRIC)
    if interval:
        sentence = _gain_text(interval, reached.get(gain.against), gain.against)
        return f"{_verdict(interval)}: {sentence} ({name})."
    if "control" in reached:
        return (
            f"RaSeRec reached {number(reached['finetune'])}, the same encoder trained as long "
            f"without memory {number(reached['control'])} ({name}); no interval was computed."
        )
    return f"RaSeRec reached {number(reached['finetune'])} ({name}); no control has run."


def _test_values(results: Mapping[str, Any], protocol: str) -> dict[str, float]:
    """Stage -> headline metric, for the stages that have it; the largest bank of a stage."""
    rows = {row.stage: row for row in table_rows(results, "test")}  # the later row wins
    values = {stage: row.value(protocol, HEADLINE_METRIC) for stage, row in rows.items()}
    return {stage: value for stage, value in values.items() if value is not None}


def baseline_sentence(results: Mapping[str, Any]) -> str:
    """The best baseline on the test by each protocol; "" without baselines."""
    rows = list(_baseline_rows(results, "test"))
    best = []
    for protocol in PROTOCOLS:
        reached = [row for row in rows if row.value(protocol, HEADLINE_METRIC) is not None]
        if reached:
            row = max(reached, key=lambda row: row.value(protocol, HEADLINE_METRIC))
            best.append(f"{row.label}: {number(row.value(protocol, HEADLINE_METRIC))} {protocol}")
    return f"Best baseline by test {HEADLINE_METRIC}: {'; '.join(best)}." if best else ""


def _gain_text(gain: Mapping[str, Any], base: float | None, against: str) -> str:
    over = {"control": "the same encoder trained as long without memory", "pretrain": "stage 1"}
    return (
        f"{signed(gain['mean'])}{_relative(gain, base)} over {over.get(against, against)}, "
        f"95% interval {signed(gain['low'])} to {signed(gain['high'])}"
    )


def _verdict(gain: Mapping[str, Any]) -> str:
    if gain["low"] > 0:
        return "Memory helped"
    return "Memory hurt" if gain["high"] < 0 else "Memory made no clear difference"


def _relative(gain: Mapping[str, Any], base: float | None) -> str:
    return f" ({100 * gain['mean'] / base:+.1f}%)".replace("-", MINUS) if base else ""


def number(value: float | None) -> str:
    """Four digits, as the papers print metrics; a dash for what is absent."""
    return "–" if value is None else f"{value:.4f}"


def signed(value: float, digits: int = 4) -> str:
    """With a sign, and a real minus."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def format_results_table(results: Mapping[str, Any]) -> str:
    """The test table for a terminal, both protocols, and what memory added."""
    rows = table_rows(results, "test")
    width = max([len(row.label) for row in rows], default=0) + 2
    lines = []
    for protocol in PROTOCOLS:
        best = best_values(rows, protocol)
        head = f"test, {protocol}"
        lines.append(f"{head:<{width}}" + "".join(f"{column:>8}" for column in COLUMNS))
        for row in rows:
            cells = [_text_cell(row.value(protocol, c), best.get(c)) for c in COLUMNS]
            lines.append(f"{row.label:<{width}}" + "".join(cells))
        lines.append("")
    if any(best_values(rows, protocol) for protocol in PROTOCOLS):
        lines.append("* best of its column")
    lines += [line for line in (baseline_sentence(results), headline(results)) if line]
    return "\n".join([*lines, *_other_gains(results)])


def _other_gains(results: Mapping[str, Any]) -> Iterator[str]:
    """A line for each further stage whose gain was computed."""
    reached = _test_values(results, "unfiltered")
    for stage, against, metrics in gain_list(results):
        interval = metrics.get("unfiltered", {}).get(HEADLINE_METRIC)
        if stage != "finetune" and interval:
            sentence = _gain_text(interval, reached.get(against), against)
            yield f"{STAGE_LABELS[stage]}: {sentence}."


def _text_cell(value: float | None, best: float | None) -> str:
    return f"{number(value):>7}" + ("*" if value is not None and value == best else " ")
