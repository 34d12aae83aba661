"""Asks a language model behind any OpenAI-compatible endpoint; the only file that imports its client, and lazily.

Calls run side by side under a rate limit; what may pass is tried again with growing pauses; every answer is in the
cache before it counts. The model has no tools, an answer is text and is never parsed or executed. The key comes from
the environment and stands in no message, log or file.
"""

import concurrent.futures
import random
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.progress import Progress
from raserec_jax.semantic.answer_cache import Answer, AnswerCache, answer_key
from raserec_jax.semantic.cleaning import clean_text
from raserec_jax.semantic.llm_endpoint import key_for
from raserec_jax.semantic.llm_limits import (
    CHARS_PER_TOKEN,
    Budget,
    Pace,
    cost_of,
    estimated_tokens,
)
from raserec_jax.semantic.prompts import Prompt

_LONGEST_PAUSE_S = 60.0
# So many inputs in a row given up on: the endpoint is down, not the input bad.
_GIVE_UP_AFTER = 5
_MESSAGE_CHARS = 160


class Estimate(NamedTuple):
    """What a run would ask: calls not in the cache, tokens in and out (at most), cost in the unit of the prices."""

    calls: int
    cached: int
    tokens_in: int
    tokens_out: int
    cost: float

    def __str__(self) -> str:
        cost = f", about {self.cost:,.2f} in the unit of the prices" if self.cost else ""
        return (
            f"{self.calls:,} calls ({self.cached:,} more are answered already), about {self.tokens_in:,} tokens in "
            f"and at most {self.tokens_out:,} out{cost}"
        )


class Outcome(NamedTuple):
    """answers: one per prompt, None where there is none.  failures: prompt number -> why."""

    answers: list[str | None]
    failures: dict[int, str]


class _NoAnswerError(Exception):
    """This input has no answer; others may."""


class _UnavailableError(_NoAnswerError):
    """No answer after all tries, for a reason that is not the input's."""


class LlmClient:
    """Calls with retries, limits and a budget.

    Args:
      settings: `semantic.llm` of the configuration.
      cache: where answers go, and come from.
      progress: as `progress.Progress`.
    """

    def __init__(self, settings, cache: AnswerCache, progress=Progress):
        self._settings, self._cache, self._progress = settings, cache, progress
        self._key, self._openai, self._client = "", None, None
        self._stop = threading.Event()
        self._pace = Pace(settings.calls_per_minute)
        self._budget = Budget(settings)
        self._down = 0  # inputs in a row that were given up on

    def ask(self, prompts: Sequence[Prompt], desc: str) -> Outcome:
        """Answers to prompts, from the cache where they are there; equal prompts are asked once.

        What the cache has whole needs neither key, network nor client.

        Raises:
          ConfigError: no key, an unusable address, the extra is not installed, or the endpoint refuses the key or does
            not know the model.
          DataError: the endpoint cannot be reached or the cache not written; answers so far are kept.
          Interrupted: the budget is used up, or a signal came; answers so far are kept.
        """
        keys = [self._key_of(prompt) for prompt in prompts]
        wanted = dict(zip(keys, prompts, strict=True))
        asked = [key for key in wanted if self._cache.get(key) is None]
        failures: dict[str, str] = {}
        if asked:
            self._connect()
        self._stop.clear()
        with self._progress(len(wanted), desc, "answer", initial=len(wanted) - len(asked)) as bar:
            with concurrent.futures.ThreadPoolExecutor(self._settings.concurrency) as pool:
                futures: dict[concurrent.futures.Future, str] = {}
                try:
                    for key in asked:
                        futures[pool.submit(self._answer, key, wanted[key])] = key
                    for future in concurrent.futures.as_completed(futures):
                        try:
                            future.result()
                            bar.update(1)
                        except _NoAnswerError as reason:
                            failures[futures[future]] = str(reason)
                finally:
                    # Calls under way end and are kept: they are paid for. What has not begun never does.
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
        answers = [self._cache.get(key) for key in keys]
        return Outcome(
            [None if answer is None else answer.text for answer in answers],
            {row: failures[key] for row, key in enumerate(keys) if key in failures},
        )

    def _connect(self) -> None:
        self._key = key_for(self._settings)
        self._openai = _import_openai()
        self._client = self._openai.OpenAI(
            api_key=self._key or "none",
            base_url=self._settings.base_url or None,
            timeout=self._settings.timeout_s,
            max_retries=0,  # ours, so that limits and budget see every call
        )

    def _key_of(self, prompt: Prompt) -> str:
        return answer_key(self._settings.model, prompt, self._settings.max_answer_tokens)

    def _answer(self, key: str, prompt: Prompt) -> None:
        """Answers one prompt; one thread of many. What ends the run stops the others before their next call."""
        try:
            self._ask_until_answered(key, prompt)
        except _NoAnswerError:
            raise
        except BaseException:
            self._stop.set()
            raise

    def _ask_until_answered(self, key: str, prompt: Prompt) -> None:
        """Asks until there is an answer, and keeps it."""
        reason = "not asked"
        for attempt in range(self._settings.retries + 1):
            booked = self._budget.take(prompt)
            self._pace.wait(self._stop)
            try:
                if self._stop.is_set():
                    raise _NoAnswerError("stopped before it was asked")
                answer = self._call(prompt)
            except _RetryError as retry:
                self._budget.give_back(booked)
                reason = str(retry)
                if attempt < self._settings.retries:
                    self._stop.wait(self._pause_s(attempt, retry.after_s))
                continue
            except BaseException:
                self._budget.give_back(booked)
                raise
            self._budget.spend(booked, answer)
            self._cache.add(key, self._settings.model, answer)
            self._down = 0
            return
        self._down += 1
        if self._down >= _GIVE_UP_AFTER:
            raise DataError(
                f"the endpoint {self._address} gives no answers ({reason}, after {self._settings.retries + 1} tries "
                f"each); {len(self._cache):,} answers are kept, run again when it is well"
            )
        raise _UnavailableError(f"{reason}, {self._settings.retries + 1} tries")

    def _call(self, prompt: Prompt) -> Answer:
        """One call."""
        openai, settings = self._openai, self._settings
        try:
            reply = self._client.chat.completions.create(
                model=settings.model,
                messages=[
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": prompt.user},
                ],
                temperature=0,
                max_tokens=settings.max_answer_tokens,
            )
        except openai.APITimeoutError:
            raise _RetryError(f"no answer within {settings.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            raise _RetryError(f"the connection failed ({cause})") from None
        except openai.APIStatusError as error:
            self._judge(error)
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            raise _RetryError("a malformed answer") from None
        return self._checked(reply, prompt)

    def _judge(self, error) -> None:
        """Raises what an error status means."""
        status, settings = error.status_code, self._settings
        if status in (401, 403):
            raise ConfigError(
                f"the endpoint {self._address} refuses the key in ${settings.key_variable} (HTTP {status}); set it "
                "to a valid one"
            ) from None
        if status == 404:
            raise ConfigError(
                f"the endpoint {self._address} does not know the model {settings.model!r:.80} or the address is "
                "wrong (HTTP 404); check semantic.llm.model and semantic.llm.base_url"
            ) from None
        if getattr(error, "code", None) == "insufficient_quota":
            raise DataError(
                f"the account at {self._address} has no quota left (HTTP {status}); "
                f"{len(self._cache):,} answers are kept, run again when it has"
            ) from None
        if status in (408, 409, 429) or status >= 500:
            raise _RetryError(f"HTTP {status}", _retry_after(error)) from None
        raise _NoAnswerError(f"HTTP {status}: {self._harmless(str(error.message))}") from None

    def _checked(self, reply: Any, prompt: Prompt) -> Answer:
        """The text of a reply that may be anything."""
        choices = getattr(reply, "choices", None)
        first = choices[0] if isinstance(choices, list) and choices else None
        content = getattr(getattr(first, "message", None), "content", None)
        text = (
            clean_text(content, self._settings.max_answer_chars) if isinstance(content, str) else ""
        )
        if not text:
            raise _RetryError("an empty or malformed answer")
        usage = getattr(reply, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        if not all(isinstance(count, int) and 0 <= count < 2**40 for count in counts):
            counts = [estimated_tokens(prompt), -(-len(content) // CHARS_PER_TOKEN)]
        return Answer(text, *counts)

    def _pause_s(self, attempt: int, after_s: float | None) -> float:
        """Doubles with every try; up to half of it at random, so that callers do not come back all at once."""
        pause = self._settings.backoff_s * 2**attempt * random.uniform(0.5, 1.0)
        return min(max(pause, after_s or 0.0), _LONGEST_PAUSE_S)

    def _harmless(self, message: str) -> str:
        if self._key:
            message = message.replace(self._key, "[key]")
        return clean_text(message, _MESSAGE_CHARS)

    @property
    def _address(self) -> str:
        return f"{self._client.base_url.scheme}://{self._client.base_url.host}"


def estimate(prompts: Sequence[Prompt], settings, cache: AnswerCache) -> Estimate:
    """What asking would take; sends nothing and needs no key."""
    wanted = {answer_key(settings.model, p, settings.max_answer_tokens): p for p in prompts}
    asked = [prompt for key, prompt in wanted.items() if cache.get(key) is None]
    tokens_in = sum(map(estimated_tokens, asked))
    tokens_out = len(asked) * settings.max_answer_tokens
    cost = cost_of(tokens_in, tokens_out, settings)
    return Estimate(len(asked), len(wanted) - len(asked), tokens_in, tokens_out, cost)


class _RetryError(Exception):
    """May pass; after_s: what the endpoint asks for."""

    def __init__(self, reason: str, after_s: float | None = None):
        super().__init__(reason)
        self.after_s = after_s


def _retry_after(error) -> float | None:
    try:
        return max(float(error.response.headers["retry-after"]), 0.0)
    except (KeyError, ValueError, AttributeError):
        return None


def _import_openai():
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "asking a language model needs the package openai, which is not installed; "
            "run: pip install 'raserec_jax[semantic]'"
        ) from None
    return openai
