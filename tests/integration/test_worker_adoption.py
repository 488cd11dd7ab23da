"""A controller that is killed under a real master: its engines leave the free list, and return untouched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.control.messages import EngineView, LeaseRequest
from harmonicio.core.engine import Availability
from harmonicio.core.message import OutcomeKind
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.testing.bare_peers import BareConnector
from harmonicio.testing.waiting import wait_until

WORKER = """
    import sys, threading
    from pathlib import Path
    from harmonicio.control.client import MasterClient
    from harmonicio.worker.options import WorkerOptions
    from harmonicio.worker.service import WorkerService

    folder, url, token = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    options = WorkerOptions("w-1", folder / "worker", folder / "scratch", max_engines=2, orphan_after_s=20.0)
    service = WorkerService(options, MasterClient(url, token))
    service.start()
    sys.stdin.read()
    service.stop(5.0)
"""
HANDLER = """
    from harmonicio.engine import handler

    @handler
    def echo(message):
        return bytes(message.payload).decode()
"""


@pytest.fixture
def master(tmp_path: Path) -> Iterator[MasterService]:
    options = MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0, lost_after_s=2.0)
    with MasterService(options) as service:
        yield service


@pytest.fixture
def client(master: MasterService) -> Iterator[MasterClient]:
    with MasterClient(master.url, master.token_file(Role.ADMIN).read_text().strip()) as client:
        yield client


@contextmanager
def worker_process(folder: Path, master: MasterService) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker in a process of its own; at the end it stops, unless it was killed."""
    token = master.token_file(Role.WORKER).read_text().strip()
    command = [sys.executable, "-c", dedent(WORKER), str(folder), master.url, token]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process


def engines(client: MasterClient, *states: Availability) -> dict[str, EngineView]:
    return {each.engine: each for each in client.engines() if each.state in states}


def is_running(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_engines_of_a_killed_controller_leave_the_free_list_and_return_untouched(
    tmp_path: Path, master: MasterService, client: MasterClient
) -> None:
    (tmp_path / "echo.py").write_text(dedent(HANDLER))
    client.declare_stream(StreamDeclaration("images", handler=str(tmp_path / "echo.py"), engines=2))
    with worker_process(tmp_path, master) as first:
        wait_until(lambda: len(engines(client, Availability.IDLE)) == 2, 20)
        before = engines(client, Availability.IDLE)
        (lease,) = client.request_leases(LeaseRequest("images", "source", 1)).leases
        with BareConnector(lease.address, lease.ticket, "images") as connector:
            os.kill(first.pid, signal.SIGKILL)
            wait_until(lambda: len(engines(client, Availability.LOST)) == 2, 10)
            assert client.request_leases(LeaseRequest("images", "another", 2)).leases == ()
            assert connector.outcome(connector.send(b"nobody watches")).kind is OutcomeKind.DONE
            with worker_process(tmp_path, master):
                wait_until(lambda: len(engines(client, Availability.IDLE)) == 2, 20)
                after = engines(client, Availability.IDLE)
                assert {name: each.pid for name, each in after.items()} == {
                    name: each.pid for name, each in before.items()
                }
                assert connector.outcome(connector.send(b"untouched")).result == "untouched"
                assert len(client.request_leases(LeaseRequest("images", "another", 2)).leases) == 2
    assert client.engines() == ()
    assert not any(is_running(each.pid) for each in before.values())
