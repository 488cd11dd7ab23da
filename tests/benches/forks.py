"""A piece of work in a fork of the test process, which may be killed or kill itself."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

_fork = get_context("fork")
#: A disk in memory, where there is one: what a kill leaves is the same, and nobody waits for flushes.
QUICK_DISK = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


def run(work: Callable[[], object], *, within_s: float = 60.0) -> int:
    """Run something in a fork and return its exit code, negative when a signal has ended it."""
    process = _fork.Process(target=_run, args=(work,))
    process.start()
    process.join(within_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(f"{work} was not done within {within_s:g} s")
    return process.exitcode


def _run(work: Callable[[], object]) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001  the parent sees the exit code, people the traceback
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def quick_folder() -> TemporaryDirectory[str]:
    """Return a new folder on the quick disk, which ends with the block that uses it."""
    return TemporaryDirectory(prefix="harmonicio-", dir=QUICK_DISK)
