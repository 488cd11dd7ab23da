"""The machine's facts, without which a figure says little, and what its kernel counts of a process."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import psutil

from harmonicio import __version__
from harmonicio.wire import decoder

#: In the number of a process's clock: the time that the scheduler has given it, in nanoseconds.
_SCHEDULED = 2


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_name(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "harmonicio": __version__,
        "hot_path": "interpreted" if decoder.__file__.endswith(".py") else "compiled",
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process with all of its threads, to the nanosecond; psutil's counts in hundredths."""
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def peak_memory_mb(pid: int) -> float:
    """Return the most memory that a process has had resident since it began."""
    return _status_mb(pid, "VmHWM:")


def memory_mb(pid: int) -> float:
    """Return the memory that a process has resident now."""
    return _status_mb(pid, "VmRSS:")


def _status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"Process {pid} has ended.")


def threads_of(pid: int) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))
