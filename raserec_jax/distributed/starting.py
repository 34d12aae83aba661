"""The start of a job of several processes: who they are, from flags or from the scheduler, and what may go wrong.

Nothing here touches a device: `jax.distributed` must be up before JAX looks at them.
"""

import os
import re
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax._src import clusters

from raserec_jax.distributed.meeting import host_name, introduce, jax_client
from raserec_jax.distributed.peers import watch_peers
from raserec_jax.errors import ConfigError

AUTO = "auto"
_PAUSE_S = 0.2


class Job(NamedTuple):
    """Which process of how many this is.

    coordinator: HOST:PORT on which process 0 listens and all others meet it.
    num_processes, process_id: ids are 0 .. num_processes - 1.
    local_device_ids: devices of this host that are this process's; None = all.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None


def read_job(
    coordinator: str | None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Job | None:
    """The job that the flags and the scheduler's environment describe; None for a process by itself.

    Args:
      coordinator: HOST:PORT of process 0; `auto`: the scheduler knows (Cloud TPU, SLURM, Open MPI: what JAX detects);
        None: a process by itself.
      num_processes, process_id: None: JAX_NUM_PROCESSES and JAX_PROCESS_ID, else what an indexed Kubernetes job
        (JOB_COMPLETION_INDEX) or JAX's own detection tells.

    Raises:
      ConfigError: something is missing or contradicts the rest.
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ConfigError(
                "--num_processes and --process_id need --coordinator=HOST:PORT, where process 0 listens, or "
                "--coordinator=auto"
            )
        return None
    count = _number("num_processes", num_processes, environment, "JAX_NUM_PROCESSES")
    index = _number("process_id", process_id, environment, "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX")
    address, devices = (None if coordinator == AUTO else coordinator), None
    if None in (address, count, index):
        address, count, index, devices = _detected(address, count, index)
    if None in (address, count, index):
        lacking = ("--coordinator=HOST:PORT", "--num_processes", "--process_id")
        names = [
            n for n, given in zip(lacking, (address, count, index), strict=True) if given is None
        ]
        raise ConfigError(
            f"--coordinator={coordinator}: no scheduler that JAX knows tells the rest; give {' and '.join(names)}"
        )
    if not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address):
        raise ConfigError(f"--coordinator={address}: expected HOST:PORT, for example 10.0.0.1:8476")
    if count < 1 or not 0 <= index < count:
        raise ConfigError(
            f"--process_id={index} of --num_processes={count}: ids are 0 to one less than the number of processes"
        )
    return Job(address, count, index, None if devices is None else tuple(devices))


def start(job: Job | None, *, heartbeat_s: int = 10, start_s: int = 300) -> None:
    """Joins the job; from here on JAX shows the devices of all its processes. Does nothing for None.

    Args:
      heartbeat_s: a process that is silent for so long is lost, and ends the job.
      start_s: how long the others are waited for.

    Raises:
      ConfigError: the coordinator cannot be reached, its port is taken, processes are missing, or they were told
        different things.
    """
    if job is None:
        return
    if heartbeat_s < 2 or start_s < 1:
        raise ConfigError(
            f"--heartbeat_s={heartbeat_s} and --start_s={start_s} should be at least 2 and 1"
        )
    host, port = _host_and_port(job.coordinator)
    end = time.monotonic() + start_s
    if job.process_id == 0:
        _check_port(port, job)
    else:
        _wait_for_coordinator(host, port, job, end, start_s)
    try:
        jax.distributed.initialize(
            job.coordinator,
            job.num_processes,
            job.process_id,
            job.local_device_ids,
            cluster_detection_method="deactivate",
            initialization_timeout=max(1, round(end - time.monotonic())),
            # Ours speaks first, and in words; this one is for what it cannot see.
            heartbeat_timeout_seconds=3 * heartbeat_s,
            shutdown_timeout_seconds=60,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(_why_not_started(job, start_s, str(error))) from error
    _check_counts(job, start_s)
    introduce(start_s)
    watch_peers(host, port, heartbeat_s)


def _number(name: str, given: int | None, environment, *variables: str) -> int | None:
    if given is not None:
        return given
    for variable in variables:
        if variable in environment:
            try:
                return int(environment[variable])
            except ValueError:
                raise ConfigError(
                    f"{variable}={environment[variable]!r} should be an integer, for --{name}"
                ) from None
    return None


def _detected(address, count, index) -> tuple:
    """What JAX finds of the scheduler, where flags say nothing."""
    try:
        return clusters.ClusterEnv.auto_detect_unset_distributed_params(
            address, count, index, None, None, 60
        )
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"--coordinator={address or AUTO}: the scheduler's environment cannot be read "
            f"({' '.join(str(error).split())}); give --coordinator=HOST:PORT, --num_processes and --process_id"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _check_port(port: int, job: Job) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--coordinator={job.coordinator}: process 0 cannot listen on port {port} ({_reason(error)}); another "
                "program, or an earlier run, has it: wait, or choose another port for all processes"
            ) from error


def _wait_for_coordinator(host: str, port: int, job: Job, end: float, start_s: int) -> None:
    """Asks again for names not known yet and ports where nobody listens yet: hosts start at their own pace."""
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"--coordinator={job.coordinator} cannot be reached from {host_name()} after {start_s} s "
                    f"({_reason(error)}); start process 0 on that host, and check the address, the port and the "
                    "firewall"
                ) from error
        time.sleep(_PAUSE_S)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _why_not_started(job: Job, start_s: int, words: str) -> str:
    missing = sorted({int(task) for task in re.findall(r"task:(\d+)", words)} - {job.process_id})
    if "DEADLINE_EXCEEDED" in words or "imed out" in words:
        who = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing)) or '(unknown)'}"
        return (
            f"{who} of {job.num_processes} did not start within {start_s} s; start "
            f"{job.num_processes} processes with one --coordinator, each with an id of its own"
        )
    return (
        f"process {job.process_id} of {job.num_processes} cannot join the job at {job.coordinator} "
        f"({' '.join(words.split())[:300]}); give all processes the same --coordinator and --num_processes, and each "
        "an id of its own"
    )


def _check_counts(job: Job, start_s: int) -> None:
    """All were told one number of processes, before anybody waits for one that will never come."""
    client, place = jax_client(), "raserec_jax/num_processes"
    client.key_value_set(f"{place}/{job.process_id}", str(job.num_processes))
    told = {job.process_id: job.num_processes}
    told[0] = int(client.blocking_key_value_get(f"{place}/0", start_s * 1000))
    for one in range(1, told[0]):
        told[one] = int(client.blocking_key_value_get(f"{place}/{one}", start_s * 1000))
    for one, count in sorted(told.items()):
        if count != told[0]:
            raise ConfigError(
                f"process {one} was started with --num_processes={count}, process 0 with {told[0]}; give all the same "
                "number"
            )
