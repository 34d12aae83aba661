"""The start of a job of several processes: who they are, from flags or from the scheduler, and what may go wrong.

Nothing here touches a device: `jax.distributed` must be up before JAX looks at them.
"""

import os
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax._src import clusters

from raserec_jax.distributed.meeting import host_name, introduce
from raserec_jax.distributed.peers import watch_peers
from raserec_jax.distributed.roll_call import answer_roll, call_roll
from raserec_jax.errors import ConfigError

AUTO = "auto"


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
    began = time.monotonic()
    if job.process_id == 0:
        hosts = call_roll(port, job.num_processes, host_name(), start_s)
    else:
        address = host, port
        hosts = answer_roll(address, job.process_id, job.num_processes, host_name(), start_s)
    jax.distributed.initialize(
        job.coordinator,
        job.num_processes,
        job.process_id,
        job.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=round(start_s + 30 - (time.monotonic() - began)),
        # Ours speaks first, and in words; this one is for what it cannot see.
        heartbeat_timeout_seconds=3 * heartbeat_s,
        shutdown_timeout_seconds=60,
    )
    introduce(hosts)
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
