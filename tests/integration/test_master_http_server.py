"""The web server by itself: what it waits for, for how long, and whom it cuts off."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trustme

from benches.certificates import contexts_of, showing
from benches.data_port import last_words
from harmonicio.core.lease import Address
from harmonicio.master import http_server
from harmonicio.master.http_server import HttpServer
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials

HOST = "127.0.0.1"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD_OF_POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
ANSWERED = b"\r\n\r\nread"
LARGE_BYTES = 16 * 1024**2

StartServer = Callable[..., HttpServer]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    with ExitStack() as running:

        def start(threads: int, tls: TlsCredentials = NO_CREDENTIALS) -> HttpServer:
            server = HttpServer(Address(HOST, 0), read_all, threads=threads, tls=tls)
            running.callback(server.close)
            return server

        yield start


def read_all(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    if environ["PATH_INFO"] == "/large":
        start_response("200 OK", [("Content-Length", str(LARGE_BYTES))])
        return [bytes(LARGE_BYTES)]
    if environ["PATH_INFO"] == "/late":
        time.sleep(0.3)
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Length", "4")])
    return [b"read"]


def dial(server: HttpServer, source: str = HOST) -> socket.socket:
    return socket.create_connection((HOST, server.address.port), timeout=10, source_address=(source, 0))


def answer(sock: socket.socket) -> bytes:
    got = b""
    while not got.endswith(ANSWERED):
        piece = sock.recv(1_000)
        if not piece:
            break
        got += piece
    return got


@contextmanager
def others_asking(server: HttpServer, count: int) -> Iterator[None]:
    """Have others ask again and again, each on a connection of its own."""
    ended = threading.Event()

    def ask() -> None:
        with dial(server) as sock:
            while not ended.is_set():
                sock.sendall(GET)
                assert answer(sock).endswith(ANSWERED)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        ended.set()
        for each in threads:
            each.join()


def test_a_long_body_may_take_its_time_while_threads_are_free(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HURRIED_S", 0.1)
    server = start_server(threads=30)
    with others_asking(server, 6), dial(server) as slow:
        slow.sendall(HEAD_OF_POST % 160_000 + b"x" * 60_000)
        for _ in range(20):
            time.sleep(0.05)
            slow.sendall(b"x" * 5_000)
        assert answer(slow).endswith(ANSWERED)


@pytest.mark.row("S18")
def test_the_more_wait_for_a_thread_the_less_each_of_them_waits(start_server: StartServer) -> None:
    server = start_server(threads=20)
    expecting = GET[:-2] + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    with ExitStack() as open_ones:
        for _ in range(500):
            open_ones.enter_context(dial(server)).sendall(expecting)
        began = time.monotonic()
        late = open_ones.enter_context(dial(server))
        late.sendall(GET)
        assert answer(late).endswith(ANSWERED)
        assert time.monotonic() - began < 500 / 20 * http_server.HURRIED_S / 2


@pytest.mark.row("S18")
def test_who_takes_no_answer_is_given_up_when_others_wait_for_a_thread(start_server: StartServer) -> None:
    server = start_server(threads=4)
    with ExitStack() as open_ones:
        for _ in range(8):
            open_ones.enter_context(dial(server)).sendall(GET.replace(b"/", b"/large", 1))
        time.sleep(0.2)
        began = time.monotonic()
        late = open_ones.enter_context(dial(server))
        late.sendall(GET)
        assert answer(late).endswith(ANSWERED)
        assert time.monotonic() - began < http_server.READ_WITHIN_S / 2


def test_what_is_here_is_read_however_many_wait_for_a_thread(start_server: StartServer) -> None:
    server = start_server(threads=2)
    with ExitStack() as open_ones:
        crowd = [open_ones.enter_context(dial(server)) for _ in range(12)]
        for each in crowd:
            each.sendall(HEAD_OF_POST.replace(b"/", b"/late", 1) % 40_000 + bytes(40_000))
        for each in crowd:
            assert answer(each).endswith(ANSWERED)


def test_a_long_answer_arrives_whole_over_tls_too(start_server: StartServer) -> None:
    authority = trustme.CA()
    dialling, _ = contexts_of(authority, HOST)
    server = start_server(threads=2, tls=showing(authority, HOST))
    with dialling.wrap_socket(dial(server), server_hostname=HOST) as sealed:
        sealed.sendall(GET.replace(b"/", b"/large", 1)[:-2] + b"Connection: close\r\n\r\n")
        time.sleep(0.3)  # Nothing is taken meanwhile.
        got = last_words(sealed)
    assert got.partition(b"\r\n\r\n")[2] == bytes(LARGE_BYTES)


def test_how_long_nothing_was_asked_is_not_of_the_time_for_a_request(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "READ_WITHIN_S", 2.0)
    with dial(start_server(threads=2)) as sock:
        sock.sendall(GET)
        answer(sock)
        time.sleep(1.2)
        sock.sendall(HEAD_OF_POST % 4)
        time.sleep(1.2)
        sock.sendall(b"rest")
        assert answer(sock).endswith(ANSWERED)


def test_a_record_of_tls_that_is_never_whole_is_answered_as_a_request_is(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "READ_WITHIN_S", 0.6)
    authority = trustme.CA()
    dialling, _ = contexts_of(authority, HOST)
    server = start_server(threads=2, tls=showing(authority, HOST))
    with dialling.wrap_socket(dial(server), server_hostname=HOST) as sealed:
        sealed.sendall(GET)
        answer(sealed)
        with socket.socket(fileno=os.dup(sealed.fileno())) as below:
            below.sendall(b"\x17\x03\x03\x01\x00a")
        assert last_words(sealed).startswith(b"HTTP/1.1 408 ")
    with dial(server) as never_shaken:
        never_shaken.sendall(b"\x16\x03\x01\x02\x00a")
        assert last_words(never_shaken) == b""
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_who_is_cut_off_to_make_room_may_have_said_something_just_then(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server._Server, "keep_alive_conn_limit", 20)
    server = start_server(threads=4)
    with ExitStack() as open_ones:
        crowd: list[socket.socket] = []
        for _ in range(400):
            crowd.append(open_ones.enter_context(dial(server, "127.0.0.2")))
            for each in crowd[-40:]:
                try:
                    each.send(b"G")
                except OSError:
                    crowd.remove(each)
        with dial(server) as other:
            other.sendall(GET)
            assert answer(other).endswith(ANSWERED)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize("path", [b"/large", b"/late"])
def test_who_goes_away_amid_an_answer_over_tls_is_no_fault_of_ours(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    authority = trustme.CA()
    server = start_server(threads=1, tls=showing(authority, HOST))
    dialling, _ = contexts_of(authority, HOST)
    with dial(server) as plain, dialling.wrap_socket(plain, server_hostname=HOST) as sock:
        sock.sendall(GET.replace(b"/", path, 1))
        sock.recv(1) if path == b"/large" else None
    with dial(server) as plain, dialling.wrap_socket(plain, server_hostname=HOST) as sock:
        sock.sendall(GET)
        assert answer(sock).endswith(ANSWERED), "its only thread is free again"
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []
