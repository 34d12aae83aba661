"""Three real processes that meet, wait in vain, and fail; none of them computes anything, so they start quickly."""

import os
import re
import subprocess
import sys

import pytest

from tests.parallel.jobs import free_port
from tests.resume.runs import ROOT


def ends_of(part: str, count: int = 3) -> list[tuple[int, list[str]]]:
    """Exit code and lines of each process that did a part of `member.py`."""
    port = free_port()
    command = [sys.executable, "tests/distributed/member.py", f"--coordinator=127.0.0.1:{port}"]
    processes = [
        subprocess.Popen(
            [*command, f"--num_processes={count}", f"--process_id={one}", f"--do={part}"]
            + ["--heartbeat_s=5", "--start_s=60"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for one in range(count)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, one.splitlines()) for p, one in zip(processes, said, strict=True)]


def test_processes_meet_exchange_and_hear_of_errors():
    ends = ends_of("meet")
    assert [code for code, _ in ends] == [0, 0, 0], ends
    said = [
        "processes 3 True",
        *(f"exchange ['0.{n}', '1.{n}', '2.{n}']" for n in range(3)),
        "empty ['', '', '']",
        "of_writer {'own': 0, 'value': 0.1}",
        "by_writer {'by': 0}",
        "by_all [{'by': 0}, {'by': 1}, {'by': 2}]",
        "told CheckpointError the disk is full",
        "told DataError the disk is full",
        "told by 1 the disk is full",
    ]
    for _, lines in ends:
        assert lines[: len(said)] == said
        words = r"agreed process 2 \(.*process id \d+\) has another thing than process 0; start all"
        assert re.match(words, lines[len(said)])
        assert lines[len(said) + 1] == "stop False"


@pytest.mark.parametrize(
    ("part", "codes", "said"),
    [
        (
            "wait",
            (4, 4, 4),
            (
                r"interrupted: reading: process 1 \(.*\) did not arrive within 2 s; look at the end",
                r"interrupted: process [02] \(.*\) (ended with exit code 4|is lost)",
                r"interrupted: reading: process 1 \(.*\) did not arrive within 2 s; look at the end",
            ),
        ),
        (
            "fail",
            (4, 2, 4),
            (
                r"interrupted: process 1 \(.*\) ended with exit code 2; start all processes again",
                "error: my file is another",
                r"interrupted: process 1 \(.*\) ended with exit code 2; start all processes again",
            ),
        ),
    ],
)
def test_the_others_end_and_name_the_one_that_fails(part, codes, said):
    ends = ends_of(part)
    assert tuple(code for code, _ in ends) == codes, ends
    for (_, lines), words in zip(ends, said, strict=True):
        assert re.match(words, lines[-1]), lines
