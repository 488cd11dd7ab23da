"""Channels over TCP."""

from __future__ import annotations

import socket

from harmonicio.core.errors import ConnectionEnded, InvalidInput, Unavailable
from harmonicio.core.lease import Address
from harmonicio.transport.channel import SLOW_AFTER_S, USER_TIMEOUT_MS, Channel


def dial(address: Address, *, timeout_s: float, slow_after_s: float = SLOW_AFTER_S) -> Channel:
    """Connect to a data port.

    Raises:
        ConnectionEnded: nobody answers there; names the address.
    """
    try:
        sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
        return _channel(sock, str(address), slow_after_s)
    except (OSError, ValueError, OverflowError) as error:  # The latter two: no such host name or port can exist.
        raise ConnectionEnded(
            f"No data connection to {address}: {getattr(error, 'strerror', None) or error}."
        ) from None


def listen(host: str, port: int, *, pending: int = 1024) -> socket.socket:
    """Return a listening, non-blocking socket; port 0 takes a free one.

    Raises:
        InvalidInput: the address cannot be bound here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(pending)
    except (OSError, ValueError, OverflowError) as error:
        listener.close()
        raise InvalidInput(
            f"Cannot listen on {Address(host, port)}: {getattr(error, 'strerror', None) or error}.",
            hint="Choose another address or port, or stop what uses it.",
        ) from None
    listener.setblocking(False)
    return listener


def accept(listener: socket.socket, *, slow_after_s: float = SLOW_AFTER_S) -> Channel | None:
    """Return the next waiting connection, or None when there is none.

    Raises:
        Unavailable: this process or host has no room for another connection now.
    """
    try:
        sock, peer = listener.accept()
    except (BlockingIOError, InterruptedError, ConnectionError):
        return None
    except OSError as error:
        raise Unavailable(f"A connection cannot be accepted: {error.strerror or error}.") from None
    try:
        return _channel(sock, str(Address(peer[0], peer[1])), slow_after_s)
    except OSError:
        return None  # The peer has gone before it was accepted.


def _channel(sock: socket.socket, peer: str, slow_after_s: float) -> Channel:
    try:
        _tune(sock)
        return Channel(sock, peer, slow_after_s=slow_after_s)
    except OSError:
        sock.close()
        raise


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
