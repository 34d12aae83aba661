"""Several processes as one program: how they start, meet, write once, stop at one place, and learn of a loss.

Which arrays lie where is `mesh.py`'s business; here are the processes.
"""

from raserec_jax.distributed.arrays import Pieces, own_pieces, to_host
from raserec_jax.distributed.meeting import (
    agreed,
    barrier,
    by_all,
    by_writer,
    exchange,
    host_name,
    is_writer,
    of_writer,
    process_count,
    process_id,
)
from raserec_jax.distributed.peers import leave, wait_for_verdict
from raserec_jax.distributed.starting import Job, read_job, start
from raserec_jax.distributed.stopping import stop_agreed, stop_all

__all__ = [
    "Job",
    "Pieces",
    "agreed",
    "barrier",
    "by_all",
    "by_writer",
    "exchange",
    "host_name",
    "is_writer",
    "leave",
    "of_writer",
    "own_pieces",
    "process_count",
    "process_id",
    "read_job",
    "start",
    "stop_agreed",
    "stop_all",
    "to_host",
    "wait_for_verdict",
]
