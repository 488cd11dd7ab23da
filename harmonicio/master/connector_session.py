"""A connector's connection to the master: messages come in and are answered when they are on stable storage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor

from harmonicio.core.errors import HarmonicIOError, InvalidInput, NotAllowed, RemoteProtocolError
from harmonicio.core.lease import Claims
from harmonicio.core.message import Outcome, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.base import PendingPayload
from harmonicio.master.backlog.reception import REFUSALS, refusal_of
from harmonicio.master.session_task import SessionTask
from harmonicio.transport.link import Link
from harmonicio.wire.credit import ReceiverCredit
from harmonicio.wire.events import Drain, Event, IncomingMessage, MessageBegun, MessagesReceived, Result, Subscribe
from harmonicio.wire.metadata import check_unread
from harmonicio.wire.outcomes import OutcomeBatch
from harmonicio.wire.sections import credit_frame, drain_frame, results_frame

#: What one connector may have on its way to the disk.
WINDOW_MESSAGES, WINDOW_BYTES = 4096, 64 * 1024**2
#: While less than this is free in the backlog, nobody gets new credit.
CREDIT_NEEDS_BYTES = 1024**2
REVOKED, ASK_AGAIN = "The intake ticket was revoked.", "Ask the master for a new one."
MAX_SUBSCRIPTIONS = 1_000_000
RESULTS_PER_FRAME = 512
DRAINING = Outcome.rejected(RejectReason.DRAINING, "The master takes no new messages, because it ends.")


class ConnectorSession:
    """Takes one connector's messages into the backlog of one stream.

    Args:
        claims: What its ticket says.
        declaration: Of the stream.
        on_closed: Called once when the connection has ended.

    Attributes:
        declaration: May be replaced until the session is opened.
    """

    def __init__(
        self,
        link: Link,
        claims: Claims,
        backlog: Backlog,
        executor: Executor,
        *,
        declaration: StreamDeclaration,
        on_closed: Callable[[ConnectorSession], None],
    ) -> None:
        self.claims = claims
        self.stream = claims.stream
        self.declaration = declaration
        self._link = link
        self._backlog = backlog
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._credit = ReceiverCredit()
        self._outcomes = OutcomeBatch()
        self._results: list[Result] = []
        self._subscribed: set[str] = set()
        self._pending: PendingPayload | None = None
        self._refusal: Outcome | None = None
        self._is_revoked = False
        self._draining_s: float | None = None
        self._is_drain_told = False
        self._task = SessionTask(executor, self._send_what_waits, link.channel.shutdown)

    def __repr__(self) -> str:
        return f"<ConnectorSession for {self.stream}: {self._credit!r}, {len(self._subscribed)} subscribed>"

    # ── from the connector ───────────────────────────────────────────────────────────────────────────────────────────

    def opened(self) -> None:
        self._task.begin()

    def handle(self, event: Event) -> None:
        """Act on messages and subscriptions."""
        if self._is_revoked:
            raise NotAllowed(REVOKED, hint=ASK_AGAIN)
        if isinstance(event, MessageBegun):
            self._begin(event.message)
        elif isinstance(event, MessagesReceived):
            for message in event.messages:
                self._store(message)
        elif isinstance(event, Subscribe):
            self._subscribe(event.message_ids)
        elif not isinstance(event, Drain):
            raise RemoteProtocolError(f"A connector does not send {type(event).__name__}.")

    def _begin(self, message: IncomingMessage) -> None:
        """A large payload follows: give it a buffer, or say why not."""
        refusal = self._refusal_of(message)
        if refusal is not None:
            self._refuse(refusal)
            return
        try:
            self._pending = self._backlog.new_payload(self.stream, message.size_bytes, message.id, message.priority)
        except REFUSALS as error:
            self._refuse(refusal_of(error))
        else:
            self._link.receive_payload(self._pending.buffer)

    def _refusal_of(self, message: IncomingMessage) -> Outcome | None:
        """Return why no message like this is taken, whatever its payload."""
        if self._draining_s is not None:
            return DRAINING
        most = self.declaration.max_message_bytes
        if message.size_bytes <= most:
            return None
        text = f"The message has {message.size_bytes} bytes; stream {self.stream!r} takes {most}."
        return Outcome.rejected(RejectReason.TOO_LARGE, text)

    def _refuse(self, refusal: Outcome) -> None:
        """Read the payload and forget it, however large it is: closing would bring it back, and hold up its neighbours.

        The answer goes out behind the payload: until then its sender still reads the buffer.
        """
        self._refusal = refusal
        self._link.connection.discard_payload()

    def _store(self, message: IncomingMessage) -> None:
        check_unread(message.section)  # What no engine could read is not stored.
        with self._lock:
            is_within_credit = self._credit.message_received(message.size_bytes)
        refusal, self._refusal = self._refusal, None
        pending, self._pending = self._pending, None
        if refusal is None and pending is None:
            refusal = self._refusal_of(message)
        if refusal is None and not is_within_credit:
            refusal = Outcome.rejected(RejectReason.NO_CREDIT, "It came without credit.")
        if refusal is None and not message.is_intact:
            refusal = Outcome.rejected(RejectReason.CHECKSUM, "The payload was damaged on its way.")
        sequence, size_bytes = message.sequence, message.size_bytes

        def answer(outcome: Outcome) -> None:
            self._answer(sequence, size_bytes, outcome)

        if refusal is not None:
            if pending is not None:
                pending.discard()
            answer(refusal)
            return
        self._backlog.put(self.stream, message, pending, answer)

    def _answer(self, sequence: int, size_bytes: int, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes.add(sequence, outcome)
            self._credit.message_answered(size_bytes)
        self._task.kick()

    def _subscribe(self, message_ids: tuple[str, ...]) -> None:
        if len(self._subscribed) + len(message_ids) > MAX_SUBSCRIPTIONS:
            raise InvalidInput(f"More than {MAX_SUBSCRIPTIONS} outcomes are asked for on one connection.")
        self._subscribed.update(message_ids)
        for message_id in message_ids:
            self._backlog.subscribe(self.stream, message_id, self._final)

    def _final(self, message_id: str, outcome: Outcome | None) -> None:
        with self._lock:
            self._subscribed.discard(message_id)
            self._results.append(Result(message_id, outcome))
        self._task.kick()

    def pause(self) -> None:
        """Nothing waits to be sent for the reader's sake: the session's task sends."""

    def revoke(self) -> None:
        """The source may not send any more: take nothing from now on, and say why."""
        self._is_revoked = True
        self._task.kick()

    @property
    def has_unanswered(self) -> bool:
        """Whether messages are on their way to the disk, or their answers on the way out."""
        with self._lock:
            return bool(self._credit.outstanding or self._outcomes)

    def drain(self, within_s: float) -> None:
        """Take no message more; what is here is stored and answered."""
        self._draining_s = within_s
        self._task.kick()

    def room_changed(self) -> None:
        """The backlog has more room than before: see that the connector gets credit."""
        self._task.kick()

    def closed(self, error: HarmonicIOError | None) -> None:
        """Forget what the connector can no longer be told."""
        self._task.end()
        if self._pending is not None:
            self._pending.discard()
        self._backlog.unsubscribe(self.stream, self._subscribed, self._final)
        self._on_closed(self)

    # ── to the connector: the session's task ─────────────────────────────────────────────────────────────────────────

    def _send_what_waits(self) -> None:
        frames: list[bytes] = []
        can_take = self._backlog.can_take(CREDIT_NEEDS_BYTES, self.stream)
        with self._lock:
            if self._outcomes:
                frames.append(self._outcomes.take_frame())
            results, self._results = self._results, []
            if self._draining_s is not None and not self._is_drain_told:
                self._is_drain_told = True
                frames.append(drain_frame(self._draining_s))
            if can_take and self._draining_s is None and self._is_credit_due():
                frames.append(credit_frame(self._credit.messages_total, self._credit.bytes_total))
        for at in range(0, len(results), RESULTS_PER_FRAME):
            frames.append(results_frame(results[at : at + RESULTS_PER_FRAME]))
        if frames:
            self._link.send(*frames)
        if self._is_revoked:
            self._link.say_goodbye(NotAllowed.code, REVOKED, ASK_AGAIN)
            self._link.channel.shutdown()

    def _is_credit_due(self) -> bool:
        """Raise the totals once half of the window is used, so that CREDIT is not sent for every message.

        In an ordered stream messages come one by one. Were several on their way, later ones could find room in a full
        backlog after earlier ones had found none.
        """
        credit = self._credit
        window_messages = 1 if self.declaration.ordered else WINDOW_MESSAGES
        left_messages = credit.messages_total - credit.received
        left_bytes = credit.bytes_total - credit.received_bytes
        if left_messages > window_messages // 2 and left_bytes > WINDOW_BYTES // 2:
            return False
        return credit.grant(credit.answered + window_messages, credit.answered_bytes + WINDOW_BYTES)
