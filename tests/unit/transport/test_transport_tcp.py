"""Dialling and listening: every failure is one of ours and names the address."""

from __future__ import annotations

import socket

import pytest

from harmonicio.core.errors import ConnectionEnded, InvalidInput
from harmonicio.core.lease import Address
from harmonicio.transport import tcp


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "a..b", "x" * 300, "nul\0byte", "", "256.256.256.256"], ids=repr
)
def test_a_host_that_cannot_be_reached_is_named(host: str) -> None:
    with pytest.raises(ConnectionEnded, match="No data connection to"):
        tcp.dial(Address(host, 1), timeout_s=2)


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
        with pytest.raises(InvalidInput, match=rf"Cannot listen on 127\.0\.0\.1:{port}"):
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
