"""The master's data port: takes messages into the backlog and pushes them to engines.

      connector ──MESSAGE──► ConnectorSession ──put──► backlog ──reserve──► EngineSession ──MESSAGE──► engine
                ◄─OUTCOMES──                  ◄─stored─        ◄──settle───               ◄─OUTCOMES──

Whoever changes something (the store's writer, an engine's credit, a new message) only kicks a session; what then has to
be sent is sent by that session's own task in a bounded pool, so a slow peer holds up nobody else.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable

from harmonicio import __version__
from harmonicio.core.errors import HarmonicIOError, NotAllowed, Unavailable
from harmonicio.core.lease import Address, Claims
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.entry import Reservation
from harmonicio.master.backlog.reservations import holder_of
from harmonicio.master.bridge import Bridge
from harmonicio.master.connector_session import ConnectorSession
from harmonicio.master.engine_session import EngineSession
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials
from harmonicio.transport.data_port import DataPort, Session
from harmonicio.transport.link import Link
from harmonicio.transport.thread_pool import ThreadPool
from harmonicio.wire import checksum
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import VERSION

MAX_SENDING_THREADS = 64
#: Slow uploads keep a thread each: there are more than a site has sources, so that engines and newcomers are heard.
MAX_RECEIVING_THREADS = 512

#: Checks a ticket and returns what it says; raises NotAllowed.
VerifyIntake = Callable[[str], Claims]
#: Checks an engine's ticket, given the worker and engine that it says to be.
VerifyEngine = Callable[[str, str, str], Claims]
#: Returns a stream's declaration; raises NotFound.
FindStream = Callable[[str], StreamDeclaration]


class Intake:
    """Serves the master's data port.

    Args:
        host, port: Where to listen; port 0 takes a free one.
        bridge: A bridge of this host on whose address it listens as well.
        backlog: Where messages are put and come from; the intake listens to its changes.
        tls: With a certificate, it speaks TLS.
        verify_intake, verify_engine, find_stream: Ask the master's state.
    """

    def __init__(
        self,
        host: str,
        port: int,
        backlog: Backlog,
        *,
        verify_intake: VerifyIntake,
        verify_engine: VerifyEngine,
        find_stream: FindStream,
        bridge: Bridge | None = None,
        tls: TlsCredentials = NO_CREDENTIALS,
    ) -> None:
        self._backlog = backlog
        self._verify_intake = verify_intake
        self._verify_engine = verify_engine
        self._find_stream = find_stream
        self._lock = threading.Lock()
        self._engines: dict[str, list[EngineSession]] = {}
        self._connectors: set[ConnectorSession] = set()
        self._opened = 0
        self._draining = threading.Event()
        self._executor = ThreadPool(MAX_SENDING_THREADS, "intake-send")
        self._open = functools.partial(
            DataPort, reception=self._receive, name="intake", tls=tls, max_threads=MAX_RECEIVING_THREADS
        )
        self._ports = [self._open(host, port)]
        if bridge is not None:
            self._open_on(bridge)
        backlog.set_listeners(on_change=self._depth_changed, on_room=self._room_changed)

    def __repr__(self) -> str:
        engines = sum(len(sessions) for sessions in self._engines.values())
        return f"<Intake on {self.address}: {len(self._connectors)} connectors, {engines} engines>"

    @property
    def address(self) -> Address:
        return self._ports[0].address

    @property
    def is_intact(self) -> bool:
        """Whether it still serves."""
        return all(port.is_intact for port in self._ports)

    @property
    def received_bytes(self) -> int:
        """Every byte that reached the data port."""
        return sum(port.received_bytes for port in self._ports)

    def start(self) -> None:
        for port in self._ports:
            port.start()

    def drain(self, within_s: float) -> None:
        """Take nothing new, give out nothing more, and tell everybody so; what is under way is answered."""
        with self._lock:
            self._draining.set()
        for port in self._ports:
            port.stop_listening()
        for session in self._sessions():
            session.drain(within_s)

    @property
    def has_unanswered(self) -> bool:
        """Whether engines have messages of the backlog that they have not answered, or messages are being stored."""
        return any(session.has_unanswered for session in self._sessions())

    def _sessions(self) -> list[ConnectorSession | EngineSession]:
        with self._lock:
            return [*self._connectors, *itertools.chain.from_iterable(self._engines.values())]

    def close(self) -> None:
        """End all connections and threads; what is stored stays stored."""
        for port in self._ports:
            port.close()
        self._executor.shutdown(wait=True)

    def _open_on(self, bridge: Bridge) -> None:
        port = self.address.port
        try:
            opened = self._open(bridge.host, port, device=bridge.device)
        except HarmonicIOError:
            self.close()
            raise
        self._ports.append(opened)

    # ── reception ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, link: Link, hello: Hello) -> tuple[Hello, Session]:
        if self._draining.is_set():
            raise Unavailable("The master takes no new connections, because it ends.")
        declaration = self._check(hello)
        checksum_name = checksum.choose(hello.checksums)
        session: ConnectorSession | EngineSession
        if hello.role is Role.ENGINE:
            session = self._engine_session(link, hello, checksum_name)
        else:
            session = self._connector_session(link, hello, declaration)
            declaration = session.declaration
        if self._draining.is_set():  # Begun meanwhile, perhaps before this session was known.
            session.drain(0.0)
        answer = Hello(
            Role.MASTER,
            stream=declaration.name,
            checksums=tuple(filter(None, [checksum_name])),
            max_message_bytes=declaration.max_message_bytes,
            software=f"harmonicio {__version__}",
            versions=(VERSION,),
        )
        return answer, session

    def _check(self, hello: Hello) -> StreamDeclaration:
        if hello.role is Role.ENGINE:
            claims = self._verify_engine(hello.worker, hello.engine, hello.ticket)
            is_right = claims.engine == hello.engine and claims.stream == hello.stream
        else:
            claims = self._verify_intake(hello.ticket)
            is_right = claims.source == hello.source and claims.stream == hello.stream
        if not is_right:
            raise NotAllowed("The ticket was given to somebody else.", hint="Ask the master for a ticket of your own.")
        return self._find_stream(hello.stream)

    def _connector_session(self, link: Link, hello: Hello, declaration: StreamDeclaration) -> ConnectorSession:
        session = ConnectorSession(
            link,
            self._verify_intake(hello.ticket),
            self._backlog,
            self._executor,
            declaration=declaration,
            on_closed=self._connector_closed,
        )
        with self._lock:
            self._connectors.add(session)
        try:
            # Again: what is revoked or declared anew from here on finds the session.
            session.declaration = self._check(hello)
        except HarmonicIOError:
            self._connector_closed(session)
            raise
        return session

    def _engine_session(self, link: Link, hello: Hello, checksum_name: str = "") -> EngineSession:
        with self._lock:
            self._opened += 1
            # An engine may dial again before its broken connection is noticed: each connection holds for itself.
            holder = holder_of(hello.engine, self._opened)
        session = EngineSession(
            link,
            hello.engine,
            holder,
            hello.stream,
            self._backlog,
            self._executor,
            checksum=checksum_name,
            on_room=self._assign,
            on_closed=self._engine_closed,
        )
        with self._lock:
            self._engines.setdefault(hello.stream, []).append(session)
        return session

    def _engine_closed(self, session: EngineSession) -> None:
        with self._lock:
            self._engines[session.stream].remove(session)
            if not self._engines[session.stream]:
                del self._engines[session.stream]

    def end_engine(self, engine: str) -> None:
        """End the connections of an engine whose process has ended; a process that it has left behind may hold them."""
        with self._lock:
            sessions = [each for sessions in self._engines.values() for each in sessions if each.engine == engine]
        for session in sessions:
            session.end()

    def end_connectors(self, is_revoked: Callable[[Claims], bool]) -> None:
        """End the connections of sources whose tickets are revoked; what was stored for them stays stored."""
        with self._lock:
            sessions = [session for session in self._connectors if is_revoked(session.claims)]
        for session in sessions:
            session.revoke()

    def _connector_closed(self, session: ConnectorSession) -> None:
        with self._lock:
            self._connectors.discard(session)

    # ── which message goes where ─────────────────────────────────────────────────────────────────────────────────────

    def _assign(self, stream: str) -> None:
        """Give waiting messages to engines with credit.

        Those that have refused the fewest for want of room come first, then those with the least work from the backlog.
        """
        with self._lock:
            sessions = self._engines.get(stream, [])
            chosen: list[EngineSession] = []

            def choose(size_bytes: int) -> str | None:
                able = [session for session in sessions if session.can_take(size_bytes)]
                if not able:
                    return None
                session = min(able, key=_eagerness) if len(able) > 1 else able[0]
                session.expect(size_bytes)
                chosen.append(session)
                return session.holder

            self._recall(stream, sessions)
            while reservations := self._backlog.reserve(stream, choose, time.monotonic()):
                assigned: dict[EngineSession, list[Reservation]] = {}
                for session, reservation in zip(chosen, reservations, strict=True):
                    assigned.setdefault(session, []).append(reservation)
                for session, batch in assigned.items():
                    session.assign(batch)
                chosen.clear()
                self._recall(stream, sessions)

    def _recall(self, stream: str, sessions: list[EngineSession]) -> None:
        """Have what was put off offered again if an engine that has refused none can take it."""
        size_bytes = self._backlog.put_off_size(stream)
        if size_bytes is not None and any(item.refusals == 0 and item.can_take(size_bytes) for item in sessions):
            self._backlog.recall(stream)

    def _depth_changed(self, stream: str) -> None:
        self._assign(stream)
        with self._lock:
            sessions = list(self._engines.get(stream, []))
        for session in sessions:
            session.depth_changed()

    def _room_changed(self) -> None:
        with self._lock:
            sessions = list(self._connectors)
        for session in sessions:
            session.room_changed()


def _eagerness(session: EngineSession) -> tuple[int, int]:
    """Return what the next message is given by: to whom this is the least."""
    return session.refusals, session.load
