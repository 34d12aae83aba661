"""Many readers beside a writer: no torn read, no exception."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("load.py")


@pytest.mark.slow
def test_16_readers_and_a_writer_for_a_minute(capsys):
    command = [sys.executable, str(SCRIPT), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    met = json.loads(done.stdout)
    with capsys.disabled():
        print("\n", met)
    assert met["searches"] > 0 and met["versions_read"] > 0
    assert min(met["appends"], met["deletions"]) > 0
