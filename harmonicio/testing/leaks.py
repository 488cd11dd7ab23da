"""A pytest plugin that fails a test which leaves threads, child processes, sockets or files behind.

Enabled with ``-p harmonicio.testing.leaks``. What exists before a test may exist after it; whatever is new gets a short
grace to go away by itself, because closing is not always instant. A test that must leave something behind says so:

    @pytest.mark.allow_leaks(reason="the library keeps one thread for the life of the process")

Linux only: processes and open files are read from ``/proc``; elsewhere only threads are compared.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

GRACE_S = 2.0
POLL_S = 0.01

_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds at one moment: each thing with a text that tells it from others."""

    threads: frozenset[threading.Thread]
    processes: frozenset[str]
    files: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        return cls(frozenset(threading.enumerate()), frozenset(_child_processes()), frozenset(_open_files()))

    def beyond(self, before: Holdings) -> list[str]:
        """Name everything held here that was not held before."""
        threads = [f"thread {each.name!r}" for each in self.threads - before.threads if each.is_alive()]
        return sorted(threads) + sorted(self.processes - before.processes) + sorted(self.files - before.files)


def leaks_since(before: Holdings, *, grace_s: float = GRACE_S) -> list[str]:
    """Return what is still held after the grace although it was not held before; empty when all is well."""
    deadline = time.monotonic() + grace_s
    while leaks := Holdings.now().beyond(before):
        if time.monotonic() > deadline:
            break
        # An object in a cycle holds its socket until it is collected; that is no leak of the test's making.
        gc.collect()
        time.sleep(POLL_S)
    return leaks


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    before = Holdings.now()
    yield
    allowed = request.node.get_closest_marker("allow_leaks")
    if allowed is not None:
        if not allowed.kwargs.get("reason"):
            pytest.fail("allow_leaks needs a reason: allow_leaks(reason=…)", pytrace=False)
        return
    leaks = leaks_since(before)
    if leaks:
        pytest.fail("The test left behind: " + ", ".join(leaks), pytrace=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "allow_leaks(reason): this test may leave something behind; the reason says why")


def _child_processes() -> Iterator[str]:
    """Yield each child of this process, dead ones that nobody waited for included."""
    for task in _entries(_PROC / "task"):
        with contextlib.suppress(OSError):
            for pid in (task / "children").read_text().split():
                yield f"process {pid} {_command(pid)}"


def _command(pid: str) -> str:
    """Return the program and start time of a process; the time tells processes apart that share a pid."""
    with contextlib.suppress(OSError):
        name, _, rest = Path("/proc", pid, "stat").read_text().rpartition(")")
        return f"{name.partition('(')[2]!r} started at tick {rest.split()[19]}"
    return "(gone)"


def _open_files() -> Iterator[str]:
    for descriptor in _entries(_PROC / "fd"):
        # The descriptor that lists the folder is gone by the time we look at it.
        with contextlib.suppress(OSError):
            yield f"file {descriptor.name} -> {os.readlink(descriptor)}"


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
