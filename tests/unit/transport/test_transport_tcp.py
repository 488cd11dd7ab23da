"""Dialling and listening: every failure is one of ours and names the address."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from harmonicio.core.errors import ConnectionEnded, InvalidInput, Unavailable
from harmonicio.core.lease import Address
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import channel, tcp


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "a..b", "x" * 300, "nul\0byte", "", "256.256.256.256"], ids=repr
)
def test_a_host_that_cannot_be_reached_is_named(host: str) -> None:
    with pytest.raises(ConnectionEnded, match="No data connection to"):
        tcp.dial(Address(host, 1), timeout_s=2)


@pytest.fixture
def full_address() -> Iterator[Address]:
    """Where nobody answers: the queue of new connections is full, so that the kernel drops what else comes."""
    with socket.socket() as listener, ExitStack() as dialled:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = dialled.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield Address(*listener.getsockname())


def test_a_host_that_does_not_answer_is_given_up_in_time(full_address: Address) -> None:
    with pytest.raises(ConnectionEnded, match=f"No data connection to {full_address}: timed out"):
        tcp.dial(full_address, timeout_s=0.2)


def test_a_dial_that_is_not_wanted_any_more_ends_at_once(full_address: Address) -> None:
    began_s = time.monotonic()
    with pytest.raises(ConnectionEnded, match="not wanted"):
        tcp.dial(full_address, timeout_s=20, is_wanted=lambda: time.monotonic() < began_s + 0.2)
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_cannot_exist_is_an_error_of_ours(port: int) -> None:
    with pytest.raises(ConnectionEnded, match=str(port)):
        tcp.dial(Address("127.0.0.1", port), timeout_s=2)
    with pytest.raises(InvalidInput, match=str(port)):
        tcp.listen("127.0.0.1", port)


def test_an_address_in_use_is_named() -> None:
    listener = tcp.listen("127.0.0.1", 0)
    try:
        port = listener.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"Cannot listen on 127\.0\.0\.1:{port}"):
            tcp.listen("127.0.0.1", port)
    finally:
        listener.close()


def test_nobody_waiting_is_no_connection() -> None:
    listener = tcp.listen("127.0.0.1", 0)
    try:
        assert tcp.accept(listener) is None
    finally:
        listener.close()


def test_a_peer_that_left_before_it_was_accepted_is_no_error() -> None:
    listener = tcp.listen("127.0.0.1", 0)
    try:
        peer = socket.create_connection(listener.getsockname()[:2])
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        channel = tcp.accept(listener)
        if channel is not None:
            with pytest.raises(ConnectionEnded):
                channel.receive_exactly(memoryview(bytearray(1)))
            channel.close()
    finally:
        listener.close()


# ── payloads are waited for in large pieces ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[channel.Channel, channel.Channel]]:
    """Both ends of a connection; who receives waits for a minute at a time, so that to wait for too much is seen."""
    monkeypatch.setattr(channel, "RECEIVE_SLICE_S", 60.0)
    with closing(tcp.listen("127.0.0.1", 0)) as listener:
        near = tcp.dial(Address(*listener.getsockname()), timeout_s=5)
        while (far := tcp.accept(listener)) is None:
            select.select([listener], [], [], 5)
    with closing(near), closing(far):
        yield near, far


def low_mark(end: channel.Channel) -> int:
    with socket.socket(fileno=socket.dup(end.fileno())) as copy:
        return copy.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.mark.parametrize("first_bytes", [1, 70_000, 130_000, 400_000, 900_000, 999_999])
def test_however_much_comes_first_the_rest_is_not_waited_for_in_vain(
    ends: tuple[channel.Channel, channel.Channel], first_bytes: int
) -> None:
    near, far = ends
    buffer, received = bytearray(1_000_000), threading.Event()

    def send() -> None:
        near.send_all([bytes(first_bytes)])
        received.wait(0.05)  # So that who receives has taken it, and waits.
        near.send_all([bytes(1_000_000 - first_bytes)])

    sending = threading.Thread(target=send)
    sending.start()
    began_s = time.monotonic()
    assert far.receive_exactly(memoryview(buffer)) == 1_000_000
    received.set()
    sending.join()
    assert time.monotonic() - began_s < 10


def test_behind_a_payload_a_single_byte_is_seen_at_once(ends: tuple[channel.Channel, channel.Channel]) -> None:
    near, far = ends
    sending = threading.Thread(target=near.send_all, args=([bytes(3_000_000)],))
    sending.start()
    assert far.receive_exactly(memoryview(bytearray(3_000_000))) == 3_000_000
    sending.join()
    assert low_mark(far) == 1
    near.send_all([b"x"])
    assert select.select([far.fileno()], [], [], 5)[0]


def test_a_payload_that_ends_too_early_is_seen_at_once(ends: tuple[channel.Channel, channel.Channel]) -> None:
    near, far = ends
    near.send_all([bytes(10)])
    near.finish_sending()
    began_s = time.monotonic()
    assert far.receive_exactly(memoryview(bytearray(3_000_000))) == 10
    assert time.monotonic() - began_s < 10
    assert low_mark(far) == 1


def test_who_receives_a_payload_is_woken_for_much_of_it_and_not_for_each_segment(
    ends: tuple[channel.Channel, channel.Channel],
) -> None:
    near, far = ends
    receiving = threading.Thread(target=far.receive_exactly, args=(memoryview(bytearray(1_000_000)),))
    receiving.start()
    wait_until(lambda: low_mark(far) > 1)
    status = Path(f"/proc/self/task/{receiving.native_id}/status")
    before = times_it_slept(status)
    for _ in range(30):
        near.send_all([bytes(10_000)])
        receiving.join(0.005)
    assert times_it_slept(status) - before < 10
    near.send_all([bytes(700_000)])
    receiving.join(10)
    assert not receiving.is_alive()


def times_it_slept(status: Path) -> int:
    return int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
