"""What one connection's sender has yet to hear: outcomes, gathered into ranges, and credit."""

from __future__ import annotations

import threading
import time

from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.engine.peer import Peer
from harmonicio.transport.link import Link
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.outcomes import OutcomeBatch
from harmonicio.wire.sections import credit_frame

#: The answers to so many messages, or payload bytes, are worth a call of their own, although more messages are here
#: already: their sender may be waiting for room.
FULL_AFTER_MESSAGES, FULL_AFTER_BYTES = 32, 2 * 1024 * 1024


class Answers:
    """Counts and sends the answers of one connection; every method may be called from any thread.

    Attributes:
        handled, failed: Messages whose handler has returned or raised; ``failed`` of them raised.
        received_bytes: Their payloads.
    """

    def __init__(self, link: Link, peer: Peer) -> None:
        self._link = link
        self._peer = peer
        self._credit = peer.credit
        self._lock = threading.Lock()
        self._outcomes = OutcomeBatch()
        self._told = (0, 0)
        self._oldest_at = 0.0
        self._unsent = self._unsent_bytes = 0
        self._is_over = False
        self.handled = 0
        self.failed = 0
        self.received_bytes = 0

    def __repr__(self) -> str:
        return f"<Answers: {self.handled} handled, {self._outcomes!r} unsent>"

    @property
    def is_full(self) -> bool:
        """Whether so much is unsent that it should be sent before more is run or received."""
        is_much = self._unsent >= FULL_AFTER_MESSAGES or self._unsent_bytes >= FULL_AFTER_BYTES
        return is_much or self._outcomes.is_full

    @property
    def oldest_at(self) -> float | None:
        """When the oldest unsent outcome was added; None when nothing is unsent."""
        return self._oldest_at if self._outcomes else None

    def message_started(self) -> None:
        """A message does not wait any more."""
        with self._lock:
            self._peer.started += 1

    def message_handled(self, message: IncomingMessage, outcome: Outcome, detail: bytes = b"") -> None:
        """Keep the outcome of a message that was started."""
        with self._lock:
            if not self._outcomes:
                self._oldest_at = time.monotonic()
            self._outcomes.add(message.sequence, outcome, detail)
            self._credit.message_answered(message.size_bytes)
            self._unsent += 1
            self._unsent_bytes += message.size_bytes
            if outcome.kind is not OutcomeKind.REJECTED:  # Else its outputs could not be kept, and it comes again.
                self.handled += 1
                self.received_bytes += message.size_bytes
            if outcome.kind is OutcomeKind.FAILED:
                self.failed += 1

    def message_refused(self, message: IncomingMessage, refusal: Outcome, *, was_started: bool = False) -> None:
        """Keep the answer to a message that is not taken."""
        with self._lock:
            if not self._outcomes:
                self._oldest_at = time.monotonic()
            if not was_started:
                self._peer.started += 1
            self._outcomes.add(message.sequence, refusal)
            self._credit.message_answered(message.size_bytes)

    def flush(self) -> None:
        """Send what is unsent.

        Raises:
            ConnectionEnded: nobody is there any more.
        """
        frames = []
        with self._lock:
            if self._is_over:
                return
            if self._outcomes:
                frames.append(self._outcomes.take_frame())
                self._unsent = self._unsent_bytes = 0
            totals = (self._credit.messages_total, self._credit.bytes_total)
            if totals != self._told:
                self._told = totals
                frames.append(credit_frame(*totals))
        if frames:
            self._link.send(*frames)

    def end(self) -> None:
        """Send nothing any more: GOODBYE was said, or the connection has ended."""
        with self._lock:
            self._is_over = True
