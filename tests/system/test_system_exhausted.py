"""Without threads, processes, ports or files to spare: who is served is served on, and the rest follows by itself."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from benches.hosts import Hosts
from benches.roles import Roles
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

PIDS = Path("/sys/fs/cgroup/pids")
FIRST_PORT, LAST_PORT = 61_000, 61_003
#: More than what the backlog keeps in its index: a file of its own, which a thread of its own writes.
LARGE_BYTES = 100_000
HANDLER = "harmonicio.engine.echo"
#: Takes every port that programs are given, until its input ends.
OCCUPY = """
import socket, sys
taken = []
for port in range(*map(int, sys.argv[1:])):
    taken.append(socket.create_server(("", port)))
print(len(taken), flush=True)
sys.stdin.read()
"""
#: A connection's state in /proc.
ESTABLISHED = "01"
#: Sends each line of its input and says how many bytes have been processed.
SOURCE = """
import sys
from harmonicio.stream_connector import StreamConnector
with StreamConnector("s", master=sys.argv[1], token=sys.argv[2], patience_s=600.0) as connector:
    for line in sys.stdin:
        print(connector.send(line.encode()).result(120)["size_bytes"], flush=True)
"""


class Room:
    """For how many threads and processes there is room beside those that some processes have."""

    def __init__(self, *processes: subprocess.Popen[bytes]) -> None:
        self._group = PIDS / f"harmonicio-test-{os.getpid()}"
        self._processes = processes

    def __enter__(self) -> Self:
        self._group.mkdir()
        for each in self._processes:
            (self._group / "cgroup.procs").write_text(str(each.pid))
        return self

    def __exit__(self, *_: object) -> None:
        self.is_for(None)
        for pid in (self._group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (PIDS / "cgroup.procs").write_text(pid)
        self._group.rmdir()

    def is_for(self, more: int | None) -> None:
        """Let so many more be started from now on; None: as many as they like."""
        limit = "max" if more is None else str(int((self._group / "pids.current").read_text()) + more)
        (self._group / "pids.max").write_text(limit)


@pytest.mark.skipif(not os.access(PIDS, os.W_OK), reason="needs root and a cgroup hierarchy of its own for pids")
def test_without_threads_and_processes_to_spare_live_connections_go_on_and_the_rest_follows(
    tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    roles = Roles(tmp_path / "home", *free_ports)
    with ExitStack() as running:
        master = running.enter_context(roles.running("master"))
        wait_until(roles.is_up, 20)
        worker = running.enter_context(roles.running("worker"))
        client = running.enter_context(roles.client())
        client.declare_stream(StreamDeclaration("s", handler=HANDLER, engines=1))
        wait_until(lambda: client.stream("s").running == 1, 60)

        def connector(**options: float) -> StreamConnector:
            made = StreamConnector("s", master=roles.url, token=roles.token("source"), **options)
            return running.enter_context(made)

        live = connector(patience_s=600.0)
        live.send(b"first").result(30)
        with Room(master, worker) as room:
            room.is_for(0)
            client.scale_stream("s", 2)
            stored = [connector(patience_s=0.0).send(bytes(LARGE_BYTES)) for _ in range(20)]
            wait_until(lambda: all(each.is_safe for each in stored), 60, what="what came late to be stored")
            wait_until(lambda: "cannot be started" in str(client.workers()), 60, what="it to be said what is wrong")
            assert [live.send(b"image").result(30)["size_bytes"] for _ in range(20)] == [5] * 20
            assert client.stream("s").running == 1
            room.is_for(None)
            wait_until(lambda: client.stream("s").running == 2, 120, what="the engine that was missing")
            for each in stored:
                assert each.result(60)["size_bytes"] == LARGE_BYTES
            assert (master.poll(), worker.poll()) == (None, None)


def test_without_ports_to_spare_what_is_sent_waits_and_arrives_when_there_are_some(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1000))
    (tmp_path / "streams.toml").write_text(f"[streams.s]\nhandler = '{HANDLER}'\nengines = 1\n")
    with Hosts("host") as hosts, ExitStack() as running:
        on = hosts.on("host")
        roles = Roles(tmp_path / "home", 8610, 8611)

        def asked(*words: str) -> str:
            with roles.start(*words, on=on, log=subprocess.PIPE) as command:
                return b"".join(command.communicate()).decode()

        master = running.enter_context(roles.running("master", on=on))
        wait_until(lambda: "is declared" in asked("stream", "apply", str(tmp_path / "streams.toml")), 60)
        worker = running.enter_context(roles.running("worker", on=on))
        wait_until(lambda: json.loads(asked("stream", "show", "s", "--json"))["running"] == 1, 60)
        assert "error" not in asked("send", "s", str(image))
        # Ports that nobody has had yet: one that was used may be used again for another connection.
        hosts.run("host", "sysctl", "-w", f"net.ipv4.ip_local_port_range={FIRST_PORT} {LAST_PORT}")
        arguments = [*on, sys.executable, "-c", OCCUPY, str(FIRST_PORT), str(LAST_PORT + 1)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as occupied:
            assert occupied.stdout is not None
            assert occupied.stdout.readline()
            assert "Cannot assign requested address" in (said := asked("status")), said
            sending = roles.start("send", "s", str(image), "--timeout-s", "60", on=on, log=subprocess.PIPE)
            with pytest.raises(subprocess.TimeoutExpired):
                sending.wait(3.0)  # It does not give up.
            occupied.communicate("")
        with sending:
            said = b"".join(sending.communicate(timeout=90)).decode()
        assert sending.returncode == 0, said
        assert (master.poll(), worker.poll()) == (None, None)


@contextmanager
def no_files(pid: int) -> Iterator[None]:
    """A process can open no file or socket while this lasts, also none for one that it closes; what it has stays."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def images(cluster: LocalCluster) -> LocalCluster:
    """A cluster with one engine that has a stream."""
    cluster.declare(StreamDeclaration("s", handler=HANDLER, engines=1))
    cluster.wait_for_engines("s", 1)
    return cluster


def engines_of(cluster: LocalCluster) -> list[int]:
    """Return the processes of the engines that take messages."""
    return [view.pid for view in cluster.client.engines() if view.pid and view.state in ("idle", "busy")]


def connections(pid: int) -> int:
    """Return how many data connections of a process are open, over TCP and over the socket in its folder."""
    files = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    rows = map(str.split, Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    over_tcp = sum(row[3] == ESTABLISHED and f"socket:[{row[9]}]" in files for row in rows)
    rows = map(str.split, Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:])
    is_open = [row[5] == "03" and row[-1].endswith("data.sock") and f"socket:[{row[6]}]" in files for row in rows]
    return over_tcp + sum(is_open)


def test_a_worker_without_files_to_spare_keeps_its_engines_and_starts_what_is_missing_when_there_are_some(
    tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    roles = Roles(tmp_path / "home", *free_ports)
    with ExitStack() as running:
        running.enter_context(roles.running("master"))
        wait_until(roles.is_up, 20)
        worker = running.enter_context(roles.running("worker"))
        client = running.enter_context(roles.client())
        client.declare_stream(StreamDeclaration("s", handler=HANDLER, engines=1))
        wait_until(lambda: client.stream("s").running == 1, 60)
        token = roles.token("source")
        live = running.enter_context(StreamConnector("s", master=roles.url, token=token, patience_s=600.0))
        live.send(b"first").result(30)
        with no_files(worker.pid):
            client.scale_stream("s", 2)
            wait_until(lambda: "Too many open files" in str(client.workers()), 60, what="it to be said what is wrong")
            assert [live.send(b"image").result(30)["size_bytes"] for _ in range(20)] == [5] * 20
            assert client.stream("s").running == 1
        wait_until(lambda: client.stream("s").running == 2, 120, what="the engine that was missing")
        assert worker.poll() is None


def test_an_engine_without_files_to_spare_serves_whom_it_serves_and_lets_others_in_when_there_are_some(
    images: LocalCluster, connect: Callable[..., StreamConnector]
) -> None:
    (engine,) = engines_of(images)
    with connect("s", patience_s=600.0) as live:
        live.send(b"first").result(30)
        wait_until(lambda: connections(engine) == 2, 30, what="it to be connected to its source and to the master")
        with no_files(engine), connect("s", patience_s=0.0) as late:
            delivery = late.send(b"image")
            assert delivery.result(60)["size_bytes"] == 5
            assert delivery.route == "backlog"
            assert [live.send(b"image").result(30)["size_bytes"] for _ in range(20)] == [5] * 20
        with connect("s", patience_s=600.0) as later:
            delivery = later.send(b"image")
            assert delivery.result(60)["size_bytes"] == 5
            assert delivery.route == "engine"
    assert engines_of(images) == [engine]


def test_a_source_without_files_to_spare_sends_on_and_finds_new_engines_when_there_are_some(
    images: LocalCluster,
) -> None:
    program = [sys.executable, "-c", SOURCE, images.url, images.source_token]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as source:
        assert source.stdin is not None
        assert source.stdout is not None

        def send(image: str) -> None:
            assert source.stdin is not None
            source.stdin.write(f"{image}\n")
            source.stdin.flush()

        send("first")
        assert source.stdout.readline() == "6\n"
        with no_files(source.pid):
            send("image 2")
            assert source.stdout.readline() == "8\n"
            (first,) = engines_of(images)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: set(engines_of(images)) - {first}, 60, what="another engine")
            send("another image")
            assert not select.select([source.stdout], [], [], 3.0)[0], "it needs a connection for that"
        assert source.stdout.readline() == "14\n"
        source.stdin.close()
        assert source.wait(60) == 0
