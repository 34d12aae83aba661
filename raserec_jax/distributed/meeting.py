"""Where the processes of a job meet: barriers that name who is missing, small texts exchanged, one that writes.

Through the key-value store of JAX's coordination service (in process 0), never through the devices: so a thread may
meet while the main thread computes, as long as its meetings have names of their own. A process by itself never waits.
"""

import collections
import json
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax._src import distributed

from raserec_jax import errors
from raserec_jax.errors import LostProcessError

LIMIT_S = 1800.0
"""How long the slowest process may take to arrive: others may read, compile or write meanwhile."""

# Errors that mean the same on all processes, and so are told to all.
_TOLD = ("DataError", "ConfigError", "CheckpointError", "Interrupted")
_hosts: dict[int, str] = {}
# How often each place was met at; of a name all processes meet in the same order.
_rounds: collections.Counter = collections.Counter()


def jax_client():
    """The client of JAX's coordination service; None for a process by itself."""
    return distributed.global_state.client


def process_count() -> int:
    """Processes of the job."""
    return distributed.global_state.num_processes


def process_id() -> int:
    """Which of them this is."""
    return distributed.global_state.process_id


def is_writer() -> bool:
    """Whether this process writes: the workdir but for its part of checkpoints, the terminal, the report. Process 0
    does."""
    return process_id() == 0


def host_name() -> str:
    """Of this process, as people know it."""
    return f"{socket.gethostname()}, process id {os.getpid()}"


def named(processes: Iterable[int]) -> str:
    """Processes in words, each with its host: process 3 (host-b, process id 71)."""
    return ", ".join(
        f"process {one} ({_hosts[one]})" if one in _hosts else f"process {one}"
        for one in sorted(processes)
    )


def introduce(hosts: list[str]) -> None:
    """Keeps the host of every process, for errors that name it: when it is needed, nobody may be left to ask."""
    _hosts.update(enumerate(hosts))


def exchange(name: str, text: str = "", limit_s: float = LIMIT_S) -> list[str]:
    """What each process gives, in the order of the processes; all are here when it returns.

    Args:
      name: of the meeting, for errors; the same on all processes, and met in the same order.
      text: up to some megabytes.
      limit_s: how long the others are waited for.

    Raises:
      LostProcessError: some did not come in time; they are named.
    """
    count, own = process_count(), process_id()
    if count == 1:
        return [text]
    number = _rounds[name]
    _rounds[name] += 1
    place = f"raserec_jax/meetings/{name}/{number}"
    client = jax_client()
    client.key_value_set(f"{place}/{own}", f"={text}")  # an empty value is none
    try:
        client.wait_at_barrier(place, max(1, round(limit_s * 1000)))
        found = dict(client.key_value_dir_get(f"{place}/"))
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError(_who_is_missing(name, place, limit_s, error)) from error
    if number:  # all are here, so all have read what was given the time before
        client.key_value_delete(f"raserec_jax/meetings/{name}/{number - 1}/{own}")
    return [found[f"{place}/{one}"][1:] for one in range(count)]


def _who_is_missing(name: str, place: str, limit_s: float, error: Exception) -> str:
    try:
        arrived = dict(jax_client().key_value_dir_get(f"{place}/"))
    except jax.errors.JaxRuntimeError:
        return f"{name}: {named([0])} is lost, with the coordination service"
    missing = [one for one in range(process_count()) if f"{place}/{one}" not in arrived]
    if not missing:
        return f"{name}: the processes could not meet ({' '.join(str(error).split())[:200]})"
    return (
        f"{name}: {named(missing)} did not arrive within {limit_s:g} s; look at the end of its output, and start all "
        "processes again: the job goes on from its last checkpoint"
    )


def barrier(name: str, limit_s: float = LIMIT_S) -> None:
    """Returns when all processes are here. Raises LostProcessError as `exchange`."""
    exchange(name, limit_s=limit_s)


def by_writer(name: str, make: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """What process 0 makes, for all: called when all are here, so that nobody still reads what it may replace.

    Args:
      name: as `exchange`.
      make: writes files, or looks at them, where all must see the same; gives a JSON value, or None.

    Raises:
      what `make` raises; the library's own errors are raised on all processes.
    """
    if process_count() == 1:
        return make()
    barrier(f"{name}, before", limit_s)
    answer: dict[str, Any] = {}
    if is_writer():
        try:
            answer["made"] = make()
        except Exception as error:
            kind = type(error).__name__
            answer = {"error": kind if kind in _TOLD else "", "words": str(error)}
            exchange(f"{name}, after", json.dumps(answer), limit_s)
            raise
    answer = json.loads(exchange(f"{name}, after", json.dumps(answer), limit_s)[0])
    if answer.get("error"):
        raise getattr(errors, answer["error"])(answer["words"])
    if "error" in answer:
        raise LostProcessError(f"{name}: process 0 failed: {answer['words']}")
    return answer["made"]


def by_all(name: str, make: Callable[[], Any], limit_s: float = LIMIT_S) -> list[Any]:
    """What each process makes, for all, in the order of the processes; all have made it when this returns.

    Args:
      name: as `exchange`.
      make: gives a JSON value, or None.

    Raises:
      what `make` raises here; the library's own errors are raised on all processes, those of the first that has one.
    """
    if process_count() == 1:
        return [make()]
    raised: Exception | None = None
    try:
        answer: dict[str, Any] = {"made": make()}
    except Exception as error:
        raised, kind = error, type(error).__name__
        answer = {"error": kind if kind in _TOLD else "", "words": str(error)}
    answers = [json.loads(text) for text in exchange(name, json.dumps(answer), limit_s)]
    if raised is not None and not answer["error"]:
        raise raised
    for one, theirs in enumerate(answers):
        if theirs.get("error"):
            raise getattr(errors, theirs["error"])(theirs["words"]) from raised
        if "error" in theirs:
            raise LostProcessError(f"{name}: {named([one])} failed: {theirs['words']}")
    return [theirs["made"] for theirs in answers]


def of_writer(name: str, value: Any) -> Any:
    """Process 0's of a JSON value that all have: hosts of several kinds may differ in the last bit of a metric, and
    would then stop at different epochs. Raises LostProcessError as `exchange`."""
    if process_count() == 1:
        return value
    return json.loads(exchange(name, json.dumps(value))[0])


def agreed(name: str, value: str, what: str) -> None:
    """Checks that all processes have the same value of something.

    Raises:
      ConfigError: they have not; `what` says of what, and the processes that differ from process 0 are named.
    """
    values = exchange(name, value)
    others = [one for one, given in enumerate(values) if given != values[0]]
    if others:
        raise errors.ConfigError(
            f"{named(others)} has another {what} than process 0; start all processes with the same command, on the "
            "same files and versions"
        )
