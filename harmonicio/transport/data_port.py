"""A listening data port: idle connections wait in one selector, busy ones are served by a bounded pool of threads.

      accept ──► waiting in the selector ──bytes──► a thread of the pool reads, decides, answers
                        ▲                                  │
                        └────── nothing for a moment ◄─────┘

What a connection means is the business of its :class:`Session`; the port knows only bytes, threads and deadlines.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, ProtocolError
from harmonicio.core.lease import Address
from harmonicio.transport import tcp
from harmonicio.transport.link import GREETING_WITHIN_S, Link
from harmonicio.wire.connection import State
from harmonicio.wire.events import Event, Goodbye, Hello

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 10_000
MAX_THREADS = 64


class Session(Protocol):
    """What a connection is for; called by one thread at a time."""

    def opened(self) -> None:
        """The answer to HELLO has been sent: frames may follow."""
        ...

    def handle(self, event: Event) -> None:
        """Act on one event; may block. Raises to end the connection."""
        ...

    def pause(self) -> None:
        """No complete frame is left in the receive buffer: send what waits to be sent."""
        ...

    def closed(self, error: HarmonicIOError | None) -> None:
        """The connection has ended; give back what it held. Called once, last."""
        ...


#: Accepts or refuses a HELLO: returns the answer and the session, or raises NotAllowed or another HarmonicIOError.
Reception = Callable[[Link, Hello], tuple[Hello, Session]]


class _Served:
    __slots__ = ("greeted_by", "link", "session")

    def __init__(self, link: Link, greeted_by: float) -> None:
        self.link = link
        self.session: Session | None = None
        self.greeted_by = greeted_by


class DataPort:
    """Listens for data connections and serves them.

    Args:
        host, port: Where to listen; port 0 takes a free one.
        reception: Decides about each HELLO.
        name: For thread names and log lines.
    """

    def __init__(
        self, host: str, port: int, reception: Reception, *, name: str, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self._reception = reception
        self._name = name
        self._max_connections = max_connections
        self._listener = tcp.listen(host, port)
        bound = self._listener.getsockname()
        self.address = Address(bound[0], bound[1])
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._lock = threading.Lock()
        self._served: set[_Served] = set()
        self._returned: deque[_Served] = deque()
        self._is_closing = False
        self.received_bytes = 0
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=f"{name}-data")
        self._thread = threading.Thread(target=self._run, name=f"{name}-port", daemon=True)

    def __repr__(self) -> str:
        return f"<DataPort {self._name} on {self.address}: {len(self._served)} connections>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._served)

    def start(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._thread.start()

    def stop_listening(self) -> None:
        """Take no new connections; those that are open go on."""
        with self._lock:
            self._max_connections = 0

    def close(self) -> None:
        """End every connection and thread of this port."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            links = [served.link for served in self._served]
        for link in links:
            link.channel.shutdown()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(wait=True)
        for served in list(self._served):
            self._end(served, None)
        self._selector.close()
        for sock in (self._listener, self._wake_reader, self._wake_writer):
            sock.close()

    # ── the selector's thread ────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select(timeout=1.0):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_reader:
                    self._drain_wake()
                else:
                    self._hand_over(key.data)
            self._take_returned()
            self._end_the_ungreeted(time.monotonic())

    def _accept(self) -> None:
        while (channel := tcp.accept(self._listener)) is not None:
            if len(self._served) >= self._max_connections:
                channel.close()
                continue
            served = _Served(Link(channel), time.monotonic() + GREETING_WITHIN_S)
            with self._lock:
                self._served.add(served)
            self._selector.register(channel.fileno(), selectors.EVENT_READ, served)

    def _hand_over(self, served: _Served) -> None:
        self._selector.unregister(served.link.channel.fileno())
        self._pool.submit(self._serve, served)

    def _take_returned(self) -> None:
        while self._returned:
            served = self._returned.popleft()
            self._selector.register(served.link.channel.fileno(), selectors.EVENT_READ, served)

    def _end_the_ungreeted(self, now: float) -> None:
        for served in [item for item in self._served if item.session is None and now > item.greeted_by]:
            served.link.channel.shutdown()

    def _wake(self) -> None:
        try:
            self._wake_writer.send(b"\0")
        except BlockingIOError:
            return  # Wake-ups enough are waiting.

    def _drain_wake(self) -> None:
        try:
            while self._wake_reader.recv(4096):
                pass
        except BlockingIOError:
            return

    # ── a thread of the pool ─────────────────────────────────────────────────────────────────────────────────────────

    def _serve(self, served: _Served) -> None:
        error: HarmonicIOError | None = None
        try:
            is_open = self._serve_events(served)
        except HarmonicIOError as caught:
            error, is_open = caught, False
        except Exception:  # noqa: BLE001  a bug in one session must not end the others; it is logged
            _log.exception("A data connection from %s ended by an error of ours", served.link.channel.peer)
            error, is_open = HarmonicIOError("An internal error ended the connection."), False
        if is_open and not self._is_closing:
            self._returned.append(served)
            self._wake()
        else:
            self._end(served, error)

    def _serve_events(self, served: _Served) -> bool:
        """Serve until nothing comes for a moment; return whether the connection is still open."""
        link = served.link
        before = link.received_bytes
        try:
            while not self._is_closing:
                event = link.next_event()
                if event is None:
                    if served.session is not None:
                        served.session.pause()
                    if link.connection.state is State.CLOSED:
                        return False
                    if not link.read():
                        return True
                elif isinstance(event, Hello):
                    self._receive(served, event)
                elif isinstance(event, Goodbye):
                    return False
                elif served.session is not None:
                    served.session.handle(event)
            return False
        finally:
            with self._lock:
                self.received_bytes += link.received_bytes - before

    def _receive(self, served: _Served, hello: Hello) -> None:
        answer, session = self._reception(served.link, hello)
        served.session = session
        served.link.send(served.link.connection.hello(answer))
        session.opened()

    def _end(self, served: _Served, error: HarmonicIOError | None) -> None:
        with self._lock:
            if served not in self._served:
                return
            self._served.discard(served)
        if error is not None and not isinstance(error, ConnectionEnded):
            code = "protocol" if isinstance(error, ProtocolError) else error.code
            served.link.say_goodbye(code, error.text, error.hint)
            served.link.channel.discard_briefly()
            _log.info("Connection from %s refused: %s", served.link.channel.peer, error)
        if served.session is not None:
            served.session.closed(error)
        served.link.close()
