"""A role that has lost a part of itself does not linger: it ends, and says which part, so that it is started again."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benches import lost_thread
from benches.lost_thread import end_thread
from benches.master import client_of, run_master
from benches.roles import Roles
from harmonicio.core.errors import Unavailable
from harmonicio.core.roles import Role
from harmonicio.master.service import MasterService
from harmonicio.testing.waiting import wait_until


@pytest.fixture
def ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master") as running:
        yield running


def start(roles: Roles, role: str, thread: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as written:
        return roles.start(
            role, "run", through=[lost_thread.__file__, thread], log=written, takes_orders=True, WORKER_NAME="w"
        )


@pytest.mark.parametrize(
    ("thread", "part"),
    [
        ("intake-port", "data port"),
        ("master-ticker", "ticker"),
        ("master-http", "web server"),
        ("backlog-writer", "backlog"),
    ],
)
def test_a_master_that_has_lost_a_part_ends_and_names_it(
    tmp_path: Path, ports: tuple[int, int], thread: str, part: str
) -> None:
    roles, log = Roles(tmp_path / "home", *ports), tmp_path / "log"
    with start(roles, "master", thread, log) as master:
        try:
            wait_until(roles.is_up, 20)
            assert master.stdin is not None
            master.stdin.write(b"now\n")
            master.stdin.flush()

            def has_ended() -> bool:
                with socket.socket() as caller:
                    caller.connect_ex(("127.0.0.1", ports[1]))  # The port sees that it is to end when somebody comes.
                return master.poll() is not None

            wait_until(has_ended, 20)
        finally:
            master.kill()
    assert master.returncode == 1
    assert f"error: Of the master the {part} is gone. Start it again." in log.read_text()


def test_a_worker_that_has_lost_a_part_ends_and_names_it(tmp_path: Path, ports: tuple[int, int]) -> None:
    roles, log = Roles(tmp_path / "home", *ports), tmp_path / "log"
    with roles.running("master"):
        wait_until(roles.is_up, 20)
        with start(roles, "worker", "worker-report", log) as worker, roles.client() as client:
            try:
                wait_until(client.workers, 20, what="the worker to register")
                assert worker.stdin is not None
                worker.stdin.write(b"now\n")
                worker.stdin.flush()
                assert worker.wait(20) == 1
            finally:
                worker.kill()
    assert "error: Of the worker the reporter is gone. Start it again." in log.read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_and_readiness_name_the_part_that_is_gone(service: MasterService) -> None:
    with client_of(service, Role.ADMIN) as client:
        assert client.health().status == "ok"
        end_thread("master-ticker")
        wait_until(lambda: service.gone_parts)
        for ask in (client.health, client.ready):
            with pytest.raises(Unavailable, match="Of the master the ticker is gone"):
                ask()
