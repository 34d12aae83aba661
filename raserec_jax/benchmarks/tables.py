"""The table as CSV (everything), Markdown (what a person reads) and lines of text."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from raserec_jax.benchmarks.contest import Line
from raserec_jax.benchmarks.curves import curve_lines, slopes
from raserec_jax.report.seeds import markdown_text

_HEADS = (
    *(
        "row",
        "what",
        "rate",
        "s, min (median)",
        "s, whole",
        "x ours",
        "of products",
        "in pairs",
        "of square",
    ),
    *("of exps", "of bytes", "together", "bound by", "temp MiB", "peak MiB", "note"),
)
DASH = "–"


def benchmark_csv(lines: Sequence[Line]) -> str:
    """A line per contestant, all that is known of it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Line._fields)
    for line in lines:
        writer.writerow(["" if value is None else _digits(value) for value in line])
    return out.getvalue()


def _digits(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def benchmark_markdown(
    lines: Sequence[Line], identity: Mapping[str, Any], ceilings: Mapping[str, float]
) -> str:
    """The rows, then the curves with their slopes."""
    told = ", ".join(f"{name} {value}" for name, value in identity.items())
    text = ["# Benchmark", "", f"{told}."]
    if ceilings:
        shown = {
            "square_flops_per_s": "large square products {:,.0f} GFLOP/s",
            "bytes_per_s": "triad {:,.1f} GB/s",
            "exps_per_s": "exponentials {:,.2f} G/s",
        }
        words = [shown[name].format(value / 1e9) for name, value in ceilings.items()]
        text += [f"Ceilings, the best seen in the last run: {'; '.join(words)}."]
    text += [
        "",
        "Times are of one run of each contestant, minimum and median, taken in turns; rates and shares are those of "
        "the minimum. *x ours*: time for a unit by that of the row's first line. Shares: of the rate at products of "
        "the same shapes (*in pairs*: median over rounds, each against the probes around it), of a large square "
        "product, of exponentials, of memory bandwidth; *together*: products, recomputed ones and what lies between "
        "them (passes or exponentials), or bytes, whichever is more.",
        "",
        f"| {' | '.join(_HEADS)} |",
        "|---" * len(_HEADS) + "|",
    ]
    rows, sizes = [line for line in lines if not line.curve], {}
    for line in rows:
        text.append(f"| {' | '.join(_cells(line))} |")
        if line.size:
            sizes.setdefault((line.row, line.size), None)
    text += ["", *(f"- {row}: {markdown_text(size)}" for row, size in sizes), ""]
    for name, points in curve_lines(lines).items():
        text += [
            f"## {name}",
            "",
            f"Slope in log-log: {slope_words(points)}.",
            "",
            "| x | rate | µs a unit | of products | together | temp MiB | peak MiB | note |",
            "|---" * 8 + "|",
        ]
        for one in points:
            micro = DASH if not one.rate else f"{1e6 / one.rate:,.3g}"
            cells = [f"{one.x:,.0f}", _rate(one), micro, _share(one.product_share)]
            cells += [_share(one.together), _mib(one.temp_bytes), _mib(one.peak_bytes)]
            text.append(f"| {' | '.join([*cells, markdown_text(one.note)])} |")
        text.append("")
    return "\n".join(text)


def slope_words(points: Sequence[Line]) -> str:
    """How time for a unit and memory of a curve grow."""
    found = slopes(points)
    named = (("seconds", found["seconds"]), ("bytes", found["temp_bytes"]))
    # + 0.0: no -0.00.
    words = [
        f"{what} grow as x^{round(value, 2) + 0.0:.2f}"
        for what, value in named
        if value is not None
    ]
    return "; ".join(words) or "a single point"


def line_words(line: Line) -> str:
    """One line of text for the terminal."""
    if line.seconds is None:
        return f"{line.what}: {line.note}"
    words = [
        f"{line.what}: {_rate(line)}",
        f"{_seconds(line.seconds)} (median {_seconds(line.median_s)})",
    ]
    if line.whole_s is not None:
        words.append(f"all in {line.whole_s:,.3g} s")
    if line.ratio is not None and line.ratio != 1.0:
        words.append(f"{line.ratio:.3g} x ours")
    if line.product_share is not None:
        paired = "" if line.paired_share is None else f" ({line.paired_share:.0%} in pairs)"
        words.append(f"{line.product_share:.0%} of products{paired}")
        words.append(f"bound by {line.bound}")
    if line.temp_bytes is not None:
        words.append(f"temp {_mib(line.temp_bytes)} MiB")
    return ", ".join([*words, line.note] if line.note else words)


def _cells(line: Line) -> list[str]:
    times = DASH
    if line.seconds is not None:
        times = f"{_seconds(line.seconds)} ({_seconds(line.median_s)}) of {line.repetitions}"
    return [
        line.row,
        markdown_text(line.what),
        _rate(line),
        times,
        DASH if line.whole_s is None else f"{line.whole_s:,.3g}",
        DASH if line.ratio is None else f"{line.ratio:.3g}",
        _share(line.product_share),
        _share(line.paired_share),
        _share(line.square_share),
        _share(line.exps_share),
        _share(line.bytes_share),
        _share(line.together),
        line.bound or DASH,
        _mib(line.temp_bytes),
        _mib(line.peak_bytes),
        markdown_text(line.note),
    ]


def _seconds(value: float) -> str:
    return f"{value:,.3g} s" if value >= 1 else f"{1e3 * value:,.3g} ms"


def _rate(line: Line) -> str:
    return DASH if not line.rate else f"{line.rate:,.3g} {line.unit}/s".replace("e+", "e")


def _share(value: float | None) -> str:
    return DASH if value is None else f"{value:.0%}"


def _mib(value: int | None) -> str:
    return DASH if value is None else f"{value / 2**20:,.0f}"
