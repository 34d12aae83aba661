"""Contestants timed in turns, and what comes of it: a `Line` of the table for each.

All are run once before the clock starts (compilation). Then, round by round, each runs once and the ceilings are probed
once, so that a busy neighbour hits them alike. Minimum and median are told; rates and shares are those of the minimum
against the best that a probe saw. A probe is short and has better luck than a long run, so each round's share of what
the probes around it saw is told too: the median over rounds is what a busy host moves least.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from raserec_jax.benchmarks.ceilings import Ceilings
from raserec_jax.benchmarks.counting import Work, total
from raserec_jax.benchmarks.machine import device_name, forget_peak, peak_bytes

ENOUGH_OF_PRODUCTS = (
    0.4  # below this share of the product rate a line says what else it is bound by
)


class Contestant(NamedTuple):
    """One way to do the work.

    what: in words.  run: does it once and returns arrays to wait for.
    units: how many of the row's units (targets, queries, users) one run does.
    work: what one run needs; None = not counted.  temp_bytes: that the compiled program takes beside its arguments.
    note: what a reader has to know.
    """

    what: str
    run: Callable[[], Any]
    units: float
    work: Work | None = None
    temp_bytes: int | None = None
    note: str = ""


class Line(NamedTuple):
    """A line of the table; plain values, as JSON keeps them, None = not known.

    row: which measurement it belongs to; the first line of a row is ours and the one that the others are compared with.
    seconds, median_s: of one run, minimum and median of `repetitions`.  rate: units per second.
    ratio: how many times as long as the first line of the row takes for a unit.
    cores: CPU seconds by seconds of the fastest run.
    flops, bytes, exps: counted for one run.  product_share: of the rate of products of these shapes; with_recomputed:
    the same with what is computed again; square_share: of a large square product's rate; bytes_share, exps_share: of
    bandwidth and exponentials; passes_share: of such passes at these shapes.  together: products and passes, or where
    none are counted exponentials (the same units do them), or bytes, the larger.
    bound: in words.  temp_bytes, peak_bytes: of the program; of the process while the row was measured.
    curve, x: the curve that this is a point of, and where.  whole_s: seconds for all there is (an epoch, a test).
    paired_share: as product_share, the median over rounds, each against the probes before and after it.
    sent_bytes, sent_computed: what each device sends in a step, read from the compiled program and by arithmetic.
    """

    row: str
    what: str
    size: str
    unit: str
    device: str = ""
    units: float | None = None
    seconds: float | None = None
    median_s: float | None = None
    repetitions: int = 0
    cores: float | None = None
    rate: float | None = None
    ratio: float | None = None
    flops: float | None = None
    bytes: float | None = None
    exps: float | None = None
    product_share: float | None = None
    with_recomputed: float | None = None
    square_share: float | None = None
    bytes_share: float | None = None
    exps_share: float | None = None
    together: float | None = None
    bound: str = ""
    temp_bytes: int | None = None
    peak_bytes: int | None = None
    note: str = ""
    curve: str = ""
    x: float | None = None
    whole_s: float | None = None
    passes_share: float | None = None
    paired_share: float | None = None
    sent_bytes: float | None = None
    sent_computed: float | None = None


class Timing(NamedTuple):
    """seconds of every run; cores: CPU seconds by seconds of the fastest."""

    seconds: tuple[float, ...]
    cores: float


Seen = Mapping[tuple[str, tuple], float]
"""What one probe saw, as `Ceilings.probe` tells it."""


def measure(
    row: str,
    size: str,
    unit: str,
    contestants: Sequence[Contestant],
    *,
    repetitions: int,
    ceilings: Ceilings,
    curve: str = "",
    x: float | None = None,
) -> list[Line]:
    """Times the contestants in turns; the first of them is ours."""
    forget_peak()
    work = total([one.work for one in contestants if one.work is not None])
    seen: list[Seen] = []
    timings = alternate(
        [one.run for one in contestants], repetitions, lambda: seen.append(ceilings.probe(work))
    )
    peak = peak_bytes()
    lines = []
    first = min(timings[0].seconds) / contestants[0].units
    for one, timing in zip(contestants, timings, strict=True):
        seconds = min(timing.seconds)
        line = Line(
            row,
            one.what,
            size,
            unit,
            device_name(),
            one.units,
            seconds,
            statistics.median(timing.seconds),
            repetitions,
            timing.cores,
            one.units / seconds,
            seconds / one.units / first,
            temp_bytes=one.temp_bytes,
            peak_bytes=peak,
            note=one.note,
            curve=curve,
            x=x,
        )
        line = line._replace(paired_share=paired_share(one.work, timing.seconds, seen, ceilings))
        lines.append(with_shares(line, one.work, ceilings))
    return lines


def paired_share(
    work: Work | None, seconds: Sequence[float], seen: Sequence[Seen], ceilings: Ceilings
) -> float | None:
    """The median over rounds of the share of the products' rate; None where nothing was counted.

    Args:
      seconds: of each round.
      seen: one probe more than there are rounds, before the first, between two, and after the last.
    """
    if work is None:
        return None
    shares = []
    for one, before, after in zip(seconds, seen[:-1], seen[1:], strict=True):
        rates = {kind: (rate + after[kind]) / 2 for kind, rate in before.items()}
        shares.append(ceilings.product_seconds(work.products, rates) / one)
    return statistics.median(shares)


def alternate(
    runs: Sequence[Callable[[], Any]], repetitions: int, between: Callable[[], None]
) -> list[Timing]:
    """Each run once without a clock, then all in turns `repetitions` times, `between` after each round."""
    for run in runs:
        jax.block_until_ready(run())
    between()
    found: list[list[tuple[float, float]]] = [[] for _ in runs]
    for round_ in range(repetitions):
        for place in range(len(runs)):
            place = (place + round_) % len(runs)
            began, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(runs[place]())
            seconds = time.perf_counter() - began
            found[place].append((seconds, (time.process_time() - cpu) / max(seconds, 1e-9)))
        between()
    return [Timing(tuple(s for s, _ in one), min(one)[1]) for one in found]


def with_shares(line: Line, work: Work | None, ceilings: Ceilings) -> Line:
    """The line with what was counted and the shares of the ceilings; as it is where nothing was counted."""
    if work is None:
        return line
    rates, seconds = ceilings.rates, line.seconds
    products = ceilings.product_seconds(work.products)
    again = ceilings.product_seconds(work.recomputed)
    exps = work.exps / rates["exps", ()] if work.exps else 0.0
    moved = work.bytes / rates["bytes", ()] if work.bytes else 0.0
    passes = ceilings.pass_seconds(work.passes)
    line = line._replace(
        flops=work.flops,
        bytes=work.bytes,
        exps=work.exps,
        product_share=products / seconds,
        with_recomputed=(products + again) / seconds,
        square_share=work.flops / ceilings.square_rate() / seconds,
        exps_share=exps / seconds,
        bytes_share=moved / seconds,
        passes_share=passes / seconds,
        together=max(products + again + max(exps, passes), moved) / seconds,
    )
    return line._replace(bound=bound_words(line))


def bound_words(line: Line) -> str:
    """What the line is bound by: products, or what else and how far that bound is reached."""
    if line.product_share >= ENOUGH_OF_PRODUCTS:
        return "products"
    others = {
        "exponentials": line.exps_share,
        "memory": line.bytes_share,
        "passes between products": line.passes_share,
    }
    other = max(others, key=others.get)
    words = f"{other} {others[other]:.0%}"
    if line.with_recomputed > line.product_share:
        words += f", recomputed products {line.with_recomputed - line.product_share:.0%}"
    return f"{words}; counted work in all {line.together:.0%}"
