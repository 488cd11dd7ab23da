"""A host without threads, processes or ports to spare: who is served is served on, and the rest follows by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

from benches.hosts import Hosts
from benches.roles import Roles
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
