"""How fast, how much and at what cost a language model is asked."""

import threading
import time

from raserec_jax.errors import Interrupted
from raserec_jax.semantic.answer_cache import Answer
from raserec_jax.semantic.prompts import Prompt

CHARS_PER_TOKEN = 4  # of English text, for estimates


class Pace:
    """Lets calls begin no faster than so many per minute."""

    def __init__(self, calls_per_minute: int | float):
        self._gap_s = 60.0 / calls_per_minute if calls_per_minute else 0.0
        self._next = 0.0
        self._mutex = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Waits for this call's turn, or until `stop` is set."""
        if not self._gap_s:
            return
        with self._mutex:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + self._gap_s
        stop.wait(start - now)


class Budget:
    """Books each call with the most it can cost before it is sent, so that many at once do not go beyond."""

    def __init__(self, settings):
        self._settings = settings
        self._changed = threading.Condition()
        self._calls, self._under_way, self._cost = 0, 0, 0.0

    def take(self, prompt: Prompt) -> float:
        """Books a call; returns the cost booked. Waits for calls under way if what they leave may be enough.

        Raises:
          Interrupted: the budget is used up.
        """
        booked = cost_of(estimated_tokens(prompt), self._settings.max_answer_tokens, self._settings)
        with self._changed:
            while self._is_beyond(booked) and self._under_way:
                self._changed.wait()
            if self._is_beyond(booked):
                raise Interrupted(
                    f"the budget of this run is used up ({self._calls:,} calls, cost about {self._cost:,.4g}); "
                    "answers are kept, run again to go on"
                )
            self._calls += 1
            self._under_way += 1
            self._cost += booked
        return booked

    def give_back(self, booked: float) -> None:
        """A call without an answer does not count."""
        self._settle(-1, -booked)

    def spend(self, booked: float, answer: Answer) -> None:
        """Puts what an answer did cost in place of what was booked."""
        self._settle(0, cost_of(answer.tokens_in, answer.tokens_out, self._settings) - booked)

    def _is_beyond(self, booked: float) -> bool:
        settings = self._settings
        too_many = 0 < settings.max_calls <= self._calls
        return too_many or 0 < settings.max_cost < self._cost + booked

    def _settle(self, calls: int, cost: float) -> None:
        with self._changed:
            self._calls += calls
            self._cost += cost
            self._under_way -= 1
            self._changed.notify_all()


def cost_of(tokens_in: int, tokens_out: int, settings) -> float:
    """In the unit of the prices of `semantic.llm`."""
    return (tokens_in * settings.price_in + tokens_out * settings.price_out) / 1e6


def estimated_tokens(prompt: Prompt) -> int:
    """Of a prompt, by its length."""
    return -(-(len(prompt.system) + len(prompt.user)) // CHARS_PER_TOKEN)
