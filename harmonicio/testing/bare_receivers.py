"""Peers of a stream connector, reduced to what the wire needs: receivers of messages, and a master that grants leases.

They speak the real protocol over real sockets and leave out every policy, so that a test decides what is answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.lease import Address
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.arrivals import one_by_one
from harmonicio.transport.data_port import DataPort, Session
from harmonicio.transport.link import Link
from harmonicio.wire import checksum
from harmonicio.wire.events import Event, Hello, IncomingMessage, MessageBegun, Result, Role, Subscribe
from harmonicio.wire.outcomes import DONE, STORED, OutcomeBatch
from harmonicio.wire.sections import credit_frame, drain_frame, results_frame

#: What to say to a message; None answers nothing.
Answer = Callable[[IncomingMessage], Outcome | None]
#: What to say when a message's final outcome is asked for; raises LookupError to say nothing.
Final = Callable[[str], Outcome | None]


def done(message: IncomingMessage) -> Outcome:
    """Answer with the length of the payload as the result."""
    return Outcome(OutcomeKind.DONE, result=message.size_bytes)


def stored(_: IncomingMessage) -> Outcome:
    return STORED


def processed(_: str) -> Outcome:
    return DONE


class Receiver:
    """A data port, an engine's or the master's, that answers each message as a test says and remembers what came.

    Args:
        window: How many messages each connection may have outstanding; 0 gives no credit.
        max_message_bytes: Said in HELLO.
        is_keeping: Whether payloads are kept; else large ones are discarded as they come.
    """

    def __init__(
        self,
        role: Role,
        answer: Answer,
        *,
        window: int = 64,
        max_message_bytes: int = 2**40,
        is_keeping: bool = True,
        final: Final = processed,
        port: int = 0,
    ) -> None:
        self.role = role
        self.answer = answer
        self.final = final
        self.window = window
        self.max_message_bytes = max_message_bytes
        self.is_keeping = is_keeping
        self.refusal: HarmonicIOError | None = None
        self.messages: list[tuple[str, bytes]] = []
        self.seen: list[IncomingMessage] = []
        self.asked: list[str] = []
        self.sessions: list[_Received] = []
        self.port = DataPort("127.0.0.1", port, self._receive, name=str(role))
        self.port.start()

    def __repr__(self) -> str:
        return f"<Receiver {self.role} at {self.address}: {len(self.seen)} messages>"

    @property
    def address(self) -> Address:
        return self.port.address

    def cut(self) -> None:
        """End every connection as a crash would; the port goes on listening."""
        for session in self.sessions:
            session.link.channel.shutdown()

    def drain(self) -> None:
        """Take nothing new on the connections that are open."""
        for session in self.sessions:
            session.link.send(drain_frame(10.0))

    def close(self) -> None:
        self.port.close()

    def _receive(self, link: Link, hello: Hello) -> tuple[Hello, Session]:
        if self.refusal is not None:
            raise self.refusal
        session = _Received(self, link)
        self.sessions.append(session)
        chosen = checksum.choose(hello.checksums)
        answer = Hello(self.role, max_message_bytes=self.max_message_bytes, checksums=(chosen,) if chosen else ())
        return answer, session


class _Received:
    """One connection of a receiver."""

    def __init__(self, receiver: Receiver, link: Link) -> None:
        self.receiver = receiver
        self.link = link
        self.answered = 0
        self._granted = 0
        self._outcomes = OutcomeBatch()
        self._sending = threading.Lock()

    def opened(self) -> None:
        self.pause()

    def handle(self, event: Event) -> None:
        for each in one_by_one(event):
            self._handle(each)

    def _handle(self, event: Event | IncomingMessage) -> None:
        if isinstance(event, MessageBegun):
            if self.receiver.is_keeping:
                self.link.receive_payload(memoryview(bytearray(event.message.size_bytes)))
            else:
                self.link.connection.discard_payload()
        elif isinstance(event, IncomingMessage):
            self._received(event)
        elif isinstance(event, Subscribe):
            self.receiver.asked += event.message_ids
            self._tell(event.message_ids)

    def _received(self, message: IncomingMessage) -> None:
        receiver = self.receiver
        if receiver.is_keeping and message.payload is not None:
            receiver.messages.append((message.id, bytes(message.payload)))
        receiver.seen.append(message)
        outcome = receiver.answer(message)
        if outcome is not None:
            self.say(message.sequence, outcome)
        message.payload = None

    def say(self, sequence: int, outcome: Outcome) -> None:
        """Answer a message; on the connection's own thread that leaves with the next pause."""
        with self._sending:
            if self._outcomes.is_full:
                self.link.send(self._outcomes.take_frame())
            self._outcomes.add(sequence, outcome)
            self.answered += 1

    def _tell(self, message_ids: Sequence[str]) -> None:
        results = []
        for message_id in message_ids:
            try:
                results.append(Result(message_id, self.receiver.final(message_id)))
            except LookupError:
                continue  # Nobody knows yet.
        if results:
            self.link.send(results_frame(results))

    def pause(self) -> None:
        with self._sending:
            frames = self._outcomes.take_frame() if self._outcomes else b""
            if self._granted - self.answered <= self.receiver.window // 2 and self.receiver.window:
                self._granted = self.answered + self.receiver.window
                frames += credit_frame(self._granted, 2**50)
            if frames:
                self.link.send(frames)

    def closed(self, error: HarmonicIOError | None) -> None:
        """Nothing is held."""


class GrantingMaster:
    """Grants one lease on each engine, and access to the backlog; in place of a client of the real master.

    Attributes:
        error: Raised in place of the next answers, while it is set.
        held: Leases in force, with their engines' numbers.
        gone: Leases that have ended because their engine is gone.
    """

    url = "http://127.0.0.1:1"

    def __init__(self, engines: list[Receiver], backlog: Receiver, *, term_s: float = 60.0) -> None:
        self.engines = engines
        self.backlog = backlog
        self.term_s = term_s
        self.timeout_s = 600.0
        self.error: HarmonicIOError | None = None
        self.held: dict[str, int] = {}
        self.gone: set[str] = set()
        self.lost: set[int] = set()
        self.released: list[str] = []
        self.renewals = 0
        self.is_closed = False
        self._lock = threading.Lock()
        self._granted = 0

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        with self._lock:
            if self.error is not None:
                raise self.error
            taken = {*self.held.values(), *self.lost}
            free = [number for number in range(len(self.engines)) if number not in taken]
            leases = tuple(self._lease(number) for number in free[: request.count])
            access = BacklogAccess(self.backlog.address, "ticket", self.term_s)
            return LeaseGrant(leases, access, "engine" if leases else "queue", 0.05, self.timeout_s)

    def _lease(self, number: int) -> Lease:
        name = f"l-{self._granted}"
        self._granted += 1
        self.held[name] = number
        return Lease(name, f"e-{number}", self.engines[number].address, "ticket", self.term_s)

    def renew_leases(self, held: LeaseList) -> LeaseRenewal:
        with self._lock:
            if self.error is not None:
                raise self.error
            self.renewals += 1
            return LeaseRenewal(
                tuple(lease for lease in held.leases if lease in self.held),
                tuple(lease for lease in held.leases if lease not in self.held),
                tuple(lease for lease in held.leases if lease in self.gone),
            )

    def release_leases(self, held: LeaseList) -> None:
        with self._lock:
            if self.error is not None:
                raise self.error
            self.released += held.leases
            for lease in held.leases:
                self.held.pop(lease, None)

    def engine_is_gone(self, engine: Receiver) -> None:
        """Know that an engine is gone, and grant no lease on it any more."""
        with self._lock:
            number = self.engines.index(engine)
            ended = {lease for lease, its in self.held.items() if its == number}
            self.gone |= ended
            self.lost.add(number)
            for lease in ended:
                del self.held[lease]

    def forget(self) -> None:
        """Know of no lease any more, as after a restart."""
        with self._lock:
            self.held.clear()

    def close(self) -> None:
        self.is_closed = True


class BareCluster:
    """Engines, the backlog and a master that grants leases, as a context manager."""

    def __init__(self, *, term_s: float = 60.0) -> None:
        self.engines: list[Receiver] = []
        self.backlog = Receiver(Role.MASTER, stored)
        self.master = GrantingMaster(self.engines, self.backlog, term_s=term_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for receiver in (*self.engines, self.backlog):
            receiver.close()

    def engine(self, answer: Answer = done, **options: Any) -> Receiver:
        """Start another engine; options are those of :class:`Receiver`."""
        engine = Receiver(Role.ENGINE, answer, **options)
        self.engines.append(engine)
        return engine

    def connect(self, **options: Any) -> StreamConnector:
        """Return a connector of this cluster, not open yet."""
        return StreamConnector(stream="images", client=self.master, **options)
