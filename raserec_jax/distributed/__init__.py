"""Several processes as one program: how they start, meet, write once, stop at one place, and learn of a loss.

Which arrays lie where is `mesh.py`'s business; here are the processes.
"""

from raserec_jax.distributed.arrays import to_host
from raserec_jax.distributed.meeting import (
    agreed,
    barrier,
    by_writer,
    exchange,
    is_writer,
    of_writer,
    process_count,
    process_id,
)
from raserec_jax.distributed.peers import leave, wait_for_verdict
from raserec_jax.distributed.starting import Job, read_job, start
from raserec_jax.distributed.stopping import stop_agreed

__all__ = [
    "Job",
    "agreed",
    "barrier",
    "by_writer",
    "exchange",
    "is_writer",
    "leave",
    "of_writer",
    "process_count",
    "process_id",
    "read_job",
    "start",
    "stop_agreed",
    "to_host",
    "wait_for_verdict",
]
