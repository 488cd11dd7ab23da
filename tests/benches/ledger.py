"""A ledger with shortcuts for one stream."""

from __future__ import annotations

from harmonicio.core.message import Failure
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import (
    Entry,
    PutVerdict,
    Reservation,
    RetryPolicy,
)
from harmonicio.master.backlog.ledger import Ledger

ERROR = Failure("ValueError", "no cell in sight")
FATAL = Failure("ValueError", "not an image", retryable=False)
DAY_S = 24 * 3600.0


class Desk:
    """A ledger with shortcuts for one stream."""

    def __init__(self, limits: LedgerLimits | None = None, policy: RetryPolicy | None = None) -> None:
        self.ledger = Ledger(limits)
        self.ledger.set_policy("plates", policy or RetryPolicy(3, 3, 60.0))

    def entry(self, message_id: str, payload: bytes = b"cells", **more: object) -> Entry:
        given: dict[str, object] = {"stream": "plates", "digest": digest_of(payload), "put_at": 0.0}
        sequence = self.ledger.draw_sequence()
        return Entry(
            message_id=message_id,
            sequence=sequence,
            size_bytes=len(payload),
            **(given | more),  # type: ignore[arg-type]
        )

    def put(self, message_id: str, payload: bytes = b"cells", now: float = 0.0, **more: object) -> Entry:
        """Put a message and have it stored."""
        entry = self.entry(message_id, payload, **more)
        assert self.ledger.admit(entry.size_bytes) is None
        assert self.ledger.put(entry, now)[0] is PutVerdict.NEW
        self.ledger.stored(entry)
        return entry

    def reserve(self, engine: str = "e1", now: float = 0.0) -> Reservation:
        self.ledger.promote(now)
        reservation = self.ledger.reserve("plates", engine, now)
        assert reservation is not None
        return reservation

    def take_all(self, now: float = 0.0) -> list[str]:
        taken = []
        self.ledger.promote(now)
        while (reservation := self.ledger.reserve("plates", "e1", now)) is not None:
            taken.append(reservation.entry.message_id)
        return taken

    def process(self, message_id: str, now: float = 0.0) -> None:
        """Put a message and have it processed."""
        entry = self.put(message_id)
        self.ledger.finish(self.reserve())
        self.ledger.settled(entry, now)
