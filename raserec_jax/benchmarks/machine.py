"""The machine as far as a benchmark tells of it: its name, memory that is free, the most that a process held."""

import os
import pathlib
import resource
import sys

import jax

_STATUS, _REFS, _INFO = (
    pathlib.Path(p) for p in ("/proc/self/status", "/proc/self/clear_refs", "/proc/meminfo")
)


def device_name() -> str:
    """Such as "cpu, 2 cores" or "NVIDIA H200"."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {count} core{'s' if count != 1 else ''}"


def forget_peak() -> None:
    """Peak memory is counted from here on, where the system can do that (Linux)."""
    try:
        _REFS.write_text("5")
    except OSError:
        pass


def peak_bytes() -> int:
    """The most memory that this process held at once, since `forget_peak` where that works."""
    found = _field(_STATUS, "VmHWM")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes() -> int | None:
    """Memory that an array could take: the device's, or what the system has to give; None = not told."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        told = device.memory_stats() or {}
        limit = told.get("bytes_limit")
        return None if limit is None else limit - told.get("bytes_in_use", 0)
    return _field(_INFO, "MemAvailable")


def _field(path: pathlib.Path, name: str) -> int | None:
    """A line such as "VmHWM:  123 kB" of a file of Linux, in bytes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else None
