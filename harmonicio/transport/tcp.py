"""Channels over TCP, with or without TLS."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from harmonicio.core.errors import ConnectionEnded, InvalidInput, Unavailable
from harmonicio.core.lease import Address
from harmonicio.transport.busy_poll import BusyPoll
from harmonicio.transport.channel import SLOW_AFTER_S, USER_TIMEOUT_MS, Channel, accepted_from

if TYPE_CHECKING:
    import ssl

#: How often who dials looks whether the connection is still wanted.
DIAL_SLICE_S = 0.05
#: For so much of a payload at a time the kernel wakes its reader …
MUCH_BYTES = 1024**2
#: … or, when no more than this is left, for each segment.
LITTLE_BYTES = 128 * 1024


class TcpChannel(Channel):
    """A payload is waited for in large pieces: its sender, who wakes the reader, would else do so for each segment.

    The low-water mark of the socket is at most half of what is left. So a receive that finds less, takes it, and goes
    on waiting never waits for more than can still come.
    """

    def __init__(self, sock: socket.socket, peer: str, *, slow_after_s: float = SLOW_AFTER_S) -> None:
        super().__init__(sock, peer, slow_after_s=slow_after_s)
        self._low_mark = 1

    def receive_exactly(
        self, buffer: memoryview, *, on_progress: Callable[[int], None] | None = None, polling: BusyPoll | None = None
    ) -> int:
        try:
            return super().receive_exactly(buffer, on_progress=on_progress, polling=polling)
        finally:
            self._wake_at(1)

    def _receive_most(self, buffer: memoryview) -> int | None:
        if len(buffer) <= LITTLE_BYTES:
            self._wake_at(1)
            return super()._receive_most(buffer)
        self._wake_at(min(MUCH_BYTES, len(buffer) // 2))
        return self.receive_into(buffer)

    def _wake_at(self, size_bytes: int) -> None:
        """Have the kernel wake the reader when so much is there."""
        if size_bytes == self._low_mark:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size_bytes)
        except OSError as error:
            raise self._broken(error) from None
        self._low_mark = size_bytes


def dial(
    address: Address,
    *,
    timeout_s: float,
    slow_after_s: float = SLOW_AFTER_S,
    is_wanted: Callable[[], bool] = lambda: True,
    tls: ssl.SSLContext | None = None,
) -> Channel:
    """Connect to a data port.

    Args:
        is_wanted: Asked now and then; False gives up.
        tls: Whom to believe, where the address speaks TLS; None: whom this host believes.

    Raises:
        ConnectionEnded: nobody answers there, or not whom to believe; names the address.
    """
    deadline = time.monotonic() + timeout_s
    try:
        sock = _connect(address, deadline, is_wanted)
        channel = _channel(sock, str(address), slow_after_s, tls, address)
    except (OSError, ValueError, OverflowError) as error:  # The latter two: no such host name or port can exist.
        raise ConnectionEnded(
            f"No data connection to {address}: {getattr(error, 'strerror', None) or error}."
        ) from None
    try:
        channel.secure(until=deadline, is_wanted=is_wanted)
    except BaseException:
        channel.close()
        raise
    return channel


def _connect(address: Address, deadline: float, is_wanted: Callable[[], bool]) -> socket.socket:
    """Try what the host's name stands for, one after another; return a connected socket."""
    failure = OSError("the host name stands for no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            _connect_socket(sock, place, deadline, is_wanted)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _connect_socket(sock: socket.socket, place: object, deadline: float, is_wanted: Callable[[], bool]) -> None:
    sock.setblocking(False)
    code = sock.connect_ex(place)  # type: ignore[arg-type]  # whatever getaddrinfo gave
    if code == errno.EINPROGRESS:
        writable = select.poll()
        writable.register(sock, select.POLLOUT)
        while not writable.poll(DIAL_SLICE_S * 1000):
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")
            if not is_wanted():
                raise InterruptedError("it is not wanted any more")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def listen(host: str, port: int, *, device: str = "", pending: int = 1024) -> socket.socket:
    """Return a listening, non-blocking socket; port 0 takes a free one.

    Args:
        device: A network device of this host: what comes in over another does not reach the socket.

    Raises:
        InvalidInput: there is no such address.
        Unavailable: it cannot be bound here, or is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if device:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        listener.bind((host, port))
        listener.listen(pending)
    except (OSError, ValueError, OverflowError) as error:
        listener.close()
        kind = Unavailable if isinstance(error, OSError) else InvalidInput
        raise kind(
            f"Cannot listen on {Address(host, port)}: {str(getattr(error, 'strerror', None) or error).rstrip('.')}.",
            hint="Choose another address or port, or stop what uses it.",
        ) from None
    listener.setblocking(False)
    return listener


def accept(
    listener: socket.socket, *, slow_after_s: float = SLOW_AFTER_S, tls: ssl.SSLContext | None = None
) -> Channel | None:
    """Return the next waiting connection, or None when there is none.

    Args:
        tls: Its certificate, when the port speaks TLS; the handshake happens in the receives of the channel.

    Raises:
        Unavailable: this process or host has no room for another connection now.
    """
    accepted = accepted_from(listener)
    if accepted is None:
        return None
    sock, peer = accepted
    try:
        return _channel(sock, str(Address(peer[0], peer[1])), slow_after_s, tls)
    except OSError:
        return None  # The peer has gone before it was accepted.


def _channel(
    sock: socket.socket, peer: str, slow_after_s: float, tls: ssl.SSLContext | None, dialled: Address | None = None
) -> Channel:
    try:
        _tune(sock)
        if dialled.speaks_tls if dialled is not None else tls is not None:
            from harmonicio.transport.tls import TlsChannel  # With all of OpenSSL, for those who use it.

            return TlsChannel(sock, peer, tls, dialled.host if dialled is not None else None, slow_after_s=slow_after_s)
        return TcpChannel(sock, peer, slow_after_s=slow_after_s)
    except (OSError, ValueError):
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
