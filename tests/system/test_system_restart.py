"""The master is killed and comes back: what it had promised is kept, and everybody finds it again."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import pytest

from benches.roles import Roles
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

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
