"""Tokens and tickets of others, and what comes without any: how it is compared, told and counted."""

from __future__ import annotations

import hmac
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benches.engine import Start, engine_benches
from benches.master import PLATES, ask, client_of, run_master
from harmonicio.control import paths, tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.control.messages import WorkerRegistration
from harmonicio.core.errors import NotAllowed
from harmonicio.core.lease import Address, Claims, TicketKind
from harmonicio.core.roles import Role
from harmonicio.master.service import MasterService
from harmonicio.testing.bare_peers import BareConnector, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.wire import sections
from harmonicio.wire.connection import HANDSHAKE_LIMIT_BYTES
from harmonicio.wire.events import Hello
from harmonicio.wire.events import Role as DataRole
from harmonicio.wire.frames import FIXED_LENGTH

#: Far more than all buffers between two sockets hold.
FLOOD_BYTES = 64 * 1024**2
HELLO = sections.hello_frame(Hello(DataRole.CONNECTOR, stream="plates", ticket="", source="s"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master") as running:
        yield running


@pytest.fixture
def admin(service: MasterService) -> Iterator[MasterClient]:
    with client_of(service, Role.ADMIN) as client:
        client.declare_stream(PLATES)
        yield client


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S2")
def test_as_many_digests_are_compared_in_constant_time_whichever_token_is_presented(
    service: MasterService, admin: MasterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = admin.create_token("microscope", Role.SOURCE).secret
    tokens, compared = len(admin.tokens()), 0

    def compare(first: bytes, second: bytes) -> bool:
        nonlocal compared
        compared += len(first) == len(second) == 32
        return genuine(first, second)

    genuine = hmac.compare_digest
    with MasterClient(service.url, secret) as last, MasterClient(service.url, secret[:-1] + "!") as wrong:
        monkeypatch.setattr(hmac, "compare_digest", compare)
        for caller, is_known in ((admin, True), (last, True), (wrong, False)):
            compared = 0
            if is_known:
                caller.status()
            else:
                with pytest.raises(NotAllowed):
                    caller.status()
            assert compared == tokens, "the first, the last and none"


# ── tickets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def refusal_of(caplog: pytest.LogCaptureFixture, greet: Callable[[], object], ticket: str) -> str:
    """Return the warning about a ticket that is refused."""
    caplog.clear()
    with pytest.raises(NotAllowed):
        greet()
    (record,) = (each for each in caplog.records if "is refused" in each.getMessage())
    assert record.levelname == "WARNING"
    assert not ticket or ticket not in caplog.text, "who reads the log has no ticket by that"
    return record.getMessage()


@pytest.mark.row("S3")
def test_an_engine_logs_who_comes_with_a_ticket_that_is_not_theirs(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    bench = start()
    address = bench.daemon.address
    assert address is not None
    mine = lease_ticket(bench.configuration, source="scope")
    with BareConnector(address, mine, "cells", "scope"), BareConnector(address, mine, "cells", "scope"):
        pass  # Its source may present it again.
    for ticket, stream, source in (
        (mine, "cells", "thief"),
        (mine, "tissue", "scope"),
        (mine[:-6], "cells", "scope"),
        (lease_ticket(bench.configuration, source="scope", term_s=-1_000.0), "cells", "scope"),
        ("", "cells", "scope"),
    ):
        told = refusal_of(caplog, lambda who=(ticket, stream, source): BareConnector(address, *who), ticket)
        assert repr(source) in told and repr(stream) in told and "127.0.0.1" in told
    bench.controller.order(EngineOrder(epoch=2))
    wait_until(lambda: bench.daemon._desk.epoch == 2)
    assert "'scope'" in refusal_of(caplog, lambda: BareConnector(address, mine, "cells", "scope"), mine)


@pytest.mark.row("S3")
def test_a_master_logs_who_comes_to_its_backlog_with_a_ticket_that_is_not_theirs(
    service: MasterService, admin: MasterClient, caplog: pytest.LogCaptureFixture
) -> None:
    mine = ask(admin, "scope").backlog.ticket
    with BareConnector(service.data_address, mine, "plates", "scope"):
        pass

    def greets(source: str, stream: str = "plates") -> Callable[[], object]:
        return lambda: BareConnector(service.data_address, mine, stream, source)

    assert "'thief'" in refusal_of(caplog, greets("thief"), mine)
    assert "'spectra'" in refusal_of(caplog, greets("scope", "spectra"), mine)
    admin.revoke_all_leases()
    assert "'scope'" in refusal_of(caplog, greets("scope"), mine)


@pytest.mark.row("S3")
def test_a_master_logs_who_asks_with_a_ticket_or_token_that_is_not_theirs(
    service: MasterService, admin: MasterClient, caplog: pytest.LogCaptureFixture
) -> None:
    key = admin.register_worker(WorkerRegistration("w1", "127.0.0.1", 1, "memory", "1")).ticket_key
    claims = Claims(TicketKind.ENGINE, "plates", tickets.ENGINE_TICKET_TERM_S, time.time(), 0, engine="e1")
    mine = tickets.sign(tickets.derive_key(key, "engine", "e1"), claims)
    secret = admin.create_token("microscope", Role.SOURCE).secret
    admin.revoke_token("microscope")
    for bearer in (tickets.engine_bearer("w1", "e2", mine), tickets.engine_bearer("w2", "e1", mine), secret):
        with MasterClient(service.url, bearer) as thief:
            told = refusal_of(caplog, lambda thief=thief: ask(thief, "s1"), bearer.rpartition(":")[2])
        assert "127.0.0.1" in told and paths.LEASES in told


# ── neither ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch, port: int) -> Iterator[list[int]]:
    """Count what this process takes from connections that were made to a port, whatever becomes of it."""
    taken: list[int] = []
    receive, receive_into = socket.socket.recv, socket.socket.recv_into

    def note(sock: socket.socket, count: int) -> None:
        if sock.family == socket.AF_INET and sock.getsockname()[1] == port:
            taken.append(count)

    def recv(sock: socket.socket, *options: int) -> bytes:
        part = receive(sock, *options)
        note(sock, len(part))
        return part

    def recv_into(sock: socket.socket, buffer: memoryview, *options: int) -> int:
        count = receive_into(sock, buffer, *options)
        note(sock, count)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "recv", recv)
        patch.setattr(socket.socket, "recv_into", recv_into)
        yield taken


def flood(address: Address, opening: bytes) -> None:
    """Send what begins so, and goes on, until the other side has had enough."""
    part, left = bytes(1024**2), FLOOD_BYTES
    with socket.create_connection((address.host, address.port), timeout=10) as sock:
        began = time.monotonic()
        with pytest.raises(OSError) as ended:
            sock.sendall(opening)
            while left > 0:
                left -= sock.send(part)
        assert not isinstance(ended.value, TimeoutError) and time.monotonic() - began < 10.0
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.row("S4")
@pytest.mark.parametrize(
    "opening",
    [b"", b"GET / HTTP/1.1\r\n", HELLO, HELLO[:FIXED_LENGTH], bytes(FIXED_LENGTH)],
    ids=["nothing", "HTTP", "a HELLO without a ticket", "half a HELLO", "zeros"],
)
def test_of_a_flood_without_a_ticket_a_header_is_read_and_no_more(
    service: MasterService, start: Start, monkeypatch: pytest.MonkeyPatch, opening: bytes
) -> None:
    for address in (start().daemon.address, service.data_address):
        assert address is not None
        with counting(monkeypatch, address.port) as taken:
            flood(address, opening)
        assert 0 < sum(taken) <= HANDSHAKE_LIMIT_BYTES
