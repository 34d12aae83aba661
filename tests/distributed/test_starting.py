"""Which process of how many this is: from flags, and from what schedulers leave in the environment."""

import pytest

from raserec_jax.distributed import Job, read_job, start
from raserec_jax.errors import ConfigError

PLACE = "10.0.0.1:8476"


@pytest.mark.parametrize(
    ("flags", "environment", "job"),
    [
        ((None,), {}, None),
        ((None,), {"JAX_NUM_PROCESSES": "4", "SLURM_PROCID": "1"}, None),
        ((PLACE, 2, 1), {}, Job(PLACE, 2, 1)),
        ((PLACE, 2, 1), {"JAX_PROCESS_ID": "0", "JOB_COMPLETION_INDEX": "0"}, Job(PLACE, 2, 1)),
        ((PLACE, 4), {"JOB_COMPLETION_INDEX": "3"}, Job(PLACE, 4, 3)),
        ((PLACE,), {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}, Job(PLACE, 4, 2)),
        (("[::1]:99", 2, 0), {}, Job("[::1]:99", 2, 0)),
    ],
)
def test_flags_come_before_the_environment(flags, environment, job):
    assert read_job(*flags, environment=environment) == job


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ((None, 2), {}, "need --coordinator=HOST:PORT"),
        ((None, None, 0), {}, "need --coordinator=HOST:PORT"),
        (("host", 2, 0), {}, "--coordinator=host: expected HOST:PORT"),
        (("host:port", 2, 0), {}, "expected HOST:PORT"),
        (("a b:1", 2, 0), {}, "expected HOST:PORT"),
        ((PLACE, 2, 2), {}, "--process_id=2 of --num_processes=2: ids are 0 to one less"),
        ((PLACE, 0, 0), {}, "--process_id=0 of --num_processes=0"),
        ((PLACE, 2, -1), {}, "--process_id=-1"),
        ((PLACE, 2), {}, "give --process_id"),
        ((PLACE,), {}, "give --num_processes and --process_id"),
        (("auto",), {}, "give --coordinator=HOST:PORT and --num_processes and --process_id"),
        ((PLACE, 2), {"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX='x' should be an int"),
    ],
)
def test_what_is_missing_or_wrong_is_said(flags, environment, words):
    with pytest.raises(ConfigError, match=words):
        read_job(*flags, environment=environment)


def test_slurm_is_detected(monkeypatch):
    """By JAX: the first node of the list coordinates, the tasks are the processes."""
    told = {
        "SLURM_JOB_ID": "65536",
        "SLURM_STEP_NODELIST": "node[007-009],other1",
        "SLURM_NTASKS": "8",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert read_job("auto") == Job("node007:61440", 8, 5, (1,))


def test_limits_that_are_too_short_are_refused():
    with pytest.raises(ConfigError, match="--heartbeat_s=1 and --start_s=300 should be at least"):
        start(Job(PLACE, 2, 1), heartbeat_s=1)


def test_a_process_by_itself_starts_nothing():
    start(None)
