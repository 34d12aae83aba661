"""Processes share their fate: when one is lost, the others end within seconds, and say which one it was.

A thread of each process tells process 0 that it lives, and asks whether all do; it works while the main thread waits in
a collective that will never end. Where process 0 goes, JAX's coordination service goes with it, and XLA ends the others
with a long message and SIGABRT; here they get a few seconds to say it in a sentence first.
"""

import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time

import jax

from raserec_jax.distributed.meeting import (
    barrier,
    is_writer,
    jax_client,
    named,
    process_count,
    process_id,
)
from raserec_jax.errors import EXIT_DONE, EXIT_INTERRUPTED

_ALIVE, _LOST = "raserec_jax/alive", "raserec_jax/lost"
_ENDED = "ended "
# One that ends by an error of its own gives the others, who may be about to end by the same one, so long to say so.
_GRACE_S = 2.0
# What a collective says whose peer is gone.
_BROKEN = re.compile(r"gloo|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|[Cc]onnection|peer")

_heartbeat_s = 10.0
_ending = threading.Event()  # this process has said its last word
_answered = threading.Event()  # process 0 has answered since this was last looked at
_speaking = threading.Lock()


def watch_peers(host: str, port: int, heartbeat_s: float) -> None:
    """Starts the watch, which lasts as long as the process.

    Args:
      host, port: where process 0 listens.
      heartbeat_s: a process that says nothing for so long is lost: this process then prints which one, and ends with
        exit code 4.
    """
    global _heartbeat_s
    _heartbeat_s = heartbeat_s
    # abort() then calls sleep(6), SIGABRT being 6, before it ends the process.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc.sleep)
    threading.Thread(target=_watch, name="peers", daemon=True).start()
    if not is_writer():
        place = (host, port)
        threading.Thread(
            target=_watch_coordinator, args=place, name="coordinator", daemon=True
        ).start()


def _watch() -> None:
    own, pause, beat = process_id(), min(1.0, _heartbeat_s / 5), 0
    client = jax_client()
    seen: dict[str, tuple[str, float]] = {}  # process -> what it last said, and when that was new
    while True:
        beat += 1
        with _speaking:
            if _ending.is_set():
                return
            try:
                client.key_value_set(f"{_ALIVE}/{own}", str(beat), allow_overwrite=True)
                told = dict(client.key_value_dir_get(f"{_LOST}/"))
                said = dict(client.key_value_dir_get(f"{_ALIVE}/")) if is_writer() else {}
            except jax.errors.JaxRuntimeError:
                return  # `_watch_coordinator` knows more
        _answered.set()
        if told:
            _end({int(place.rpartition("/")[2]): words for place, words in told.items()})
        lost = _lost(said, seen, time.monotonic()) if is_writer() else {}
        for one, words in lost.items():
            client.key_value_set(f"{_LOST}/{one}", words)
        if lost:
            time.sleep(2 * pause)  # the others read it as long as this process lives
            _end(lost)
        time.sleep(pause)


def _watch_coordinator(host: str, port: int) -> None:
    """Where process 0 is gone, a question to its store may hang until XLA ends this process: so its port is tried."""
    pause, silent_s = min(1.0, _heartbeat_s / 5), 0.0
    while not _ending.is_set():
        time.sleep(pause)
        silent_s = 0.0 if _answered.is_set() else silent_s + pause
        _answered.clear()
        if silent_s < 2 * pause:
            continue
        try:
            socket.create_connection((host, port), timeout=pause).close()
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            if (refused or silent_s > _heartbeat_s) and not _ending.is_set():
                _end({0: "is lost, and the coordination service with it"})


def _lost(said: dict, seen: dict, now: float) -> dict[int, str]:
    """Process -> what became of it, of those that are silent for too long or ended by an error."""
    found = {}
    for one in range(process_count()):
        place = f"{_ALIVE}/{one}"
        words = said.get(place, "")
        if place not in seen or seen[place][0] != words:
            seen[place] = words, now
        silent_s = now - seen[place][1]
        if words.startswith(_ENDED):
            if words != f"{_ENDED}{EXIT_DONE}" and silent_s > _GRACE_S:
                found[one] = f"ended with exit code {words.removeprefix(_ENDED)}"
        elif silent_s > _heartbeat_s:
            found[one] = f"is lost (no sign of life for {_heartbeat_s:g} s)"
    return found


def _end(lost: dict[int, str]) -> None:
    """Ends this process, with one line as the last of its output."""
    words = "; ".join(f"{named([one])} {what}" for one, what in sorted(lost.items()))
    line = f"interrupted: {words}; start all processes again with the same command to go on from the last checkpoint\n"
    _say_own_end()
    os.write(2, line.encode())
    os._exit(EXIT_INTERRUPTED)


def _say_own_end() -> None:
    """So that process 0 need not wait for this one; in a thread, as its store may be gone."""
    place, words = f"{_ALIVE}/{process_id()}", f"{_ENDED}{EXIT_INTERRUPTED}"
    saying = threading.Thread(
        target=jax_client().key_value_set, args=(place, words, True), daemon=True
    )
    saying.start()
    saying.join(0.5)


def wait_for_verdict(error: BaseException) -> None:
    """Called where an error may be the sight of a lost peer: a collective breaks at once, a heartbeat later. If one is
    lost, the watch ends this process meanwhile; else this returns, and the error is one of its own."""
    if process_count() > 1 and _BROKEN.search(f"{type(error).__name__} {error}"):
        sys.stdout.flush()
        time.sleep(_heartbeat_s + 3)


def leave(exit_code: int) -> None:
    """Tells the others that this process ends, and how; to be called last, before it does.

    After a good end all wait for each other. After another, process 0 waits until the others have ended too, for a few
    seconds: with it goes the coordination service, and XLA would end them in its own way.
    """
    if process_count() == 1:
        return
    client, last = jax_client(), f"{_ENDED}{exit_code}"
    try:
        if exit_code == EXIT_DONE:
            barrier("end")
        _ending.set()
        with _speaking:
            client.key_value_set(f"{_ALIVE}/{process_id()}", last, allow_overwrite=True)
        if exit_code == EXIT_DONE or not is_writer():
            return
        if not _all_ended(client, _GRACE_S):
            client.key_value_set(f"{_LOST}/0", f"ended with exit code {exit_code}")
            _all_ended(client, _heartbeat_s)
        time.sleep(0.2)  # from saying so to ending
    except jax.errors.JaxRuntimeError:
        pass  # the coordinator has gone first


def _all_ended(client, limit_s: float) -> bool:
    """Whether all said so before the limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        said = dict(client.key_value_dir_get(f"{_ALIVE}/"))
        if all(words.startswith(_ENDED) for words in said.values()):
            return True
        time.sleep(0.05)
    return False
