"""A worker with real engines, under a master of a few lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from harmonicio.control import tickets
from harmonicio.core.engine import Availability
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.bare_peers import BareConnector
from harmonicio.testing.small_master import SmallMaster
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.service import WorkerService

IDLE, BUSY, STARTING, DRAINING = Availability.IDLE, Availability.BUSY, Availability.STARTING, Availability.DRAINING

#: A handler that does what the message says.
OBEDIENT = """
    import os, time
    from harmonicio.engine import handler

    @handler
    def obey(message):
        word = bytes(message.payload).decode()
        if word.startswith("sleep"):
            time.sleep(float(word.split()[1]))
        if word == "abort":
            os.abort()
        return word
"""


def write_code(folder: Path, name: str, code: str) -> str:
    """Write a handler file; return its path."""
    path = folder / f"{name}.py"
    path.write_text(dedent(code))
    return str(path)


def obedient(folder: Path) -> StreamDeclaration:
    return StreamDeclaration("images", handler=write_code(folder, "obey", OBEDIENT), timeout_s=60.0, version=1)


def worker_options(folder: Path) -> WorkerOptions:
    return WorkerOptions("w-1", folder / "worker", folder / "scratch", max_engines=4, orphan_after_s=5.0)


@contextmanager
def small_master() -> Iterator[SmallMaster]:
    """A master; in the end no engine that it ever heard of may run."""
    master = SmallMaster()
    yield master
    pids = {engine.pid for _, report in master.reports for engine in report.engines} - {0}
    wait_until(lambda: not [pid for pid in pids if is_running(pid)], 5, what="all engines to be gone")


@contextmanager
def running(options: WorkerOptions, master: SmallMaster) -> Iterator[WorkerService]:
    service = WorkerService(options, master)
    try:
        service.start()
        yield service
    finally:
        service.stop(0.0)


def is_running(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def connect(master: SmallMaster, engine: str) -> BareConnector:
    """Connect to an engine with a lease that the master would give."""
    (report,) = (each for each in master.engines() if each.engine == engine)
    assert report.address is not None
    claims = Claims(TicketKind.LEASE, report.stream, 60.0, time.time(), 1, lease="l-1", engine=engine, source="source")
    ticket = tickets.sign(tickets.derive_key(master.key, "engine", engine), claims)
    return BareConnector(report.address, ticket, report.stream)


def pids(master: SmallMaster) -> dict[str, int]:
    return {each.engine: each.pid for each in master.engines()}
