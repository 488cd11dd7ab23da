"""A listening data port: idle connections wait in one selector, busy ones are served by a bounded pool of threads.

      accept ──► waiting in the selector ──bytes──► a thread of the pool reads, decides, answers
                        ▲                                  │
                        └────── nothing for a moment ◄─────┘

What a connection means is the business of its :class:`Session`; the port knows only bytes, threads and deadlines.
"""

from __future__ import annotations

import itertools
import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, LocalProtocolError, NotAllowed, RemoteProtocolError
from harmonicio.transport.channel import SLOW_AFTER_S, SLOW_BYTES_PER_S
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials
from harmonicio.transport.link import GREETING_WITHIN_S, Link
from harmonicio.transport.listeners import Listeners
from harmonicio.transport.open_files import OpenFiles
from harmonicio.transport.patient_pool import PatientPool
from harmonicio.transport.stranger_log import StrangerLog
from harmonicio.wire.connection import State
from harmonicio.wire.events import Event, Goodbye, Hello

_log = logging.getLogger(__name__)

#: Ten thousand idle ones, with room for those that work.
MAX_CONNECTIONS = 12_000
MAX_THREADS = 64
#: Connections that have been cut off to make room for others, and whose end is not seen yet.
MAX_ENDING = 256


class Session(Protocol):
    """What a connection is for; called by one thread at a time."""

    def opened(self) -> None:
        """The answer to HELLO has been sent: frames may follow."""
        ...

    def handle(self, event: Event) -> None:
        """Act on one event; may block. Raises to end the connection."""
        ...

    def pause(self) -> None:
        """Nothing more is here for the moment, or others need the thread: send what waits to be sent."""
        ...

    def closed(self, error: HarmonicIOError | None) -> None:
        """The connection has ended; give back what it held. Called once, last."""
        ...


#: Accepts or refuses a HELLO: returns the answer and the session, or raises NotAllowed or another HarmonicIOError.
Reception = Callable[[Link, Hello], tuple[Hello, Session]]


class _Served:
    """One connection. It is in the selector, or a thread of the pool has it, or it is on its way back: never two."""

    __slots__ = ("link", "marked_bytes", "session")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.session: Session | None = None
        #: What had arrived when its unfinished frame was begun, or judged last.
        self.marked_bytes = 0


class DataPort:
    """Listens for data connections and serves them.

    A session must not close its link, which would take the connection away under the selector: it says goodbye,
    raises, or calls ``link.channel.shutdown()``, and the port closes the link.

    Args:
        host, port: Where to listen; port 0 takes a free one.
        reception: Decides about each HELLO.
        name: For thread names and log lines.
        device: A network device of this host, when only what comes in over it shall be heard.
        socket_path: Of a UNIX socket on which it listens as well.
        tls: With a certificate, the port speaks TLS; handshakes are served like other bytes.
        max_connections: Beyond, who comes is closed at once, unless somebody without an accepted HELLO makes room.
        max_threads: So many connections are served at once, in the end: threads start as they are needed
            (:mod:`harmonicio.transport.patient_pool`). While a large payload arrives, its connection keeps one.
        greeting_within_s: A connection without an accepted HELLO is cut after this long.
        slow_after_s: A frame that comes slower than 64 KB/s for this long is cut, with its connection.
    """

    def __init__(
        self,
        host: str,
        port: int,
        reception: Reception,
        *,
        name: str,
        device: str = "",
        socket_path: Path | None = None,
        tls: TlsCredentials = NO_CREDENTIALS,
        max_connections: int = MAX_CONNECTIONS,
        max_threads: int = MAX_THREADS,
        greeting_within_s: float = GREETING_WITHIN_S,
        slow_after_s: float = SLOW_AFTER_S,
    ) -> None:
        self._reception = reception
        self._name = name
        self._max_connections = max_connections
        self._greeting_within_s = greeting_within_s
        self._slow_after_s = slow_after_s
        self._listeners = Listeners(host, port, device, socket_path, slow_after_s, tls)
        self.address = self._listeners.address
        self.socket_path = self._listeners.socket_path
        self._selector = selectors.EpollSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._files = OpenFiles(
            *(each.fileno() for each in (*self._listeners, self._wake_reader, self._wake_writer)),
            self._selector.fileno(),
        )
        self._lock = threading.Lock()
        self._served: dict[_Served, None] = {}  # As they came: the same each time, which a set is not.
        self._ungreeted: dict[_Served, float] = {}  # By deadline, which is the order of their arrival.
        self._unfinished: dict[_Served, float] = {}  # Those in the middle of a frame, by deadline, too.
        self._returned: deque[_Served] = deque()
        self._ended_bytes = 0
        self._is_closing = False
        # Two: nobody shall hide a stolen ticket behind noise.
        self._refused_log, self._stranger_log = StrangerLog(_log), StrangerLog(_log)
        self._pool = PatientPool(max_threads, f"{name}-data")
        self._thread = threading.Thread(target=self._run, name=f"{name}-port", daemon=True)

    def __repr__(self) -> str:
        return f"<DataPort {self._name} on {self.address}: {len(self._served)} connections>"

    @property
    def is_intact(self) -> bool:
        """Whether it can still serve: neither its thread has ended, nor has anybody closed what it listens with."""
        return self._thread.is_alive() and self._files.are_intact

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._served)

    @property
    def received_bytes(self) -> int:
        """Bytes that have arrived on all connections, those that have ended included."""
        with self._lock:
            return self._ended_bytes + sum(served.link.received_bytes for served in self._served)

    def start(self) -> None:
        self._listeners.resume(self._selector)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._thread.start()

    def stop_listening(self) -> None:
        """Take no new connections; those that are open go on."""
        self._max_connections = 0

    def close(self) -> None:
        """End every connection and thread of this port. Waits for sessions that are at work; never called by one."""
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
        self._pool.shutdown()
        for served in list(self._served):
            self._end(served, None)
        self._selector.close()
        self._listeners.close()
        self._wake_reader.close()
        self._wake_writer.close()

    # ── the selector's thread ────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._is_closing:
            ready = self._selector.select(self._seconds_to_deadline(time.monotonic()))
            self._look_at(ready)
            while self._returned:
                self._watch(self._returned.popleft())
            self._keep_deadlines(time.monotonic())
            self._pool.look(time.monotonic())
            del ready  # It would keep connections that end while this thread waits.

    def _look_at(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            if key.data is self._listeners:
                self._accept(time.monotonic())
            elif key.fileobj is self._wake_reader:
                self._drain_wake()
            else:
                self._selector.unregister(key.fileobj)
                self._hand_over(key.data)

    def _accept(self, now: float) -> None:
        for channel in self._listeners.accept(self._selector, now, len(self._served)):
            if len(self._served) >= self._max_connections and not self._make_room():
                channel.close()
                continue
            served = _Served(Link(channel))
            with self._lock:
                self._served[served] = None
                self._ungreeted[served] = now + self._greeting_within_s
            self._watch(served)

    def _make_room(self) -> bool:
        """Cut off who has waited longest without an accepted HELLO; return whether there was anybody."""
        with self._lock:
            longest = next(iter(self._ungreeted), None)
            if longest is None or len(self._served) >= self._max_connections + MAX_ENDING or not self._max_connections:
                return False
            del self._ungreeted[longest]
        longest.link.channel.shutdown()
        return True

    def _watch(self, served: _Served) -> None:
        """Wait for bytes of this connection, unless some are here that the selector does not see."""
        if served.link.channel.has_bytes_kept:
            self._hand_over(served)
            return
        try:
            self._selector.register(served.link.channel.fileno(), selectors.EVENT_READ, served)
        except (OSError, ValueError, KeyError) as error:
            _log.error("A connection from %s cannot be watched: %s", served.link.channel.peer, error)
            served.link.channel.shutdown()
            self._hand_over(served)

    def _hand_over(self, served: _Served) -> None:
        self._pool.submit(self._serve, served)

    def _seconds_to_deadline(self, now: float) -> float:
        with self._lock:
            first = [next(iter(each.values()), None) for each in (self._ungreeted, self._unfinished)]
        deadlines = [time_s for time_s in (*first, self._listeners.resumes_at) if time_s is not None]
        # Threads that note an unfinished frame do not wake the selector: it looks by itself.
        to_deadline = max(0.0, min(deadlines, default=math.inf) - now)
        return min(to_deadline, self._slow_after_s, self._pool.seconds_to_look(now))

    def _keep_deadlines(self, now: float) -> None:
        if self._listeners.resumes_at is not None and now >= self._listeners.resumes_at:
            self._listeners.resume(self._selector)
        with self._lock:
            late = _taken_due(self._ungreeted, now)
            for served in _taken_due(self._unfinished, now):
                if self._is_slow(served):
                    late.append(served)
                else:
                    self._unfinished[served] = now + self._slow_after_s
        for served in late:
            served.link.channel.shutdown()  # Its end is seen where its bytes would be.

    def _is_slow(self, served: _Served) -> bool:
        link = served.link
        moved_bytes, served.marked_bytes = link.received_bytes - served.marked_bytes, link.received_bytes
        is_waiting_for_us = link.channel.has_bytes_waiting
        return moved_bytes < SLOW_BYTES_PER_S * self._slow_after_s and not is_waiting_for_us

    def _note_unfinished(self, served: _Served) -> None:
        """More must be read: if that is the rest of a frame, it must come in time."""
        if served in self._unfinished or served.link.connection.is_between_frames:
            return
        served.marked_bytes = served.link.received_bytes
        with self._lock:
            self._unfinished[served] = time.monotonic() + self._slow_after_s

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # Wake-ups enough are waiting.
            self._wake_writer.send(b"\0")

    def _drain_wake(self) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass

    # ── a thread of the pool ─────────────────────────────────────────────────────────────────────────────────────────

    def _serve(self, served: _Served) -> None:
        try:
            is_open = self._serve_events(served)
        except Exception as error:  # noqa: BLE001  a bug in one session must not end the others; it is logged
            # Kept in a variable of this frame, it would keep the frame, and so what the peer has not finished.
            self._end(served, _reason(served, error))
            return
        if is_open and not self._is_closing:
            served.link.rest()
            self._returned.append(served)
            self._wake()
        else:
            self._end(served, None)

    def _serve_events(self, served: _Served) -> bool:
        """Serve until nothing comes for a moment, or no thread is free for others; return whether it is still open."""
        link, has_read = served.link, False
        while not self._is_closing:
            event = link.next_event()
            if self._unfinished and event is not None and served in self._unfinished:
                with self._lock:
                    self._unfinished.pop(served, None)
            if event is None:
                if not (has_read and self._pool.is_busy) and link.read_at_once():
                    has_read = True
                    continue
                self._note_unfinished(served)
                if served.session is not None:
                    served.session.pause()
                if link.connection.state is State.CLOSED:
                    return False
                if has_read and self._pool.is_busy:
                    return True
                if not link.read(may_poll=self._pool.is_alone):
                    return True
                has_read = True
            elif not self._handle(served, event):
                return False
        return False

    def _handle(self, served: _Served, event: Event) -> bool:
        """Act on an event; return False when it was the last one."""
        session = served.session
        if isinstance(event, Goodbye):
            if session is not None:
                session.pause()  # What was done for it before is still worth telling.
            return False
        if isinstance(event, Hello):
            self._receive(served, event)
        elif session is not None:
            session.handle(event)
        return True

    def _receive(self, served: _Served, hello: Hello) -> None:
        try:
            answer, session = self._reception(served.link, hello)
        except NotAllowed as error:
            who = f"{hello.role} {(hello.source or hello.engine)[:100]!r} of stream {hello.stream[:100]!r}"
            text, peer = "A connection from %s, who says to be %s, is refused: %s", served.link.channel.peer
            self._refused_log.say(logging.WARNING, text, peer, who, error)
            raise
        served.session = session
        with self._lock:
            self._ungreeted.pop(served, None)
        served.link.send(served.link.connection.hello(answer))
        session.opened()

    def _end(self, served: _Served, error: HarmonicIOError | None) -> None:
        """End a connection that nobody else has any more."""
        try:
            if error is not None and not isinstance(error, ConnectionEnded):
                say = _log.log if served.session is not None else self._stranger_log.say
                say(logging.INFO, "Connection from %s ended: %s", served.link.channel.peer, error)
                code = "protocol" if isinstance(error, RemoteProtocolError) else error.code
                served.link.say_goodbye(code, error.text, error.hint)
            if served.session is not None:
                served.session.closed(error)
        except Exception:  # noqa: BLE001  the connection must be given back all the same
            _log.exception("A session did not end in order")
        finally:
            served.link.close()
            with self._lock:
                self._served.pop(served, None)
                self._ungreeted.pop(served, None)
                self._unfinished.pop(served, None)
                self._ended_bytes += served.link.received_bytes


def _taken_due(deadlines: dict[_Served, float], now: float) -> list[_Served]:
    """Take out whose time is over."""
    due = list(itertools.takewhile(lambda served: deadlines[served] <= now, deadlines))
    for served in due:
        del deadlines[served]
    return due


def _reason(served: _Served, error: Exception) -> HarmonicIOError:
    """Return what the peer and the session may hear of an error; one of our own making is for the log."""
    if isinstance(error, HarmonicIOError) and not isinstance(error, LocalProtocolError):
        return error
    _log.error("An error of ours ends the connection from %s", served.link.channel.peer, exc_info=error)
    return HarmonicIOError("An internal error ended the connection.")
