"""Contestants in turns, and what becomes of their times; no clock is asserted."""

import numpy as np
import pytest

from raserec_jax.benchmarks import contest
from raserec_jax.benchmarks.ceilings import Ceilings
from raserec_jax.benchmarks.contest import (
    Contestant,
    Line,
    alternate,
    measure,
    paired_share,
    with_shares,
)
from raserec_jax.benchmarks.counting import Pass, Product, Work

WORK = Work((Product(10, 10, 10),), (Product(10, 10, 5),), exps=200, bytes=4800)


class Fixed(Ceilings):
    """2,000 FLOP/s of one shape and 500 of the other, 1,000 exponentials and 8,000 bytes a second."""

    def __init__(self, square=2000.0):
        super().__init__(square=8)
        self.probed = 0
        self.rates = {
            ("product", (1, 10, 10, 10, False)): 2000.0,
            ("product", (1, 10, 10, 5, False)): 500.0,
            ("product", (1, 8, 8, 8, False)): square,
            ("exps", ()): 1000.0,
            ("pass", ("compare", 3, 100)): 1000.0,
            ("bytes", ()): 8000.0,
        }

    def probe(self, work):
        """Each time what is known, times 1, 2, 3 and so on."""
        self.probed += 1
        return {kind: rate * self.probed for kind, rate in self.rates.items()}


def test_all_run_in_turns_after_one_run_without_a_clock():
    order = []
    runs = [lambda name=name: order.append(name) for name in "abc"]
    timings = alternate(runs, 2, lambda: order.append("|"))
    assert "".join(order) == "abc|abc|bca|"
    assert [len(one.seconds) for one in timings] == [2, 2, 2]


def test_shares_of_the_ceilings():
    """2,000 FLOP in 4 s: 1 s of products, 2 s recomputed, .2 s exponentials, .6 s memory."""
    line = with_shares(Line("row", "what", "", "", seconds=4.0), WORK, Fixed(square=4000.0))
    assert (line.flops, line.exps, line.bytes) == (2000, 200, 4800)
    assert line.product_share == pytest.approx(0.25)
    assert line.with_recomputed == pytest.approx(0.75)
    assert line.square_share == pytest.approx(0.125)
    assert line.exps_share == pytest.approx(0.05)
    assert line.bytes_share == pytest.approx(0.15)
    assert line.together == pytest.approx(0.8)
    assert line.bound == "memory 15%, recomputed products 50%; counted work in all 80%"
    assert with_shares(line._replace(seconds=2.0), WORK, Fixed()).bound == "products"
    comparing = with_shares(
        line, WORK._replace(passes=(Pass("compare", 3, 100),)), Fixed(square=4000.0)
    )
    assert comparing.passes_share == pytest.approx(0.15 / 2)  # 300 at 1,000 a second
    # The passes take .3 s and hold the exponentials, which take .2.
    assert comparing.together == pytest.approx(0.825)


def test_the_first_is_what_the_others_are_compared_with(monkeypatch):
    times = iter([contest.Timing((4.0, 2.0), 1.5), contest.Timing((8.0, 9.0), 1.0)])

    def in_turns(runs, repetitions, between):
        for _ in range(repetitions + 1):
            between()
        return [next(times) for _ in runs]

    monkeypatch.setattr(contest, "alternate", in_turns)
    found = measure(
        "row",
        "small",
        "queries",
        [Contestant("ours", lambda: None, 10, WORK), Contestant("theirs", lambda: None, 5)],
        repetitions=2,
        ceilings=Fixed(),
    )
    assert [(line.seconds, line.median_s, line.rate, line.ratio) for line in found] == [
        (2.0, 3.0, 5.0, 1.0),
        (8.0, 8.5, 0.625, 8.0),
    ]
    assert found[0].product_share == pytest.approx(0.5) and found[1].product_share is None
    assert found[0].peak_bytes > 2**20 and found[0].device.startswith("cpu")


def test_a_round_is_held_against_the_probes_around_it():
    """1 s of products at the rate of the table; probes see 1, 2, 3 and 4 times that."""
    ceilings = Fixed()
    seen = [ceilings.probe(WORK) for _ in range(4)]
    shares = [1 / 1.5 / 2.0, 1 / 2.5 / 1.0, 1 / 3.5 / 0.5]
    found = paired_share(WORK, (2.0, 1.0, 0.5), seen, ceilings)
    assert found == pytest.approx(sorted(shares)[1])
    assert paired_share(None, (2.0, 1.0, 0.5), seen, ceilings) is None


def test_probes_measure_what_bounds_the_work():
    ceilings = Ceilings(probe_s=1e-4, stream_mib=1, square=8)
    recomputed = (Product(4, 4, 4, exact=True),)
    passes = tuple(Pass(what, 3, 7) for what in ("compare", "softmax", "gelu", "layer_norm"))
    seen = [ceilings.probe(WORK._replace(recomputed=recomputed, passes=passes)) for _ in range(2)]
    assert ceilings.rates == {kind: max(one[kind] for one in seen) for kind in seen[0]}
    assert set(ceilings.rates) == {
        ("product", (1, 10, 10, 10, False)),
        ("product", (1, 4, 4, 4, True)),
        ("product", (1, 8, 8, 8, False)),
        ("pass", ("compare", 3, 7)),
        ("pass", ("softmax", 3, 7)),
        ("pass", ("gelu", 3, 7)),
        ("pass", ("layer_norm", 3, 7)),
        ("exps", ()),
        ("bytes", ()),
    }
    assert all(np.isfinite(rate) and rate > 0 for rate in ceilings.rates.values())
    assert set(ceilings.told()) == {"square_flops_per_s", "bytes_per_s", "exps_per_s"}
