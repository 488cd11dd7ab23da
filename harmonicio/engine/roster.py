"""The open connections of one engine, and what all of them together have done."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from harmonicio.engine.session import Session


@dataclass(frozen=True, slots=True)
class Figures:
    """Counted since the engine started; ``received_bytes`` are payload bytes of handled messages."""

    handled: int = 0
    failed: int = 0
    handled_from_backlog: int = 0
    received_bytes: int = 0


@dataclass(slots=True)
class _Entry:
    """How long a connection has been quiet, and until when it may be whatever happens."""

    session: Session
    may_idle_until: float
    idle_for_s: float
    epoch: int | None
    received: int = 0
    quiet_since: float = 0.0


class Roster:
    """Knows every open session, of which there may be thousands: each look at all of them is to take little."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Session, _Entry] = {}
        self._with_arena: dict[Session, None] = {}
        self._ended = Figures()

    def __repr__(self) -> str:
        return f"<Roster: {len(self._entries)} sessions, {self.figures()}>"

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self, session: Session, now: float, *, may_idle_until: float, idle_for_s: float, epoch: int | None = None
    ) -> None:
        """Take a session in.

        Args:
            may_idle_until, idle_for_s: It ends when both this moment has passed and it was quiet for so long.
            epoch: That of the ticket that let it in; None without a ticket.
        """
        with self._lock:
            self._entries[session] = _Entry(session, may_idle_until, idle_for_s, epoch, quiet_since=now)
            if session.arena is not None:
                self._with_arena[session] = None

    def remove(self, session: Session) -> None:
        with self._lock:
            if self._entries.pop(session, None) is not None:
                self._ended = _sum_of(self._ended, [session])
                self._with_arena.pop(session, None)

    def sessions(self) -> list[Session]:
        with self._lock:
            return list(self._entries)

    def sessions_with_arena(self) -> list[Session]:
        """Return those whose payloads may lie in shared memory."""
        with self._lock:
            return list(self._with_arena)

    def figures(self) -> Figures:
        """Return what all sessions, those that have ended included, have done."""
        with self._lock:
            return _sum_of(self._ended, self._entries)

    def older_sessions(self, epoch: int) -> list[Session]:
        """Return the connectors' sessions whose tickets are of an older epoch."""
        with self._lock:
            return [
                entry.session for entry in self._entries.values() if entry.epoch is not None and entry.epoch < epoch
            ]

    def idle_sessions(self, now: float) -> list[Session]:
        """Return the connectors' sessions whose lease has ended and that were quiet for a term.

        None of which views of payloads in shared memory are left: their sources could not be told that these have gone.
        """
        with self._lock:
            for entry in self._entries.values():
                credit = entry.session.peer.credit
                is_viewed = entry.session.answers.holds_payloads
                if credit.received != entry.received or credit.outstanding or is_viewed:
                    entry.received, entry.quiet_since = credit.received, now
            return [
                entry.session
                for entry in self._entries.values()
                if now >= entry.may_idle_until and now - entry.quiet_since >= entry.idle_for_s
            ]


def _sum_of(figures: Figures, sessions: Iterable[Session]) -> Figures:
    handled, failed, received_bytes = figures.handled, figures.failed, figures.received_bytes
    from_backlog = figures.handled_from_backlog
    for session in sessions:
        answers = session.answers
        if answers.handled:
            handled, failed = handled + answers.handled, failed + answers.failed
            received_bytes += answers.received_bytes
            from_backlog += answers.handled if session.peer.is_backlog else 0
    return Figures(handled, failed, from_backlog, received_bytes)
