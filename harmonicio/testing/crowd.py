"""Many connections to one data port, held by one thread: they greet, stay idle, and come back when they are told to."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress
from typing import Self

from harmonicio.core.lease import Address
from harmonicio.wire.connection import Connection
from harmonicio.wire.events import Hello, Role

#: Dialled without waiting for those before.
AT_ONCE = 500


class Crowd:
    """Connections of sources that have nothing to send; a context manager."""

    def __init__(self, address: Address, hello: Hello) -> None:
        self._address = address
        self._hello = Connection(Role.CONNECTOR).hello(hello)
        self._sockets: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<Crowd of {len(self._sockets)} at {self._address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave(len(self._sockets))

    def come(self, count: int, *, within_s: float = 60.0) -> float:
        """Open so many more connections; return the seconds until all were greeted.

        Raises:
            TimeoutError: some were not.
            ConnectionError: some were refused.
        """
        began_s = time.monotonic()
        for first in range(0, count, AT_ONCE):
            self._greet(min(AT_ONCE, count - first), began_s + within_s)
        return time.monotonic() - began_s

    def stay(self) -> None:
        """Stay until any of them has lost its connection; what is said to them is not answered."""
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets:
                selector.register(sock, selectors.EVENT_READ)
            while all(_is_open(key.fileobj) for key, _ in selector.select()):  # type: ignore[arg-type]
                pass

    def leave(self, count: int) -> None:
        """Close so many, without a word."""
        for _ in range(count):
            self._sockets.pop().close()

    def _greet(self, count: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                sock = socket.socket()
                self._sockets.append(sock)
                sock.setblocking(False)
                sock.connect_ex((self._address.host, self._address.port))
                selector.register(sock, selectors.EVENT_WRITE)
            while selector.get_map():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(selector.get_map())} of {count} connections were not greeted.")
                for key, mask in selector.select(1.0):
                    self._advance(selector, key.fileobj, mask)  # type: ignore[arg-type]

    def _advance(self, selector: selectors.BaseSelector, sock: socket.socket, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            sock.send(self._hello)
            selector.modify(sock, selectors.EVENT_READ)
            return
        with suppress(BlockingIOError):
            if not sock.recv(65536):
                raise ConnectionResetError("A connection was refused.")
            selector.unregister(sock)


def _is_open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(65536))
    except BlockingIOError:
        return True
    except OSError:
        return False
