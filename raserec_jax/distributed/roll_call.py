"""The roll call before a job starts: process 0 waits for all others, and tells them, or who is missing.

JAX's own start ends a process with SIGABRT when another does not come, and cannot say which. So the processes meet
once before it, on the port where JAX's coordination service will listen a moment later: each says a line of JSON, its
number and what it was told about the others, and hears one, the hosts of all or what is wrong.
"""

import json
import selectors
import socket
import time

from raserec_jax.errors import ConfigError

_PAUSE_S = 0.2
_LONGEST = 1000  # bytes of what a process says


def call_roll(port: int, count: int, host: str, limit_s: float) -> list[str]:
    """Of process 0: waits for processes 1 .. count - 1.

    Args:
      port: to listen on.
      host: of this process, as it is to be named.

    Returns:
      The host of each process.

    Raises:
      ConfigError: the port is taken, some did not come in time, or they were told different things; the others are
        told the same.
    """
    end, here, strangers = time.monotonic() + limit_s, {}, []
    with _listening(port) as listener, selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        try:
            while len(here) < count - 1:
                missing = sorted(set(range(1, count)) - set(here))
                if time.monotonic() > end:
                    raise ConfigError(
                        f"{_plural(missing)} of {count} did not start within {limit_s:g} s; start {count} processes "
                        "with one --coordinator and one --num_processes, each with an id of its own"
                    )
                for key, _ in ready.select(_PAUSE_S):
                    if key.fileobj is listener:
                        strangers.append(listener.accept()[0])
                        ready.register(strangers[-1], selectors.EVENT_READ)
                        continue
                    _hear(key.fileobj, ready, here, count)
            hosts = [host, *(here[one][1] for one in range(1, count))]
            _answer(here, {"hosts": hosts})
            return hosts
        except ConfigError as error:
            _answer(here, {"error": str(error)})
            raise
        finally:
            for connection in strangers:
                connection.close()


def answer_roll(
    address: tuple[str, int], own: int, count: int, host: str, limit_s: float
) -> list[str]:
    """Of the others: tells process 0 that this one is here, and waits for all.

    Args:
      address: host and port of process 0; asked again and again, as hosts start at their own pace.
      own, count: which process of how many.

    Returns:
      The host of each process.

    Raises:
      ConfigError: process 0 cannot be reached in time, or says what is wrong.
    """
    end, where = time.monotonic() + limit_s, f"{address[0]}:{address[1]}"
    hello = json.dumps({"process": own, "count": count, "host": host}).encode() + b"\n"
    reason = "it does not answer"
    while time.monotonic() < end:
        try:
            with socket.create_connection(address, timeout=5) as connection:
                connection.sendall(hello)
                connection.settimeout(max(1.0, end - time.monotonic() + 5))
                answer = json.loads(connection.makefile("rb").readline())
            if "error" in answer:
                raise ConfigError(answer["error"])
            return answer["hosts"]
        except ConfigError:
            raise
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        except (ValueError, KeyError, TypeError):
            reason = "something else listens there, or process 0 ended"
        time.sleep(_PAUSE_S)
    raise ConfigError(
        f"--coordinator={where} cannot be reached from process {own} ({host}) after {limit_s:g} s ({reason}); start "
        "process 0 on that host, and check the address, the port and the firewall"
    )


def _listening(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            family = {"family": socket.AF_INET6, "dualstack_ipv6": True}
            return socket.create_server(("", port), backlog=1024, **family)
        return socket.create_server(("", port), backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"process 0 cannot listen on port {port} ({reason}); another program, or an earlier run, has it: wait, or "
            "give all processes another port in --coordinator"
        ) from error


def _hear(connection, ready, here: dict, count: int) -> None:
    """Takes note of who speaks; who says something else, or hangs up, is no process of the job."""
    connection.settimeout(1)
    try:
        said = json.loads(connection.recv(_LONGEST))
        one, told, host = int(said["process"]), int(said["count"]), str(said["host"])
    except (OSError, ValueError, KeyError, TypeError):
        ready.unregister(connection)
        connection.close()
        for one in [one for one, (theirs, _) in here.items() if theirs is connection]:
            del here[one]  # it ended; its scheduler may start it again
        return
    if one in here or not 0 < one < count or told != count:
        here.setdefault(-1, (connection, host))  # to be told what is wrong
    if told != count:
        raise ConfigError(
            f"process {one} ({host}) was started with --num_processes={told}, process 0 with {count}; give all the "
            "same number"
        )
    if one in here or not 0 < one < count:
        others = f"{here[one][1]} and {host}" if one in here else host
        raise ConfigError(
            f"--process_id={one} was given to {others}; give each process an id of its own, 0 to {count - 1}"
        )
    here[one] = connection, host


def _answer(here: dict, words: dict) -> None:
    line = json.dumps(words).encode() + b"\n"
    for connection, _ in here.values():
        try:
            connection.settimeout(5)
            connection.sendall(line)
        except OSError:
            pass  # it will be missed soon enough


def _plural(processes: list[int]) -> str:
    return f"process{'es' * (len(processes) > 1)} {', '.join(map(str, processes))}"
