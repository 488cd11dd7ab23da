"""Who may send to this engine: HELLO and the tickets of leases.

A ticket names lease, stream, engine and source. Its source may present it again until the lease ends; the engine's own
monotonic timer for that starts when it sees the ticket first. Tickets that are older than the epoch that the master
said last, by way of the controller, were revoked. A ticket's own epoch says nothing about others: it may come from a
master whose folder has been restored or replaced since.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass

from harmonicio import __version__
from harmonicio.control import tickets
from harmonicio.core.clock import Clock
from harmonicio.core.errors import NotAllowed, Unavailable
from harmonicio.core.lease import WALL_CLOCK_TOLERANCE_S, Claims, TicketKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine.arena_payloads import ArenaPayloads
from harmonicio.transport.arena import IS_SUPPORTED, ArenaView
from harmonicio.transport.link import Link
from harmonicio.wire import checksum
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import VERSION

_log = logging.getLogger(__name__)

#: Leases that are remembered; one is forgotten when its ticket could not be presented any more.
MAX_LEASES = 100_000
#: Connections whose shared memory is mapped at the same time: those beyond send bytes.
MAX_ARENAS = 256
#: One arena may be so many times as large as the engine's budget for payloads. What its source has not written takes
#: memory of the engine when it is read, so there is a limit to what one may name; and an engine that has an eighth of
#: the usual budget still takes the usual arena.
ARENA_BUDGETS = 4
SOFTWARE = f"harmonicio {__version__}"
ASK_AGAIN = "Ask the master for a new lease."


@dataclass(frozen=True, slots=True)
class _Term:
    """A lease as this engine knows it: ``ends_at`` on the monotonic, ``forget_at`` on the wall clock."""

    source: str
    ends_at: float
    forget_at: float


class TicketDesk:
    """Checks tickets and remembers when their leases end.

    Args:
        key: Hex key of this engine.

    Attributes:
        epoch: What is older was revoked, as the master said last.
    """

    def __init__(self, key: str, stream: str, engine: str, clock: Clock) -> None:
        self._key = key
        self._stream = stream
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._terms: dict[str, _Term] = {}
        self.epoch = 0

    def __repr__(self) -> str:
        return f"<TicketDesk of {self._engine}: {len(self._terms)} leases known, epoch {self.epoch}>"

    def present(self, ticket: str, source: str) -> Claims:
        """Return what the ticket says, when it lets this source in now.

        Raises:
            NotAllowed: it does not.
            Unavailable: more leases are known than can be kept apart.
        """
        wall_s = self._clock.wall()
        claims = tickets.verify(self._key, ticket, TicketKind.LEASE, wall_s=wall_s, oldest_epoch=self.epoch)
        if claims.stream != self._stream or claims.engine != self._engine:
            raise NotAllowed("The ticket is for another engine.", hint=ASK_AGAIN)
        if claims.source != source or not source:
            raise NotAllowed("The ticket was given to another source.", hint=ASK_AGAIN)
        with self._lock:
            self._check_term(claims, wall_s)
        return claims

    def ends_at(self, lease: str) -> float:
        """Return when, on the monotonic clock, a lease that was presented ends."""
        with self._lock:
            term = self._terms.get(lease)
        return term.ends_at if term is not None else 0.0

    def _check_term(self, claims: Claims, wall_s: float) -> None:
        now = self._clock.monotonic()
        term = self._terms.get(claims.lease)
        if term is None:
            if len(self._terms) >= MAX_LEASES:
                self._forget(wall_s)
            forget_at = claims.issued_at + claims.term_s + WALL_CLOCK_TOLERANCE_S
            self._terms[claims.lease] = _Term(claims.source, now + claims.term_s, forget_at)
        elif term.source != claims.source:
            raise NotAllowed("The lease was presented by another source.", hint=ASK_AGAIN)
        elif now >= term.ends_at:
            raise NotAllowed("The lease has ended.", hint=ASK_AGAIN)

    def _forget(self, wall_s: float) -> None:
        self._terms = {lease: term for lease, term in self._terms.items() if term.forget_at > wall_s}
        if len(self._terms) >= MAX_LEASES:
            raise Unavailable("This engine has been given too many leases.", retry_after_s=WALL_CLOCK_TOLERANCE_S)


def check_role(hello: Hello, declaration: StreamDeclaration) -> None:
    """Refuse whoever is no connector of this stream.

    Raises:
        NotAllowed: with the reason.
    """
    if hello.role is not Role.CONNECTOR:
        raise NotAllowed("An engine is dialled by stream connectors only.", hint="Dial the master instead.")
    if hello.stream != declaration.name:
        raise NotAllowed(f"This engine does not serve stream {hello.stream!r}.", hint=ASK_AGAIN)


def take_arena(link: Link, hello: Hello, taken: int, budget_bytes: int) -> ArenaPayloads | None:
    """Return the shared memory that came along with a HELLO; None when there is none, or it cannot be used.

    Args:
        taken: How many others have been.
        budget_bytes: Of the engine, for payloads.
    """
    descriptor = link.channel.take_descriptor()
    if descriptor is None:
        return None
    if not (hello.arena and IS_SUPPORTED and taken < MAX_ARENAS):
        os.close(descriptor)
        return None
    if hello.arena > ARENA_BUDGETS * budget_bytes:
        text = "The shared memory of source %s is not used: it has %d bytes, more than %d times the payload budget"
        _log.info(text, hello.source, hello.arena, ARENA_BUDGETS)
        os.close(descriptor)
        return None
    try:
        arena = ArenaPayloads(ArenaView(descriptor, hello.arena))
    except (OSError, ValueError, OverflowError) as error:
        _log.info("The shared memory of source %s is not used: %s", hello.source, error)
        return None
    link.connection.use_arena(hello.arena)
    return arena


def answer_to(hello: Hello, declaration: StreamDeclaration, engine: str, arena: ArenaPayloads | None = None) -> Hello:
    """Return the answer to a HELLO that is accepted."""
    return Hello(
        Role.ENGINE,
        stream=declaration.name,
        engine=engine,
        checksums=tuple(filter(None, [checksum.choose(hello.checksums)])),
        max_message_bytes=declaration.max_message_bytes,
        software=SOFTWARE,
        arena=0 if arena is None else arena.size_bytes,
        versions=(VERSION,),
    )
