"""kill -9 of a writer at any instant: what it acknowledged is there, nothing is there by half, the next one starts."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.store.rows import quick_folder

SCRIPT = pathlib.Path(__file__).with_name("killing.py")


def kill(kills, seed):
    with quick_folder() as folder:
        command = [sys.executable, str(SCRIPT), folder, str(kills), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_40_kills_lose_nothing_acknowledged():
    met = kill(40, seed=0)
    assert met["kills"] == 40
    assert met["acknowledged"] > 0
    assert met["unfinished"] > 0


@pytest.mark.slow
def test_200_kills_lose_nothing_acknowledged(capsys):
    met = kill(200, seed=1)
    with capsys.disabled():
        print("\n", met)
    assert met["kills"] == 200
    assert min(met.values()) > 0
