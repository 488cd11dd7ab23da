"""Dialling and listening: every failure is one of ours and names the address."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from harmonicio.core.errors import ConnectionEnded, InvalidInput, Unavailable
from harmonicio.core.lease import Address
from harmonicio.transport import tcp


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
