"""How long a thread of the web server waits for a peer: not longer than others can spare it.

A request has a time in which it is read as a whole, an answer one for each piece that its peer takes. Each is cut short
when others wait for a thread: then who sends nothing, or takes nothing, is given up soon.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cheroot import errors as cheroot_errors
from cheroot.makefile import StreamReader, StreamWriter

from harmonicio.core.lease import Address
from harmonicio.transport.stranger_log import StrangerLog

#: How often a thread that waits looks for others; and how long it waits for what should be here already.
LOOK_EVERY_S, AT_ONCE_S = 0.1, 0.001
#: A peer that takes an answer takes so much at a time: one record of TLS.
PIECE_BYTES = 16 * 1024


class PatientReader(StreamReader):
    """Reads requests; ``raw`` is a :class:`PatientIO`."""

    def __init__(self, sock: socket.socket, size: int, patience_s: Callable[[], float], strangers: StrangerLog) -> None:
        super().__init__(sock, "rb", size)
        self._raw = PatientIO(sock, "rb", patience_s, strangers)


class PatientWriter(StreamWriter):
    """Writes answers; ``raw`` is a :class:`PatientIO`."""

    def __init__(self, sock: socket.socket, size: int, patience_s: Callable[[], float], strangers: StrangerLog) -> None:
        super().__init__(sock, "wb", size)
        self._raw = PatientIO(sock, "wb", patience_s, strangers)


class PatientIO(socket.SocketIO):
    """One direction of a connection, which times out.

    Args:
        patience_s: Returns how long others can spare the thread just now.
        strangers: Where it is said why there is no TLS with a peer.

    Attributes:
        is_plain: Where TLS is spoken, the peer has spoken plain text.
    """

    def __init__(self, sock: socket.socket, mode: Any, patience_s: Callable[[], float], strangers: StrangerLog) -> None:
        super().__init__(sock, mode)
        self._timed_socket = sock
        self._patience_s = patience_s
        self._strangers = strangers
        self.is_plain = False
        self.begin(0.0)

    def begin(self, within_s: float) -> None:
        """Wait so long for all that is read, or for each piece that is written, from now on."""
        self._within_s = within_s
        self._begun_at = time.monotonic()

    def readinto(self, buffer: Any) -> int | None:
        return self._in_time(self._begun_at, partial(self._read_into, buffer))

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest:
            taken = self._in_time(time.monotonic(), partial(self._write_from, rest[:PIECE_BYTES]))
            rest = rest[taken or 0 :]
        return len(data)

    def _in_time(self, since: float, transfer: Callable[[], int | None]) -> int | None:
        by = since + self._within_s
        while (now := time.monotonic()) < by:
            left_s = min(by, since + self._patience_s()) - now
            self._timed_socket.settimeout(min(max(left_s, AT_ONCE_S), LOOK_EVERY_S))
            try:
                return transfer()
            except TimeoutError:
                self._timeout_occurred = False  # Else nothing could be read any more.
            if left_s <= AT_ONCE_S:
                break
        raise TimeoutError("timed out")

    def _write_from(self, data: memoryview) -> int | None:
        try:
            return super().write(data)
        except ssl.SSLEOFError:
            raise BrokenPipeError(errno.EPIPE, "The peer has gone") from None  # As it is called in plain text.

    def _read_into(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except ssl.SSLError as error:
            self.is_plain = error.reason == "HTTP_REQUEST"
            if self.is_plain:
                raise cheroot_errors.NoSSLError from None
            peer = _peer_of(self._timed_socket)
            self._strangers.say(logging.INFO, "A TLS connection from %s failed: %s", peer, error.reason or error)
            raise cheroot_errors.FatalSSLAlert from None


def _peer_of(sock: socket.socket) -> str:
    try:
        return str(Address(*sock.getpeername()[:2]))
    except OSError:
        return "a peer that has gone"
