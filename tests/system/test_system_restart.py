"""The master is killed and comes back: what it had promised is kept, and everybody finds it again."""

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
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

#: A worker gives its engines 30 s to drain, and has to tell its master.
STOP_WITHIN_S = 45
HANDLER = """
    import time
    from pathlib import Path
    from harmonicio.engine import handler

    @handler
    def note(message):
        while not Path(__file__).with_name("go").exists():
            time.sleep(0.02)
        with open(Path(__file__).with_name("handled.txt"), "a") as file:
            file.write(message.id + "\\n")
"""


class Roles:
    """Master and worker as processes of their own, on ports that stay the same over a restart."""

    def __init__(self, home: Path, port: int, data_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._environ = {
            **os.environ,
            "HARMONICIO_HOME": str(home),
            "HARMONICIO_MASTER_URL": self.url,
            "HARMONICIO_MASTER_PORT": str(port),
            "HARMONICIO_MASTER_DATA_PORT": str(data_port),
            "HARMONICIO_WORKER_MAX_ENGINES": "2",
        }
        self._home = home

    @contextmanager
    def running(self, role: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "harmonicio.cli", role, "run"],
            env=self._environ,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                pytest.fail(f"The {role} did not stop within {STOP_WITHIN_S} s of SIGTERM.")

    def token(self, role: str) -> str:
        return (self._home / "master" / "tokens" / f"{role}.token").read_text().strip()

    def client(self) -> MasterClient:
        return MasterClient(self.url, self.token("admin"))

    def is_up(self) -> bool:
        try:
            with MasterClient(self.url) as client:
                client.ready()
        except HarmonicIOError:
            return False
        return True


@pytest.mark.timeout(120)
def test_a_hundred_stored_messages_survive_the_kill_of_the_master(tmp_path: Path, free_ports: tuple[int, int]) -> None:
    roles = Roles(tmp_path / "home", *free_ports)
    handler = tmp_path / "note.py"
    handler.write_text(dedent(HANDLER))
    (tmp_path / "go").touch()
    handled = tmp_path / "handled.txt"
    with roles.running("master") as master:
        wait_until(roles.is_up, 20)
        with roles.client() as client:
            client.declare_stream(StreamDeclaration("note", handler=str(handler), engines=0))
        with StreamConnector(stream="note", master=roles.url, token=roles.token("source")) as connector:
            ids = [connector.send(os.urandom(200_000)).message_id for _ in range(100)]
            connector.flush("safe", timeout_s=30)
            with roles.client() as client:
                assert client.stream("note").backlog.ready == 100
            master.kill()
            master.wait()
    with roles.running("master"):
        wait_until(roles.is_up, 20)
        with roles.client() as client, roles.running("worker"):
            assert client.stream("note").backlog.ready == 100
            client.scale_stream("note", 2)
            wait_until(lambda: client.stream("note").backlog.done_total >= 100, 60, what="all messages processed")
            assert client.stream("note").backlog.ready == 0
    assert sorted(handled.read_text().split()) == sorted(ids)


@pytest.mark.timeout(120)
def test_workers_engines_and_what_waits_for_them_come_back_when_the_master_was_killed(
    tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    roles = Roles(tmp_path / "home", *free_ports)
    handler = tmp_path / "note.py"
    handler.write_text(dedent(HANDLER))
    with roles.running("master") as master:
        wait_until(roles.is_up, 20)
        with roles.running("worker"), roles.client() as client:
            client.declare_stream(StreamDeclaration("note", handler=str(handler), engines=2))
            wait_until(lambda: client.stream("note").running == 2, 30, what="two engines")
            pids = {view.engine: view.pid for view in client.engines()}
            with StreamConnector(stream="note", master=roles.url, token=roles.token("source")) as connector:
                ids = [connector.send(os.urandom(200_000)).message_id for _ in range(110)]
                wait_until(
                    lambda: client.stream("note").backlog.ready >= 100, 30, what="100 that wait for busy engines"
                )
                master.kill()
                master.wait()
                with roles.running("master"):
                    wait_until(roles.is_up, 20)
                    wait_until(lambda: client.stream("note").running == 2, 30, what="the same two engines")
                    assert {view.engine: view.pid for view in client.engines()} == pids
                    (tmp_path / "go").touch()
                    ids.append(connector.send(b"after the restart").message_id)
                    connector.flush("processed", timeout_s=40)
                    wait_until(lambda: client.stream("note").backlog.ready == 0, 40, what="nothing that waits")
    assert set((tmp_path / "handled.txt").read_text().split()) == set(ids)
