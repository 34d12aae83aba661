"""Jobs of several real processes on loopback, which train or evaluate on a small generated log."""

import pathlib
import socket
from collections.abc import Mapping
from types import MappingProxyType

from tests.resume.runs import Runs, exit_code_and_output

HEARTBEAT_S = 10


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def job_flags(count: int) -> list[list[str]]:
    """The flags of each process of a new job."""
    port = free_port()
    return [
        [
            f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={count}",
            f"--process_id={one}",
            f"--heartbeat_s={HEARTBEAT_S}",
        ]
        for one in range(count)
    ]


class Job:
    """The processes of a job, by their ids; as a context, none is left behind.

    Args:
      most_bytes: process -> size that no file it writes may exceed, as on a full disk.
    """

    def __init__(
        self,
        runs: Runs,
        workdir: pathlib.Path,
        count: int,
        *flags: str,
        most_bytes: Mapping[int, int] = MappingProxyType({}),
    ):
        self.processes = [
            runs.start(workdir, *own, *flags, most_bytes=most_bytes.get(one))
            for one, own in enumerate(job_flags(count))
        ]

    @classmethod
    def of(cls, processes: list) -> "Job":
        """A job of processes that are started already."""
        job = cls.__new__(cls)
        job.processes = processes
        return job

    def ends(self) -> list[tuple[int, str]]:
        """Exit code and output of each process, once all have ended."""
        return [exit_code_and_output(process) for process in self.processes]

    def finish(self) -> None:
        """Waits for the end, which must be a good one."""
        for code, output in self.ends():
            assert code == 0, output

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exc_info) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
