"""The roll call over real sockets, in threads: who comes, who does not, and who does not belong."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raserec_jax.distributed.roll_call import answer_roll, call_roll
from raserec_jax.errors import ConfigError
from tests.parallel.jobs import free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def comes(port: int, own: int, count: int = 3, limit_s: float = 10.0) -> list[str]:
    return answer_roll(("127.0.0.1", port), own, count, f"host-{own}", limit_s)


def test_all_learn_the_hosts_of_all_whoever_comes_first(pool, port):
    early = pool.submit(comes, port, 2)
    time.sleep(0.05)
    called = pool.submit(call_roll, port, 3, "host-0", 10.0)
    late = pool.submit(comes, port, 1)
    hosts = ["host-0", "host-1", "host-2"]
    assert called.result() == early.result() == late.result() == hosts


def test_a_process_by_itself_waits_for_nobody(port):
    assert call_roll(port, 1, "host-0", 10.0) == ["host-0"]


def test_who_is_missing_is_named_to_all(pool, port):
    present = pool.submit(comes, port, 1, 4)
    words = "processes 2, 3 of 4 did not start within 1 s; start 4 processes"
    with pytest.raises(ConfigError, match=words):
        call_roll(port, 4, "host-0", 1.0)
    with pytest.raises(ConfigError, match=words):
        present.result()


def test_a_process_that_was_told_another_number_is_named_to_all(pool, port):
    called = pool.submit(call_roll, port, 2, "host-0", 10.0)
    others = pool.submit(comes, port, 1, 3)
    for one in (called, others):
        with pytest.raises(ConfigError, match=r"process 1 \(host-1\) was .*=3, process 0 with 2"):
            one.result()


@pytest.mark.parametrize("own", [3, -1, 0])
def test_an_id_out_of_range_is_refused(pool, port, own):
    called = pool.submit(call_roll, port, 3, "host-0", 10.0)
    other = pool.submit(comes, port, own)
    for one in (called, other):
        with pytest.raises(ConfigError, match=f"--process_id={own} was given to .*, 0 to 2"):
            one.result()


def test_one_id_for_two_is_refused(pool, port):
    called = pool.submit(call_roll, port, 3, "host-0", 10.0)
    others = [pool.submit(comes, port, 1) for _ in range(2)]
    for one in (called, *others):
        with pytest.raises(ConfigError, match="--process_id=1 was given to host-1 and host-1"):
            one.result()


def test_a_process_that_ended_and_came_again_is_one(pool, port):
    called = pool.submit(call_roll, port, 3, "host-0", 10.0)
    hello = {"process": 1, "count": 3, "host": "host-1, before"}
    with _connected(port) as first:
        first.sendall(json.dumps(hello).encode() + b"\n")
        time.sleep(0.3)
    others = [pool.submit(comes, port, own) for own in (1, 2)]
    assert called.result() == others[0].result() == ["host-0", "host-1", "host-2"]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\x00" * 900,
        b'{"process": 1}\n',
        b'{"process": [1], "count": 2, "host": "x"}\n',
        b"[[[[",
        b'"process"',
        b"1",
    ],
    ids=range(9),
)
def test_strangers_change_nothing(pool, port, said):
    called = pool.submit(call_roll, port, 2, "host-0", 10.0)
    with _connected(port) as silent, _connected(port) as stranger:
        stranger.sendall(said)
        assert comes(port, 1, 2) == ["host-0", "host-1"]
        assert called.result() == ["host-0", "host-1"]
        assert silent.recv(1000) == b""


def test_a_port_that_is_taken_is_named(port):
    with socket.create_server(("", port)):
        with pytest.raises(ConfigError, match=f"cannot listen on port {port} .*another port in"):
            call_roll(port, 2, "host-0", 1.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_coordinator_that_cannot_be_reached_is_named(host, port):
    words = f"--coordinator={host}:{port} cannot be reached from process 1 .*; start process 0"
    with pytest.raises(ConfigError, match=words):
        answer_roll((host, port), 1, 2, "host-1", 0.3)


def test_something_else_behind_the_port_is_told(port):
    def talk():
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.settimeout(0.1)
            while not done.is_set():
                with contextlib.suppress(TimeoutError), listener.accept()[0] as connection:
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

    done = threading.Event()
    other = threading.Thread(target=talk, daemon=True)
    other.start()
    with pytest.raises(ConfigError, match="something else listens there"):
        comes(port, 1, 2, limit_s=1.0)
    done.set()
    other.join()


def _connected(port: int) -> socket.socket:
    end = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
