"""A master that is away and comes back to a crowd. The short form is for CI; ``make outage`` has the long one."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from benches.roles import Roles
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import LeaseRequest
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.intake import MAX_RECEIVING_THREADS, MAX_SENDING_THREADS
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.crowd import Crowd
from harmonicio.testing.waiting import wait_until
from harmonicio.transport.data_port import MAX_THREADS
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import VERSION

IS_FULL = os.environ.get("OUTAGE") == "full"
#: Ten minutes with all time settings divided by 60 are ten seconds.
OUTAGE_S = 10.0 if IS_FULL else 3.0
CONNECTORS = 1_000 if IS_FULL else 60
CONNECTIONS = 10_000 if IS_FULL else 2_000
PER_PROCESS = 50
MESSAGES_EACH, MESSAGE_BYTES = 5, 20_000
#: Of one process of ours that is not busy with payloads.
MAX_GROWTH_BYTES = 300 * 1024**2

pytestmark = pytest.mark.timeout(300)

SOURCES = """
import json, sys, threading
from collections import Counter
from harmonicio.control.client import MasterClient
from harmonicio.master.intake import MAX_RECEIVING_THREADS, MAX_SENDING_THREADS
from harmonicio.stream_connector import StreamConnector

url, token, count, messages, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
answers = Counter()

class Watched(MasterClient):
    def _request(self, method, path, *arguments, **options):
        response = super()._request(method, path, *arguments, **options)
        busy = response.status_code == 503 and "Retry-After" in response.headers
        answers["busy" if busy else str(response.status_code)] += 1
        return response

connectors = [StreamConnector("plates", client=Watched(url, token)) for _ in range(count)]
opening = [threading.Thread(target=each.__enter__) for each in connectors]
for each in opening: each.start()
for each in opening: each.join()
sent = [each.send(bytes(size)).message_id for each in connectors for _ in range(messages)]
print("waiting", flush=True)
for each in connectors:
    each.flush("safe", timeout_s=120)
    each.close(10)
print(json.dumps({"answers": answers, "sent": sent}))
"""


@pytest.fixture
def roles(tmp_path: Path, free_ports: tuple[int, int]) -> Iterator[Roles]:
    """A cluster whose processes may open many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield Roles(tmp_path / "home", *free_ports)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def declare(roles: Roles, **options: object) -> None:
    with roles.client() as client:
        client.declare_stream(StreamDeclaration("plates", handler="harmonicio.engine.echo", **options))  # type: ignore[arg-type]


def begin(roles: Roles, parts: ExitStack) -> None:
    """Have a worker and one engine."""
    wait_until(roles.is_up, 20)
    parts.enter_context(roles.running("worker"))
    declare(roles, engines=1)
    with roles.client() as client:
        wait_until(lambda: client.stream("plates").running, 60)


def test_engines_and_sources_go_on_while_the_master_is_away_and_the_rest_follows_by_itself(roles: Roles) -> None:
    with ExitStack() as parts:
        master = parts.enter_context(roles.running("master"))
        begin(roles, parts)
        token = roles.token("source")
        live = StreamConnector("plates", master=roles.url, token=token, patience_s=600.0)
        waiting = StreamConnector("plates", master=roles.url, token=token)
        with live, waiting:
            live.send(bytes(1000)).result(30)
            master.kill()
            master.wait()
            stored = [waiting.send(bytes(1000)) for _ in range(50)]
            back_at, sent = time.monotonic() + OUTAGE_S, 0
            while time.monotonic() < back_at:
                assert live.send(bytes(1000)).result(10)["size_bytes"] == 1000
                sent += 1
            assert sent > 10
            assert not any(each.is_safe for each in stored) or waiting.figures().engines
            with roles.running("master"):
                waiting.flush("processed", timeout_s=60)
                assert live.send(bytes(1000)).result(30)["size_bytes"] == 1000
                assert live.figures().via_backlog == 0


def test_a_crowd_of_connectors_that_comes_back_at_once_does_no_harm(roles: Roles) -> None:
    with roles.running("master") as master:
        wait_until(roles.is_up, 20)
        declare(roles, engines=0)
        token = roles.token("source")
        master.kill()
        master.wait()
    counts = [min(PER_PROCESS, CONNECTORS - at) for at in range(0, CONNECTORS, PER_PROCESS)]
    arguments = [roles.url, token]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SOURCES, *arguments, str(each), str(MESSAGES_EACH), str(MESSAGE_BYTES)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for each in counts
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "waiting\n"
        with roles.running("master") as master:
            wait_until(roles.is_up, 30)
            process = psutil.Process(master.pid)
            began_bytes = process.memory_info().rss
            said = [json.loads(child.communicate(timeout=150)[0]) for child in children]
            grown_bytes = process.memory_info().rss - began_bytes
            with roles.client() as client:
                backlog = client.stream("plates").backlog
    finally:
        for child in children:
            child.kill()
            child.communicate()
    answers = {status for each in said for status in each["answers"]}
    assert answers <= {"200", "201", "204", "busy"}
    assert len({sent for each in said for sent in each["sent"]}) == CONNECTORS * MESSAGES_EACH == backlog.ready
    assert grown_bytes < MAX_GROWTH_BYTES


def test_thousands_of_idle_connections_cost_no_threads_and_many_may_come_back_at_once(roles: Roles) -> None:
    with roles.running("master") as master:
        wait_until(roles.is_up, 20)
        declare(roles, engines=0)
        with MasterClient(roles.url, roles.token("source")) as client:
            access = client.request_leases(LeaseRequest("plates", "crowd", 0)).backlog
        hello = Hello(Role.CONNECTOR, stream="plates", source="crowd", ticket=access.ticket, versions=(VERSION,))
        process = psutil.Process(master.pid)
        began_bytes, began_threads = process.memory_info().rss, process.num_threads()
        with Crowd(access.address, hello) as crowd:
            came_s = crowd.come(CONNECTIONS, within_s=120)
            grown_bytes = process.memory_info().rss - began_bytes
            assert process.num_threads() - began_threads <= MAX_RECEIVING_THREADS + MAX_SENDING_THREADS
            assert grown_bytes / CONNECTIONS < 100_000
            before_s = sum(process.cpu_times()[:2])
            time.sleep(1.0)
            assert sum(process.cpu_times()[:2]) - before_s < 0.3, "idle connections cost no time of the processor"
            crowd.leave(CONNECTIONS // 10)
            again_s = crowd.come(CONNECTIONS // 10, within_s=60)
            sys.stdout.write(
                f"{CONNECTIONS} connections came in {came_s:.1f} s, {CONNECTIONS // 10} again in {again_s:.1f} s; "
                f"{grown_bytes / CONNECTIONS:.0f} bytes each, {process.num_threads() - began_threads} threads more\n"
            )
            with StreamConnector("plates", master=roles.url, token=roles.token("source")) as connector:
                connector.send(b"image")
                connector.flush("safe", timeout_s=20)


def test_an_engine_holds_hundreds_of_connections_and_serves(roles: Roles) -> None:
    with ExitStack() as parts:
        parts.enter_context(roles.running("master"))
        begin(roles, parts)
        with roles.client() as client, MasterClient(roles.url, roles.token("source")) as source:
            (lease,) = source.request_leases(LeaseRequest("plates", "crowd", 1)).leases
            (pid,) = [each.pid for each in client.engines() if each.pid]
        hello = Hello(
            Role.CONNECTOR,
            stream="plates",
            source="crowd",
            engine=lease.engine,
            ticket=lease.ticket,
            versions=(VERSION,),
        )
        before = psutil.Process(pid).num_threads()
        with Crowd(lease.address, hello) as crowd:
            crowd.come(200, within_s=60)
            assert psutil.Process(pid).num_threads() - before <= MAX_THREADS + 16, "its port's, and what else it has"
            with StreamConnector("plates", master=roles.url, token=roles.token("source")) as connector:
                assert connector.send(b"image").result(30)["size_bytes"] == 5
