"""Broken frames at the open data ports of a real master and a real engine: they serve on, and keep nothing of it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from benches.engine import ECHO, Start, engine_benches
from benches.master import ask
from fuzzing.conversations import READERS, Reader
from fuzzing.frames import Cases, rss_bytes
from fuzzing.rest import Target
from harmonicio.core.lease import Address
from harmonicio.core.message import OutcomeKind
from harmonicio.core.roles import Role as Roles
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.testing.bare_peers import BareConnector, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.wire import sections
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import MAX_INLINE_BYTES

CONNECTIONS = 1_000
MAX_GROWTH_BYTES = 48 * 1024**2
BEFORE_HELLO, FROM_CONNECTOR, FROM_ENGINE = READERS[:2], READERS[4], READERS[5]

#: Returns what is said before the broken frames.
Opening = Callable[[Reader], bytes]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    options = MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0)
    with MasterService(options) as service, closing(Target(service)) as prepared:
        prepared.prepare()
        yield prepared


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


def attack(address: Address, readers: tuple[Reader, ...], opening: Opening, first: int, connections: int) -> int:
    """Open so many connections, one after another, with a case of the fuzzer on each; return the number of frames."""
    cases, number, frames = Cases(seed=7), first, 0
    for _ in range(connections):
        while (case := cases.case(number)).reader not in readers:
            number += 1
        number += 1
        random = Random(number)
        with socket.create_connection((address.host, address.port), timeout=5) as sock:
            sock.settimeout(0.5)
            # The peer may have closed already, or read no more of what it has refused.
            with contextlib.suppress(OSError):
                sock.sendall(opening(case.reader) + case.data)
                if random.random() < 0.5:
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65_536):
                        pass
            if random.random() < 0.3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # An end by reset.
        frames += len(case.frames)
    return frames


def sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


def put(target: Target, ticket: str) -> bool:
    """Whether a new source's message is stored."""
    with BareConnector(target.service.data_address, ticket, "plates", "scope") as connector:
        return connector.outcome(connector.send(b"abc")).kind is OutcomeKind.STORED


def test_a_master_serves_on_whatever_came_to_its_data_port(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    ticket = ask(target.admin, "scope").backlog.ticket
    engine_ticket = target.tokens[Roles.ENGINE].split(":", 3)[3]
    source = sections.hello_frame(Hello(Role.CONNECTOR, stream="plates", ticket=ticket, source="scope"))
    engine = sections.hello_frame(
        Hello(Role.ENGINE, stream="plates", ticket=engine_ticket, engine="e1", worker="w1", max_message_bytes=2**30)
    )

    def opening(reader: Reader) -> bytes:
        return source if reader is FROM_CONNECTOR else engine if reader is FROM_ENGINE else b""

    readers = (*BEFORE_HELLO, FROM_CONNECTOR, FROM_ENGINE)
    address = target.service.data_address
    intake = target.service._intake
    with caplog.at_level(logging.WARNING):
        assert put(target, ticket)
        frames = attack(address, readers, opening, 0, CONNECTIONS // 5)
        wait_until(lambda: intake._ports[0].connections == 0, 20, what="the connections to end")
        gc.collect()
        before = sockets(), threading.active_count(), rss_bytes()
        frames += attack(address, readers, opening, 10_000, CONNECTIONS)
        wait_until(lambda: intake._ports[0].connections == 0, 20, what="the connections to end")
        assert frames > 3 * CONNECTIONS
        wait_until(lambda: sockets() <= before[0], 10, what="the sockets to be closed")
        gc.collect()
        assert threading.active_count() <= before[1] + 8, threading.enumerate()
        assert rss_bytes() - before[2] < MAX_GROWTH_BYTES
        target.serves()
        assert put(target, ticket)
        wait_until(lambda: (intake._engines, intake._connectors) == ({}, set()), 10, what="the sessions to end")
    assert [
        record.getMessage() for record in caplog.records if record.exc_info or record.levelno > logging.WARNING
    ] == []


def test_an_engine_serves_on_whatever_came_to_its_data_port(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = start(ECHO, memory_payload_max_bytes=MAX_INLINE_BYTES, max_message_bytes=2**20)
    address = bench.daemon.address
    assert address is not None
    ticket = lease_ticket(bench.configuration, source="source", lease="l1")
    hello = sections.hello_frame(Hello(Role.CONNECTOR, stream="cells", ticket=ticket, source="source"))

    def opening(reader: Reader) -> bytes:
        return hello if reader is FROM_CONNECTOR else b""

    with caplog.at_level(logging.WARNING):
        connector = bench.connector(lease="l2")
        frames = attack(address, (*BEFORE_HELLO, FROM_CONNECTOR), opening, 0, CONNECTIONS // 5)
        gc.collect()
        before = sockets(), threading.active_count(), rss_bytes()
        frames += attack(address, (*BEFORE_HELLO, FROM_CONNECTOR), opening, 10_000, CONNECTIONS)
        assert frames > 3 * CONNECTIONS
        wait_until(lambda: sockets() <= before[0], 20, what="the sockets to be closed")
        wait_until(lambda: "ByteBudget: 0 of" in repr(bench.daemon._payloads), 20, what="the budget to be free")
        gc.collect()
        assert threading.active_count() <= before[1] + 8, threading.enumerate()
        assert rss_bytes() - before[2] < MAX_GROWTH_BYTES
        scratch = tmp_path / "scratch"
        assert [path for path in scratch.rglob("*") if path.is_file()] == []
        # A connection that was open before, and one that is new.
        for each in (connector, bench.connector(lease="l3")):
            assert each.outcome(each.send(b"whole")).kind is OutcomeKind.DONE
    assert [
        record.getMessage() for record in caplog.records if record.exc_info or record.levelno > logging.WARNING
    ] == []
