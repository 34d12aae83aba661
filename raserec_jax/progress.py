"""How far a stage is: a bar on a terminal, plain lines where the output is kept in a file.

    with Progress(total=20, desc="pretrain", unit="epoch") as progress:
        for epoch in range(20):
            progress.update(1, loss=6.1, ndcg=0.041)

Both show what is done, the rate, the time left and the latest metrics. Process 0 only.
"""

import io
import sys
import time
from typing import Any

import jax
from tqdm import tqdm


class Progress:
    """Progress over steps or epochs, as a context manager.

    Args:
      total: number of units in all, those done before a resume included; None: unknown.
      desc: what is going on, such as "pretrain".
      unit: what is counted, in the singular: "epoch", "step", "user".
      initial: units done before, by a run that this one resumes.
      line_every: without a terminal, one line each time this many units are done; None: every epoch
        if the unit is "epoch", else only at the end.
      stream: where to; None: standard error.
    """

    def __init__(
        self,
        total: int | None,
        desc: str,
        unit: str,
        *,
        initial: int = 0,
        line_every: int | None = None,
        stream: io.TextIOBase | None = None,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._shown = jax.process_index() == 0
        self._total, self._desc, self._unit = total, desc, unit
        self._initial = self._done = initial
        self._line_every = line_every or (1 if unit == "epoch" else None)
        self._printed = None
        self._metrics: dict[str, Any] = {}
        self._start = time.perf_counter()
        self._bar = self._make_bar() if self._shown and self._stream.isatty() else None

    def _make_bar(self):
        return tqdm(
            total=self._total,
            desc=self._desc,
            unit=self._unit,
            initial=self._initial,
            file=self._stream,
            dynamic_ncols=True,
            leave=True,
        )

    def update(self, n: int = 1, **metrics: Any) -> None:
        """Counts n more units and shows the metrics; JAX scalars are fetched only if shown."""
        before = self._done
        self._done += n
        self._metrics.update(metrics)
        if self._bar is not None:
            if metrics:
                self._bar.set_postfix_str(_metrics_text(self._metrics), refresh=False)
            self._bar.update(n)
        elif self._line_every and before // self._line_every != self._done // self._line_every:
            self._print_state()

    def line(self, text: str) -> None:
        """Prints a line of its own, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._shown:
            print(text, file=self._stream, flush=True)

    def _print_state(self):
        self._printed = self._done
        self.line(self._state_text(time.perf_counter() - self._start))

    def _state_text(self, seconds: float) -> str:
        plural = self._unit if self._done == 1 and self._total is None else f"{self._unit}s"
        parts = [f"{self._done}{'' if self._total is None else f'/{self._total}'} {plural}"]
        if self._metrics:
            parts.append(_metrics_text(self._metrics))
        done_now = self._done - self._initial
        if done_now > 0:
            parts.append(_rate_text(done_now / max(seconds, 1e-9), self._unit))
            if self._total is not None and self._total > self._done:
                left = (self._total - self._done) * seconds / done_now
                parts.append(f"{tqdm.format_interval(left)} left")
            else:
                parts.append(f"took {tqdm.format_interval(seconds)}")
        return f"{self._desc}: " + ", ".join(parts)

    def close(self) -> None:
        """Ends the bar, or prints the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._done != self._printed and self._done > self._initial:
            self._print_state()
        self._shown, self._bar = False, None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _rate_text(rate: float, unit: str) -> str:
    return f"{rate:,.1f} {unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"


def _metrics_text(metrics: dict[str, Any]) -> str:
    """loss 6.1234 NDCG@10 .0415: metrics below 1 with four digits, as papers print them."""
    return " ".join(f"{name} {_number_text(value)}" for name, value in metrics.items())


def _number_text(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):.4f}"
