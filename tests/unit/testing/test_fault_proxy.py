"""The proxy of the fault tests does what it says, so that those tests mean something."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benches.fault_proxy import FROZEN, SWALLOWED, FaultProxy, Faults, Way
from harmonicio.core.lease import Address
from harmonicio.testing.waiting import wait_until


@pytest.fixture
def echo() -> Iterator[Address]:
    """A server that sends back what it gets, and ends when its client does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock:
            try:
                while piece := sock.recv(65536):
                    sock.sendall(piece)
            except OSError:
                return  # Reset, as the test wanted.

    def accept() -> None:
        threads = []
        try:
            while True:
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                threads[-1].start()
        except OSError:
            for thread in threads:
                thread.join()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield Address(*listener.getsockname())
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join()


@pytest.fixture
def proxy(echo: Address) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as running:
        yield running


@contextmanager
def dialled(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection((proxy.address.host, proxy.address.port), timeout=10) as sock:
        yield sock


def received(sock: socket.socket, size: int) -> bytes:
    said = b""
    while len(said) < size and (piece := sock.recv(65536)):
        said += piece
    return said


def test_without_faults_everything_passes_both_ways_and_so_does_the_end(proxy: FaultProxy) -> None:
    payload = bytes(range(256)) * 40_000
    with dialled(proxy) as sock:
        sending = threading.Thread(target=sock.sendall, args=(payload,))
        sending.start()
        assert received(sock, len(payload)) == payload
        sending.join()
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    wait_until(lambda: not proxy.connections)
    assert proxy.passed_bytes == dict.fromkeys(Way, len(payload))


def test_a_cut_is_the_end_of_the_stream_and_a_reset_is_an_error(proxy: FaultProxy) -> None:
    with dialled(proxy) as sock:
        sock.sendall(b"a")
        assert received(sock, 1) == b"a"
        assert proxy.cut() == 1
        assert sock.recv(1) == b""
    with dialled(proxy) as sock:
        sock.sendall(b"a")
        assert received(sock, 1) == b"a"
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert proxy.hits == {"cut": 1, "reset": 1, "flip": 0, "reset_at": 0}


def test_a_frozen_way_moves_nothing_until_it_is_healed(proxy: FaultProxy) -> None:
    with dialled(proxy) as sock:
        proxy.impair(FROZEN, Way.DOWN)
        sock.sendall(b"image")
        wait_until(lambda: proxy.passed_bytes[Way.UP] == 5)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        proxy.heal()
        sock.settimeout(10)
        assert received(sock, 5) == b"image"


def test_swallowed_bytes_do_not_arrive_and_those_before_do(proxy: FaultProxy) -> None:
    with dialled(proxy) as sock:
        proxy.impair(Faults(swallow_from=3), Way.UP)
        sock.sendall(b"image")
        sock.shutdown(socket.SHUT_WR)
        assert received(sock, 99) == b"ima"
        proxy.impair(SWALLOWED)
    with dialled(proxy) as sock:
        sock.sendall(b"image")
        sock.shutdown(socket.SHUT_WR)
        assert received(sock, 99) == b""


def test_one_bit_of_one_byte_is_flipped_once(proxy: FaultProxy) -> None:
    proxy.impair(Faults(flip_at=2), Way.UP)
    for expected in (b"im`ge", b"image"):
        with dialled(proxy) as sock:
            sock.sendall(b"image")
            assert received(sock, 5) == expected
    assert proxy.hits["flip"] == 1


def test_a_reset_in_the_middle_comes_after_the_bytes_before(proxy: FaultProxy) -> None:
    proxy.impair(Faults(reset_at=70_000), Way.UP)
    with dialled(proxy) as sock:
        with pytest.raises(ConnectionError):
            for _ in range(100):
                sock.sendall(bytes(70_000))
                time.sleep(0.01)
        wait_until(lambda: proxy.passed_bytes[Way.UP] == 70_000)
    with dialled(proxy) as sock:
        sock.sendall(b"image")
        assert received(sock, 5) == b"image"


def test_a_throttled_way_is_as_slow_as_it_says_and_a_delayed_one_as_late(proxy: FaultProxy) -> None:
    with dialled(proxy) as sock:
        proxy.impair(Faults(bytes_per_s=100_000), Way.UP)
        began_s = time.monotonic()
        sock.sendall(bytes(30_000))
        received(sock, 30_000)
        assert 0.25 < time.monotonic() - began_s < 5
        proxy.impair(Faults(delay_s=0.2, jitter_s=0.1))
        began_s = time.monotonic()
        sock.sendall(b"image")
        assert received(sock, 5) == b"image"
        assert time.monotonic() - began_s >= 0.4


def test_who_is_refused_is_reset_and_a_target_that_is_gone_resets_its_client(proxy: FaultProxy) -> None:
    proxy.is_refusing = True
    with pytest.raises(ConnectionResetError), dialled(proxy) as sock:
        sock.recv(1)
    proxy.is_refusing = False
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        proxy.target = Address(*reserved.getsockname())
        with pytest.raises(ConnectionResetError), dialled(proxy) as sock:
            sock.recv(1)
