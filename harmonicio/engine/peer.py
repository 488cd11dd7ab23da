"""One connection that brings messages to an engine: what it may send, and how far it has come with that."""

from __future__ import annotations

from harmonicio.wire.credit import ReceiverCredit

#: A peer that has not used its credit for this long is idle.
IDLE_AFTER_S = 0.02


class Peer:
    """One connection that brings messages.

    Attributes:
        credit: What was granted and received; counted by the session of the connection.
        started_here: Messages that the thread which reads the connection has begun to run; it alone counts them.
        started_elsewhere: Those that others have begun to run, and those that were refused.
        window: Messages that may be open, as the last review decided; ``window_bytes`` likewise.
    """

    __slots__ = (
        "_seen",
        "active_at",
        "credit",
        "deficit_bytes",
        "is_backlog",
        "name",
        "started_elsewhere",
        "started_here",
        "window",
        "window_bytes",
    )

    def __init__(self, name: str, *, is_backlog: bool = False) -> None:
        self.name = name
        self.is_backlog = is_backlog
        self.credit = ReceiverCredit()
        self.started_here = self.started_elsewhere = 0
        self.window = 1
        self.window_bytes = 0
        self.active_at = 0.0
        self.deficit_bytes = 0.0
        self._seen = (0, 0, 0)

    def __repr__(self) -> str:
        return f"<Peer {self.name}: {self.open} open, {self.waiting} waiting of {self.credit!r}>"

    @property
    def started(self) -> int:
        """Messages that no longer wait, those included that were refused."""
        return self.started_here + self.started_elsewhere

    @property
    def unused(self) -> int:
        """Messages that the peer may still send."""
        return max(0, self.credit.messages_total - self.credit.received)

    @property
    def open(self) -> int:
        """Messages granted and not started."""
        return max(0, self.credit.messages_total - self.started_here - self.started_elsewhere)

    @property
    def open_bytes(self) -> int:
        """Payload bytes granted and not answered."""
        return max(0, self.credit.bytes_total - self.credit.answered_bytes)

    @property
    def waiting(self) -> int:
        """Messages received and not started."""
        return self.credit.received - self.started

    @property
    def is_credit_low(self) -> bool:
        """Whether half of the window is used up, in messages or in bytes, so that more should be told."""
        credit = self.credit
        return (
            2 * (credit.messages_total - credit.received) <= self.window
            or 2 * (credit.bytes_total - credit.received_bytes) <= self.window_bytes
        )

    @property
    def mean_bytes(self) -> float:
        """Size of this peer's messages so far, at least one byte."""
        credit = self.credit
        return max(1.0, credit.received_bytes / credit.received) if credit.received else 1.0

    def observe(self, now: float) -> bool:
        """Take note of whether anything has happened since the last look, and return it."""
        credit = self.credit
        seen = (credit.received, self.started_here + self.started_elsewhere, credit.answered)
        if seen == self._seen:
            return False
        self._seen = seen
        self.active_at = now
        return True

    @property
    def idle_at(self) -> float:
        """When it counts as idle, unless something happens. Rounded once: who waits until then finds it so."""
        return self.active_at + IDLE_AFTER_S

    def is_active(self, now: float) -> bool:
        """Whether this peer competes for the window: it has work here, has no credit, or was busy a moment ago."""
        credit = self.credit
        has_work = credit.received > credit.answered
        return has_work or credit.received >= credit.messages_total or now < self.idle_at
