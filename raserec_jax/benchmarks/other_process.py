"""What a program that runs beside the benchmark tells: the JSON of the last line that it prints."""

import json
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from raserec_jax.benchmarks.bench import Skipped

Told = TypeVar("Told")


def last_line_of(
    command: Sequence[str],
    name: str,
    checked: Callable[[Any], Told],
    *,
    program: str | None = None,
    cwd: pathlib.Path | None = None,
    environment: Mapping[str, str],
    timeout_s: int,
) -> Told:
    """Runs a command until it ends.

    Args:
      name: of what it measures; program: of what is started, in words; default the same.
      checked: makes of the JSON what is wanted; raises KeyError, TypeError or ValueError for any other.

    Raises:
      Skipped: it cannot be run, failed, did not end, or told something else.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except OSError as error:
        raise Skipped(f"{program or name} cannot be run ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise Skipped(f"{name} did not end within {timeout_s} s") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Skipped(f"{name} ended with code {done.returncode}: {words:.200}")
    try:
        return checked(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise Skipped(
            f"{name} ended without the JSON line that was expected ({error!r:.80})"
        ) from error
