"""What one connection's sender has yet to hear: outcomes, gathered into ranges, and credit."""

from __future__ import annotations

import threading
import time

from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.engine.arena_payloads import ArenaPayloads, news_frames
from harmonicio.engine.peer import Peer
from harmonicio.transport.link import Link
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.outcomes import DONE, OutcomeBatch
from harmonicio.wire.sections import credit_frame

#: The answers to so many messages, or payload bytes, are worth a call of their own, although more messages are here
#: already: their sender may be waiting for room.
FULL_AFTER_MESSAGES, FULL_AFTER_BYTES = 32, 2 * 1024 * 1024


class Answers:
    """Counts and sends the answers of one connection; every method may be called from any thread.

    Args:
        arena: Payloads that lie in shared memory; what somebody still looks at is said before its answer.

    Attributes:
        is_full: Whether so much is unsent that it should be sent before more is run or received.
        oldest_at: When the oldest unsent outcome was added; None when nothing is unsent.
        handled, failed: Messages whose handler has returned or raised; ``failed`` of them raised.
        received_bytes: Their payloads.
    """

    def __init__(self, link: Link, peer: Peer, arena: ArenaPayloads | None = None) -> None:
        self._link = link
        self._peer = peer
        self._credit = peer.credit
        self._arena = arena
        self._lock = threading.Lock()
        self._outcomes = OutcomeBatch()
        self._told = (0, 0)
        self._unsent = self._unsent_bytes = 0
        self._is_over = False
        self.is_full = False
        self.oldest_at: float | None = None
        self.handled = 0
        self.failed = 0
        self.received_bytes = 0

    def __repr__(self) -> str:
        return f"<Answers: {self.handled} handled, {self._outcomes!r} unsent>"

    @property
    def holds_payloads(self) -> bool:
        """Whether the sender waits to hear that payloads in shared memory are not looked at any more."""
        return self._arena is not None and self._arena.held > 0

    @property
    def may_wait(self) -> bool:
        """Whether there are some, and not so many that they should be sent."""
        return self.oldest_at is not None and not self.is_full

    def message_granted(self) -> None:
        """A message that another thread will run does not wait any more."""
        with self._lock:
            self._peer.started_elsewhere += 1

    def message_handled(self, message: IncomingMessage, outcome: Outcome, detail: bytes = b"") -> None:
        """Keep the outcome of a message that was started."""
        size_bytes = message.size_bytes
        with self._lock:
            if self.oldest_at is None:
                self.oldest_at = time.monotonic()
            self._outcomes.add(message.sequence, outcome, detail)
            if self._arena is not None:
                self._arena.answered(message.sequence)
            self._credit.message_answered(size_bytes)
            self._unsent += 1
            # What lies in shared memory takes no time to be received, and the master waits for no room.
            if message.place < 0 and not self._peer.is_backlog:
                self._unsent_bytes += size_bytes
            if self._unsent >= FULL_AFTER_MESSAGES or self._unsent_bytes >= FULL_AFTER_BYTES or self._outcomes.is_full:
                self.is_full = True
            if outcome is DONE or outcome.kind is not OutcomeKind.REJECTED:  # Else it was not kept, and comes again.
                self.handled += 1
                self.received_bytes += size_bytes
                if outcome is not DONE and outcome.kind is OutcomeKind.FAILED:
                    self.failed += 1

    def message_refused(self, message: IncomingMessage, refusal: Outcome, *, was_started: bool = False) -> None:
        """Keep the answer to a message that is not taken."""
        with self._lock:
            if self.oldest_at is None:
                self.oldest_at = time.monotonic()
            if not was_started:
                self._peer.started_elsewhere += 1
            self._outcomes.add(message.sequence, refusal)
            if self._arena is not None:
                self._arena.answered(message.sequence)
            self._credit.message_answered(message.size_bytes)
            self.is_full |= self._outcomes.is_full

    def flush(self) -> None:
        """Send what is unsent.

        Raises:
            ConnectionEnded: nobody is there any more.
        """
        frames: list[bytes] = []
        held: list[int] = []
        with self._lock:
            if self._is_over:
                return
            if self._arena is not None and self._arena.held:
                held, frames = news_frames(self._arena)
            if self._outcomes:
                frames.append(self._outcomes.take_frame())
                self._unsent = self._unsent_bytes = 0
                self.is_full, self.oldest_at = False, None
            totals = (self._credit.messages_total, self._credit.bytes_total)
            if totals != self._told:
                self._told = totals
                frames.append(credit_frame(*totals))
        if frames:
            self._link.send(*frames)
        if held and self._arena is not None:
            self._arena.told(held)

    def end(self) -> None:
        """Send nothing any more: GOODBYE was said, or the connection has ended."""
        with self._lock:
            self._is_over = True
