"""SIGTERM to each role while messages flow by both routes: nothing is lost or run twice, and force is told."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from benches.auditor import PROCESSED, Auditor
from benches.roles import Roles
from harmonicio.cli import foreground
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.client import MasterClient
from harmonicio.core.errors import InvalidInput
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.testing.waiting import wait_until

#: What a drain may take here, a slow machine included; the deadline of each role is 30 s.
WITHIN_S = 20
#: A worker that lives reports every second.
SILENT_S = 3.0
HANDLER = """
    import hashlib, time
    from pathlib import Path
    from harmonicio.engine import handler

    NOTES = Path(__file__).with_name("executed.txt")

    @handler
    def note(message):
        with open(NOTES, "a") as file:
            file.write(f"{message.id} {hashlib.sha256(message.payload).hexdigest()}\\n")
        time.sleep(message.metadata.get("seconds", 0.004))
"""


class Load:
    """Two sources that send until they are told to stop: one to engines, one into the backlog."""

    def __init__(self, url: str, token: str) -> None:
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._sent: list[tuple[Delivery, str]] = []
        self._connectors = [
            StreamConnector(stream="note", master=url, token=token, patience_s=patience_s) for patience_s in (None, 0.0)
        ]
        self._threads = [threading.Thread(target=self._send, args=(each,)) for each in self._connectors]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for connector in self._connectors:
            connector.close(timeout_s=30)

    @property
    def sent(self) -> int:
        return len(self._sent)

    def _send(self, connector: StreamConnector) -> None:
        try:
            while not self._stop.is_set():
                for size_bytes in (100, 100, 100_000):
                    payload = os.urandom(size_bytes)
                    self._sent.append((connector.send(payload), hashlib.sha256(payload).hexdigest()))
                time.sleep(0.01)
        except BaseException as error:
            self._failures.append(error)
            raise

    def flow_on(self, count: int = 100) -> None:
        """Wait until so many more were sent."""
        before = self.sent
        wait_until(lambda: self._failures or self.sent >= before + count, 30, what="more messages")
        assert not self._failures

    def audit(self, executed: Path, client: MasterClient) -> Auditor:
        """Stop, wait until everything is processed, and write the ledger."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        auditor = Auditor(has_effects=False)
        for delivery, digest in self._sent:
            auditor.sent(delivery.message_id, digest)
        for connector in self._connectors:
            connector.flush("processed", timeout_s=60)
        for delivery, _ in self._sent:
            auditor.told_safe(delivery.message_id, "stored or done")
            if delivery.error() is None:
                auditor.told_end(delivery.message_id, PROCESSED)
        for line in executed.read_text().splitlines():
            auditor.executed(*line.split())
        for message in {line.split()[0] for line in executed.read_text().splitlines()}:
            auditor.found(message, PROCESSED)
        (figures,) = client.backlog()
        for name in ("ready", "reserved", "dead"):
            auditor.gauge(name, getattr(figures, name))
        return auditor


@pytest.fixture
def roles(tmp_path: Path, free_ports: tuple[int, int]) -> Roles:
    (tmp_path / "note.py").write_text(dedent(HANDLER))
    return Roles(tmp_path / "home", *free_ports)


@contextmanager
def stopped(process: subprocess.Popen[bytes], exit_code: int = 0) -> Iterator[None]:
    """SIGTERM a role; in the end it must have ended like this."""
    process.send_signal(signal.SIGTERM)
    yield
    assert process.wait(WITHIN_S) == exit_code


def declare(client: MasterClient, tmp_path: Path, engines: int = 2) -> None:
    handler = str(tmp_path / "note.py")
    client.declare_stream(StreamDeclaration("note", handler=handler, engines=engines, concurrency=2))
    wait_until(lambda: client.stream("note").running == engines, 30, what="the engines")


@pytest.mark.timeout(180)
def test_each_role_drains_in_turn_and_a_worker_is_killed_while_messages_flow_by_both_routes(
    roles: Roles, tmp_path: Path
) -> None:
    with ExitStack() as exits:
        master = exits.enter_context(roles.running("master"))
        wait_until(roles.is_up, 20, what="the master")
        worker = exits.enter_context(roles.running("worker"))
        client = exits.enter_context(roles.client())
        declare(client, tmp_path)
        load = exits.enter_context(Load(roles.url, roles.token("source")))
        load.flow_on()

        (first, *_) = client.engines()
        os.kill(first.pid, signal.SIGTERM)  # By somebody outside: nobody has ordered it.
        load.flow_on()
        wait_until(lambda: first.engine not in running(client) and len(running(client)) == 2, 20, what="its successor")
        assert not client.workers()[0].troubles, "that was no failure"

        pids = running_pids(client)
        worker.kill()
        worker.wait()
        load.flow_on(50)
        wait_until(lambda: client.workers()[0].last_report_age_s > SILENT_S, 20, what="the worker's silence")
        worker = exits.enter_context(roles.running("worker"))
        wait_until(lambda: client.workers()[0].last_report_age_s < SILENT_S, 20, what="the next worker")
        wait_until(lambda: running_pids(client) == pids, 20, what="it to adopt both")  # Once they have found it.
        load.flow_on(50)

        with stopped(worker):
            load.flow_on(50)
        exits.enter_context(roles.running("worker"))
        wait_until(lambda: len(running(client)) == 2, 30, what="new engines")
        load.flow_on()

        with stopped(master):
            load.flow_on(20)
        exits.enter_context(roles.running("master"))
        wait_until(roles.is_up, 20, what="the master")
        wait_until(lambda: len(running(client)) == 2, 30, what="the engines, which have stayed")
        load.flow_on()
        auditor = load.audit(tmp_path / "executed.txt", client)
    assert auditor.violations() == []
    figures = auditor.figures()
    assert figures["handled again"] == 0, "what was drained has run once"


def running(client: MasterClient) -> set[str]:
    return {each.engine for each in client.engines() if each.state in ("idle", "busy")}


def running_pids(client: MasterClient) -> set[int | None]:
    return {each.pid for each in client.engines() if each.state in ("idle", "busy")}


def occupy(roles: Roles, client: MasterClient) -> None:
    """Have an engine handle a message of the backlog for longer than anybody waits."""
    client.scale_stream("note", 0)
    wait_until(lambda: not client.engines(), 20, what="no engine")
    with StreamConnector("note", master=roles.url, token=roles.token("source"), patience_s=0.0) as connector:
        connector.send(b"", metadata={"seconds": 600.0})
        connector.flush("safe", timeout_s=10)
    client.scale_stream("note", 1)
    wait_for_running_message(client)


def wait_for_running_message(client: MasterClient) -> None:
    wait_until(lambda: client.stream("note").backlog.reserved == 1, 20, what="the message at an engine")


@pytest.mark.timeout(120)
def test_a_role_that_is_hurried_says_that_it_used_force_and_the_message_stays(roles: Roles, tmp_path: Path) -> None:
    with ExitStack() as exits:
        master = exits.enter_context(roles.running("master"))
        wait_until(roles.is_up, 20, what="the master")
        worker = exits.enter_context(roles.running("worker", "--drain-s", "0.3"))
        client = exits.enter_context(roles.client())
        declare(client, tmp_path, engines=1)
        occupy(roles, client)
        with stopped(master, foreground.EXIT_FORCED):  # Whose deadline is far away.
            time.sleep(0.5)
            assert master.poll() is None, "it waits for the engine"
            master.send_signal(signal.SIGTERM)
        exits.enter_context(roles.running("master"))
        wait_until(roles.is_up, 20, what="the master")
        wait_for_running_message(client)
        with stopped(worker, foreground.EXIT_FORCED):
            pass
        wait_until(lambda: client.stream("note").backlog.ready == 1, 20, what="the message in the backlog")


@pytest.mark.timeout(120)
def test_a_cluster_on_one_machine_waits_for_its_engines_until_it_is_hurried(roles: Roles, tmp_path: Path) -> None:
    with roles.running("up", str(tmp_path / "note.py")) as cluster:
        wait_until(roles.is_up, 20, what="the master")
        with roles.client() as client:
            wait_until(lambda: client.streams() and client.stream("note").running == 1, 30, what="the engine")
            occupy(roles, client)
        with stopped(cluster, foreground.EXIT_FORCED):
            time.sleep(0.5)
            assert cluster.poll() is None, "it waits for the engine"
            cluster.send_signal(signal.SIGTERM)


@pytest.mark.timeout(120)
def test_engines_are_scaled_and_declared_anew_under_load_and_what_runs_is_finished(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "note.py").write_text(dedent(HANDLER))
    declaration = StreamDeclaration("note", handler=str(tmp_path / "note.py"), engines=3, concurrency=2)
    with ExitStack() as exits:
        cluster.declare(declaration)
        cluster.wait_for_engines("note", 3)
        client = exits.enter_context(MasterClient(cluster.url, cluster.token(Role.ADMIN)))
        load = exits.enter_context(Load(cluster.url, cluster.source_token))
        load.flow_on()
        for engines in (1, 3):
            client.scale_stream("note", engines)
            wait_until(lambda: len(running(client)) == engines, 20, what=f"{engines} engines")  # noqa: B023
            load.flow_on(50)
        before = running(client)
        with pytest.raises(InvalidInput):
            client.declare_stream(replace(declaration, plugins={"haste": {"function": {"name": "nonesuch"}}}))
        load.flow_on(50)
        assert running(client) == before, "what cannot be used changes nothing"
        client.declare_stream(replace(declaration, timeout_s=60.0))
        wait_until(lambda: len(running(client) - before) == 3 and not before & running(client), 30, what="new engines")
        load.flow_on(50)
        auditor = load.audit(tmp_path / "executed.txt", client)
    assert auditor.violations() == []
    assert auditor.figures()["handled again"] == 0, "only idle and drained engines went"
