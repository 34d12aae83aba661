"""Asking a language model, against a real server on loopback that misbehaves."""

import threading

import pytest

from raserec_jax.errors import ConfigError, DataError, Interrupted
from raserec_jax.semantic.answer_cache import AnswerCache
from raserec_jax.semantic.llm_client import LlmClient, estimate
from raserec_jax.semantic.prompts import Prompt
from raserec_jax.semantic.settings import semantic_settings
from tests.semantic.chat_server import reply, serving

pytest.importorskip("openai", reason="the extra semantic is not installed: no package openai")

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    """The key is where it belongs, and nothing of the machine's own settings is used."""
    for name in (
        "OPENAI_BASE_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", KEY)


def llm(server=None, **changes):
    settings = semantic_settings().llm
    settings.update(
        base_url=server.url if server else "http://127.0.0.1:9/v1",
        model="small",
        key_variable="TEST_KEY",
        retries=2,
        backoff_s=0.001,
        timeout_s=10.0,
        concurrency=1,
    )
    settings.update(changes)
    return settings


def prompts(count):
    return [Prompt("system", f"about {number}", "digest") for number in range(count)]


def ask(tmp_path, settings, count=3):
    with AnswerCache(tmp_path / "answers.jsonl") as cache:
        return LlmClient(settings, cache).ask(prompts(count), "items")


def about(request):
    return request["messages"][1]["content"].removeprefix("about ")


def test_answers_come_once_and_are_cleaned(tmp_path):
    with serving(lambda number, request: reply(f" it is\n{about(request)}\u202e\x07 ")) as server:
        settings = llm(server, concurrency=3)
        outcome = ask(tmp_path, settings)
        assert outcome == (["it is 0", "it is 1", "it is 2"], {})
        assert ask(tmp_path, settings, 4).answers[3] == "it is 3"
        assert len(server.requests) == 4
        assert {request["temperature"] for request in server.requests} == {0}
        assert {request["max_tokens"] for request in server.requests} == {200}
        assert not any({"tools", "functions"} & set(request) for request in server.requests)
        assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in (tmp_path / "answers.jsonl").read_text()


def test_other_models_and_prompts_are_asked_anew(tmp_path):
    with serving(lambda number, request: reply(f"{request['model']} {number}")) as server:
        assert ask(tmp_path, llm(server), 1).answers == ["small 0"]
        assert ask(tmp_path, llm(server, model="large"), 1).answers == ["large 1"]
        with AnswerCache(tmp_path / "answers.jsonl") as cache:
            other = [Prompt("system", "about 0", "another digest")]
            assert LlmClient(llm(server), cache).ask(other, "items").answers == ["small 2"]


def test_equal_prompts_are_asked_once(tmp_path):
    with serving(lambda number, request: reply("same")) as server:
        with AnswerCache(tmp_path / "answers.jsonl") as cache:
            outcome = LlmClient(llm(server), cache).ask([*prompts(1), *prompts(1)], "items")
        assert (outcome.answers, len(server.requests)) == (["same", "same"], 1)


@pytest.mark.parametrize(
    "what",
    [
        429,
        (429, {"error": {"message": "slow down"}}, [("retry-after", "0.01")]),
        500,
        503,
        "disconnect",
        "cut in the middle",
        "truncated JSON",
        "not JSON",
        {"id": "1"},
        {"choices": []},
        {"choices": "many"},
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{"message": {"content": {"a": 1}}}]},
        {"choices": [None]},
        reply(" \u200b\n"),
        [1, 2],
    ],
)
def test_what_may_pass_is_tried_again(tmp_path, what):
    behave = lambda number, request: (200, what) if isinstance(what, list) else what  # noqa: E731
    with serving(
        lambda number, request: reply("at last") if number == 2 else behave(number, request)
    ) as server:
        assert ask(tmp_path, llm(server), 1) == (["at last"], {})
        assert len(server.requests) == 3


def test_a_call_that_hangs_is_given_up(tmp_path):
    with serving(lambda number, request: reply("ok") if number else "hang") as server:
        assert ask(tmp_path, llm(server, timeout_s=0.3), 1).answers == ["ok"]


def test_failures_are_listed_and_asked_again(tmp_path):
    refused = {"1": 400, "3": (400, {"error": {"message": f"bad key {KEY} \x1b[31mhere"}})}
    with serving(lambda number, request: refused.get(about(request), reply("ok"))) as server:
        outcome = ask(tmp_path, llm(server), 5)
        assert outcome.answers == ["ok", None, "ok", None, "ok"]
        assert outcome.failures[1].startswith("HTTP 400")
        assert KEY not in outcome.failures[3]
        assert "\x1b" not in outcome.failures[3]
        assert len(server.requests) == 5  # no second try of what is wrong in itself
        refused.clear()
        assert ask(tmp_path, llm(server), 5) == (["ok"] * 5, {})
        assert len(server.requests) == 7


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (401, r"refuses the key in \$TEST_KEY \(HTTP 401\)"),
        (403, r"refuses the key in \$TEST_KEY \(HTTP 403\)"),
        (404, "does not know the model 'small'"),
    ],
)
def test_what_no_try_can_mend_ends_the_run_at_once(tmp_path, what, words):
    body = (what, {"error": {"message": f"Incorrect key provided: {KEY}"}})
    with serving(lambda number, request: body) as server:
        with pytest.raises(ConfigError, match=words) as error:
            ask(tmp_path, llm(server), 20)
        assert KEY not in str(error.value)
        assert error.value.__cause__ is None
        assert len(server.requests) <= 2


def test_no_quota_ends_the_run(tmp_path):
    body = (429, {"error": {"message": "none left", "code": "insufficient_quota"}})
    with serving(lambda number, request: reply("ok") if number == 0 else body) as server:
        with pytest.raises(DataError, match="no quota left .*; 1 answers are kept"):
            ask(tmp_path, llm(server), 20)


def test_429_for_ever_ends_the_run_and_keeps_what_came(tmp_path):
    with serving(lambda number, request: reply("ok") if number < 2 else 429) as server:
        with pytest.raises(
            DataError, match=r"gives no answers \(HTTP 429, after 3 tries each\); 2 answers"
        ):
            ask(tmp_path, llm(server), 30)
        assert len(server.requests) <= 2 + 3 * 7


def test_an_endpoint_that_is_down_ends_the_run(tmp_path):
    with serving(lambda number, request: 500) as server:
        gone = llm(server)
    with pytest.raises(
        DataError, match=r"http://127.0.0.1 gives no answers \(the connection failed"
    ):
        ask(tmp_path, gone, 30)


def test_calls_under_way_are_bounded(tmp_path):
    with serving(lambda number, request: "slow") as server:
        ask(tmp_path, llm(server, concurrency=3), 9)
        assert 1 < server.most_at_once <= 3


def test_the_rate_is_limited(tmp_path, monkeypatch):
    waited = []
    wait = threading.Event.wait
    monkeypatch.setattr(
        threading.Event,
        "wait",
        lambda self, s=None: waited.append(s) or wait(self, 0 if s and s > 5 else s),
    )
    with serving(lambda number, request: reply("ok")) as server:
        ask(tmp_path, llm(server, calls_per_minute=6), 3)
    asked = sorted(s for s in waited if s and s > 5)
    assert len(asked) == 2
    assert 8 < asked[0] <= 10 < asked[1] <= 20


@pytest.mark.parametrize(
    ("budget", "calls"),
    [({"max_calls": 2}, 2), ({"max_cost": 0.25, "price_in": 100.0, "price_out": 500.0}, 8)],
)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_stops_cleanly(tmp_path, budget, calls, concurrency):
    """A call costs (100 * 100 + 20 * 500) / 1e6 = .02; before, (4 * 100 + 200 * 500) / 1e6 = .1004 is booked."""
    with serving(lambda number, request: reply("ok")) as server:
        with pytest.raises(Interrupted, match="budget of this run is used up .*; answers are kept"):
            ask(tmp_path, llm(server, concurrency=concurrency, **budget), 20)
        # With several at a time more is booked at a time: never beyond, maybe earlier.
        assert (
            len(server.requests) == calls
            if concurrency == 1
            else 1 <= len(server.requests) <= calls
        )
        assert ask(tmp_path, llm(server), 20).answers == ["ok"] * 20
        assert len(server.requests) == 20


def test_a_whole_cache_needs_no_key_and_no_endpoint(tmp_path):
    with serving(lambda number, request: reply("ok")) as server:
        ask(tmp_path, llm(server))
    away = llm(base_url="https://api.example.com/v1", key_variable="NO_SUCH_KEY")
    assert ask(tmp_path, away) == (["ok"] * 3, {})


def test_estimates_count_what_is_not_answered(tmp_path):
    with serving(lambda number, request: reply("ok")) as server:
        ask(tmp_path, llm(server), 2)
        settings = llm(server, price_in=1e6, price_out=1.0, max_answer_tokens=200)
        with AnswerCache(tmp_path / "answers.jsonl", read_only=True) as cache:
            found = estimate([*prompts(5), prompts(5)[4]], settings, cache)
        assert len(server.requests) == 2
    assert found[:4] == (3, 2, 3 * 4, 600)  # "system" and "about 2": 13 characters
    assert found.cost == pytest.approx(12 + 600 / 1e6)
    assert "3 calls (2 more are answered already)" in str(found)


def test_long_answers_are_cut(tmp_path):
    with serving(lambda number, request: reply("word " * 100_000)) as server:
        (answer,) = ask(tmp_path, llm(server, max_answer_chars=50), 1).answers
    assert len(answer) <= 50


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"key_variable": "NO_SUCH_KEY", "base_url": "https://api.example.com/v1"},
            "NO_SUCH_KEY is not set",
        ),
        ({"key_variable": "NO_SUCH_KEY", "base_url": ""}, "NO_SUCH_KEY is not set"),
        (
            {"base_url": "http://api.example.com/v1"},
            r"would send the key in \$TEST_KEY unencrypted",
        ),
        ({"base_url": "https://user:pass@example.com"}, "without a name or password"),
        ({"base_url": "file:///etc"}, "should be an address such as"),
        ({"base_url": "api.example.com"}, "should be an address such as"),
    ],
)
def test_unusable_addresses_and_keys_are_refused(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words) as error:
        ask(tmp_path, llm(**changes), 1)
    assert KEY not in str(error.value)


def test_a_server_on_this_machine_needs_no_key(tmp_path):
    with serving(lambda number, request: reply("ok")) as server:
        assert ask(tmp_path, llm(server, key_variable="NO_SUCH_KEY"), 1).answers == ["ok"]
        assert server.keys == ["Bearer none"]
