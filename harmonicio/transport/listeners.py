"""What a data port listens on: TCP, and for peers of its own host a UNIX socket where it is given a path.

When a connection cannot be accepted, for want of file descriptors or memory, nothing is for a moment:

    listening ──Unavailable──► pausing, for ACCEPT_PAUSE_S ──► listening
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harmonicio.core.errors import Unavailable
from harmonicio.core.lease import Address
from harmonicio.transport import tcp, unix
from harmonicio.transport.channel import Channel
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials

_log = logging.getLogger(__name__)

#: New connections taken in one turn of the selector, so that those which are open have theirs.
ACCEPT_AT_ONCE = 64
#: How long no connection is accepted after one could not be, for want of file descriptors or memory.
ACCEPT_PAUSE_S = 0.25


class Listeners:
    """The listening sockets of one data port, in its selector.

    Args:
        host, port, device: As :func:`harmonicio.transport.tcp.listen` says.
        socket_path: Where the UNIX socket shall be; where there cannot be one, that is logged, and TCP is enough.
        slow_after_s: Of the channels.
        tls: With a certificate, TLS is spoken over TCP; a UNIX socket needs none.

    Attributes:
        address: Where it listens by TCP.
        socket_path: Where it listens else; None where it does not.
        resumes_at: When it accepts again; None while it does.
    """

    def __init__(
        self,
        host: str,
        port: int,
        device: str,
        socket_path: Path | None,
        slow_after_s: float,
        tls: TlsCredentials = NO_CREDENTIALS,
    ) -> None:
        self._slow_after_s = slow_after_s
        self._tls = tls
        self._tcp = tcp.listen(host, port, device=device)
        bound = self._tcp.getsockname()
        self.address = Address(bound[0], bound[1], speaks_tls=tls.listening() is not None)
        self.resumes_at: float | None = None
        self.socket_path: Path | None = None
        self._unix: socket.socket | None = None
        self._has_room = True
        if socket_path is not None:
            try:
                self._unix = unix.listen(socket_path)
                self.socket_path = socket_path
            except Unavailable as error:
                _log.warning("%s Sources of this host connect by TCP.", error)

    def __repr__(self) -> str:
        return f"<Listeners on {self.address}{f' and {self.socket_path}' if self.socket_path else ''}>"

    def __iter__(self) -> Iterator[socket.socket]:
        return iter([self._tcp] if self._unix is None else [self._tcp, self._unix])

    def resume(self, selector: selectors.BaseSelector) -> None:
        """Wait for connections in this selector, which gives this back with them."""
        self.resumes_at = None
        for each in self:
            selector.register(each, selectors.EVENT_READ, self)

    def accept(self, selector: selectors.BaseSelector, now: float, connections: int) -> Iterator[Channel]:
        """Yield the connections that wait; when there is no room for more, pause, and say so once.

        Args:
            connections: How many are open, for the log.
        """
        for listener in self if self.resumes_at is None else ():
            for _ in range(ACCEPT_AT_ONCE):
                try:
                    channel = self._accept(listener)
                except Unavailable as error:
                    level, self._has_room = logging.WARNING if self._has_room else logging.DEBUG, False
                    _log.log(level, "%s %d connections are open on %s", error, connections, self.address)
                    self._pause(selector, now)
                    return
                if channel is None:
                    break
                self._has_room = True
                yield channel

    def _accept(self, listener: socket.socket) -> Channel | None:
        if listener is self._unix:
            return unix.accept(listener, slow_after_s=self._slow_after_s)
        return tcp.accept(listener, slow_after_s=self._slow_after_s, tls=self._tls.listening())

    def _pause(self, selector: selectors.BaseSelector, now: float) -> None:
        for each in self:
            selector.unregister(each)
        self.resumes_at = now + ACCEPT_PAUSE_S

    def close(self) -> None:
        """Listen no more, and remove the UNIX socket."""
        for each in self:
            each.close()
        if self.socket_path is not None:
            with suppress(OSError):  # Its folder has gone before.
                self.socket_path.unlink(missing_ok=True)
