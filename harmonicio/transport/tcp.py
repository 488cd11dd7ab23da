"""Channels over TCP."""

from __future__ import annotations

import socket

from harmonicio.core.errors import ConnectionEnded, InvalidInput
from harmonicio.core.lease import Address
from harmonicio.transport.channel import USER_TIMEOUT_MS, Channel


def dial(address: Address, *, timeout_s: float) -> Channel:
    """Connect to a data port.

    Raises:
        ConnectionEnded: nobody answers there; names the address.
    """
    try:
        sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
    except OSError as error:
        raise ConnectionEnded(f"No data connection to {address}: {error.strerror or error}.") from None
    _tune(sock)
    return Channel(sock, str(address))


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
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Choose another address or port, or stop what uses it.",
        ) from None
    listener.setblocking(False)
    return listener


def accept(listener: socket.socket) -> Channel | None:
    """Return the next waiting connection, or None when there is none."""
    try:
        sock, peer = listener.accept()
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
    _tune(sock)
    return Channel(sock, f"{peer[0]}:{peer[1]}")


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
