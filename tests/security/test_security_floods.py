"""Who sends slowly, without end, or opens connection after connection: others are served meanwhile."""

from __future__ import annotations

import json
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests
import trustme

from benches.certificates import believing, showing
from benches.data_port import Receptionist, last_words
from benches.engine import ECHO, Start, engine_benches
from benches.master import PLATES, ask, client_of, run_master
from harmonicio.control import paths
from harmonicio.control.client import MasterClient
from harmonicio.core.lease import Address
from harmonicio.core.message import OutcomeKind
from harmonicio.core.roles import Role
from harmonicio.master import http_arrival, http_server
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.testing.bare_peers import BareConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import stranger_log
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.transport.data_port import DataPort
from harmonicio.wire import sections
from harmonicio.wire.events import Hello
from harmonicio.wire.events import Role as DataRole
from harmonicio.wire.frames import FIXED, MAX_HEADER_BYTES

pytestmark = pytest.mark.row("S18")

#: Twice what the master has threads for.
SLOW = 300
#: Half of this would be much for one who is alone; who waits for slow ones waits for 10 s.
PROMPT_S = 4.0
GREETING = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = f"POST {paths.LEASES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
HELLO = sections.hello_frame(Hello(DataRole.CONNECTOR, stream="cells", ticket="x" * 500, source="s"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master") as running, client_of(running, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


def rest_address(service: MasterService) -> Address:
    host, _, port = service.url.rpartition("/")[2].rpartition(":")
    return Address(host, int(port))


@contextmanager
def crowd(
    address: Address, opening: bytes, count: int = SLOW, source: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """Have so many connections that have begun to say something, and say no more."""
    with ExitStack() as open_ones:
        sockets = []
        for _ in range(count):
            sock = socket.create_connection((address.host, address.port), timeout=10, source_address=(source, 0))
            open_ones.callback(sock.close)
            sock.sendall(opening)
            sockets.append(sock)
        yield sockets


@contextmanager
def trickling(sockets: list[socket.socket], letter: bytes = b"x") -> Iterator[None]:
    """Have each say one byte more, again and again."""
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(0.05):
            for sock in sockets:
                with suppress(OSError):
                    sock.send(letter)

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def asks(service: MasterService) -> None:
    """Be a source that comes anew."""
    with client_of(service, Role.SOURCE) as source:
        assert ask(source, "s1").backlog.ticket


# ── the REST API ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "opening",
    [
        b"G",
        GREETING,
        GREETING + b"X: " + b"x" * 8_000,
        POST + b"Content-Length: 1000\r\n\r\n{",
        GREETING + b"Content-Length: 1000\r\n\r\n{",
        POST + b"Content-Length: 40000\r\nAuthorization: Bearer x\r\n\r\n" + b"{" * 20_000,
        GREETING + b"\r\n" + GREETING,
    ],
    ids=["letter", "head", "long head", "body", "body of nobody", "long body", "second request"],
)
def test_who_begins_a_request_and_sends_it_slowly_keeps_nobody_waiting(service: MasterService, opening: bytes) -> None:
    with crowd(rest_address(service), opening) as sockets, trickling(sockets):
        assert max(seconds(lambda: asks(service)) for _ in range(5)) < PROMPT_S


@pytest.mark.parametrize(
    "opening",
    [POST + b"Content-Length: 900000\r\n\r\n" + b"{" * 60_000, POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"],
    ids=["very long body", "chunks"],
)
def test_threads_that_must_wait_for_a_request_do_so_for_a_moment_when_others_need_them(
    service: MasterService, opening: bytes
) -> None:
    with crowd(rest_address(service), opening):
        assert seconds(lambda: asks(service)) < PROMPT_S


def client_hello() -> bytes:
    """Return what a client of TLS says first."""
    own = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), said := ssl.MemoryBIO())
    with suppress(ssl.SSLWantReadError):
        own.do_handshake()
    return said.read()


@pytest.mark.parametrize("size_bytes", [1, 5, 100, 10_000], ids=["letter", "no hello", "half a hello", "no answer"])
def test_handshakes_of_tls_that_never_end_keep_nobody_waiting(tmp_path: Path, size_bytes: int) -> None:
    authority = trustme.CA()
    options = MasterOptions(tmp_path / "tls", port=0, data_port=0, tls=showing(authority, "127.0.0.1"))
    with MasterService(options) as service:
        token = service.token_file(Role.VIEWER).read_text().strip()
        own = TlsCredentials.of(believing(authority))
        with (
            crowd(rest_address(service), client_hello()[:size_bytes]),
            MasterClient(service.url, token, tls=own) as viewer,
        ):
            assert seconds(viewer.status) < PROMPT_S


def test_a_request_that_is_never_whole_is_answered_so_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "READ_WITHIN_S", 0.6)
    with run_master(tmp_path) as service, crowd(rest_address(service), POST, count=3) as sockets:
        for sock in sockets:
            answer = last_words(sock)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 408


@pytest.mark.parametrize("line", [b"X-More: " + b"x" * 100 + b"\r\n", b"x"], ids=["lines", "one line"])
def test_a_head_without_end_is_refused_at_its_limit(service: MasterService, line: bytes) -> None:
    sent, answer = 0, b""
    with crowd(rest_address(service), GREETING + (b"X: " if line == b"x" else b""), count=1) as (sock,):
        while not (select.select([sock], [], [], 0.001)[0] and (answer := sock.recv(1000))) and sent < 50_000_000:
            sent += sock.send(line * 100)
    assert answer.split()[1] == b"413"
    assert sent < http_arrival.MAX_HEAD_BYTES + 100_000, "what was on its way meanwhile, and no more"


@pytest.mark.parametrize("opening", [b"", b"G"], ids=["silent", "begun"])
def test_a_flood_of_connections_takes_the_room_of_who_makes_it(
    service: MasterService, monkeypatch: pytest.MonkeyPatch, opening: bytes
) -> None:
    monkeypatch.setattr(http_server._Server, "keep_alive_conn_limit", 50)
    health = service.url + paths.HEALTH
    with requests.Session() as other:
        other.trust_env = False
        assert other.get(health, timeout=5).ok
        (kept,) = other.adapters["http://"].poolmanager.pools._container.values()
        with crowd(rest_address(service), opening, 400, source="127.0.0.2") as sockets:
            wait_until(lambda: any(is_ended(sock) for sock in sockets), what="a connection of the flood to be cut off")
            assert other.get(health, timeout=5).ok
            assert kept.num_connections == 1, "its connection was cut off for those of the flood"
            asks(service)


def is_ended(sock: socket.socket) -> bool:
    if not select.select([sock], [], [], 0)[0]:
        return False
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


# ── data ports ───────────────────────────────────────────────────────────────────────────────────────────────────────

OPENINGS = [b"", b"H", HELLO[:-1], FIXED.pack(b"HI", 1, 1, 0, 0, 0, MAX_HEADER_BYTES, 0, 0, 0, bytes(16))]
NAMES = ["silent", "letter", "hello without its end", "endless hello"]


@pytest.mark.parametrize("opening", OPENINGS, ids=NAMES)
def test_who_begins_at_the_masters_data_port_and_goes_on_slowly_keeps_nobody_waiting(
    service: MasterService, opening: bytes
) -> None:
    with client_of(service, Role.SOURCE) as source:
        ticket = ask(source, "s1").backlog.ticket

    def put() -> None:
        with BareConnector(service.data_address, ticket, "plates", "s1") as connector:
            assert connector.outcome(connector.send(b"abc")).kind is OutcomeKind.STORED

    with crowd(service.data_address, opening) as sockets, trickling(sockets):
        assert max(seconds(put) for _ in range(5)) < PROMPT_S


@pytest.mark.parametrize("opening", OPENINGS, ids=NAMES)
def test_who_begins_at_an_engines_data_port_and_goes_on_slowly_keeps_nobody_waiting(
    start: Start, opening: bytes
) -> None:
    bench = start(ECHO)
    assert bench.daemon.address is not None

    def send() -> None:
        connector = bench.connector()
        assert connector.outcome(connector.send(b"abc")).kind is OutcomeKind.DONE

    with crowd(bench.daemon.address, opening) as sockets, trickling(sockets):
        assert max(seconds(send) for _ in range(5)) < PROMPT_S


def test_who_shows_no_ticket_makes_room_for_who_does() -> None:
    port = DataPort("127.0.0.1", 0, Receptionist(), name="test", max_connections=20)
    port.start()
    try:
        with BareConnector(port.address, "", "plates") as early, crowd(port.address, b"H", 60) as sockets:
            wait_until(lambda: sum(map(is_ended, sockets)) >= 40, what="the oldest of the flood to be cut off")
            with BareConnector(port.address, "", "plates"):
                wait_until(lambda: port.connections <= 20, what="what was cut off to be given back")
                assert not is_ended(sockets[-1]), "the newest has its time"
            assert early.link.is_open
            early.link.send(sections.drain_frame(1.0))
            early.wait(lambda: early.goodbye is not None)
    finally:
        port.close()


def test_who_is_refused_holds_no_thread_and_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    port = DataPort("127.0.0.1", 0, Receptionist(), name="test", max_threads=1)
    port.start()
    refused = sections.hello_frame(Hello(DataRole.CONNECTOR, stream="forbidden", ticket="x" * 500, source="s"))
    try:
        with caplog.at_level(logging.INFO), crowd(port.address, refused) as sockets:
            began = time.monotonic()
            with BareConnector(port.address, "", "plates"):
                assert time.monotonic() - began < PROMPT_S
            for sock in sockets:
                assert b"not_allowed" in last_words(sock)
        assert len(caplog.records) <= 2 * stranger_log.BURST + 20
    finally:
        port.close()


def test_a_port_that_takes_nobody_any_more_makes_no_room() -> None:
    port = DataPort("127.0.0.1", 0, Receptionist(), name="test")
    port.start()
    try:
        with crowd(port.address, b"H", 1) as (early,):
            wait_until(lambda: port.connections == 1)
            port.stop_listening()
            with crowd(port.address, b"", 1) as (late,):
                assert last_words(late) == b""
            assert not is_ended(early)
    finally:
        port.close()
