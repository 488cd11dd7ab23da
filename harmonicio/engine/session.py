"""One connection that brings messages, from a connector or from the master's backlog.

Small messages are run on the thread that received them, many under one slot; large ones, and those of slow handlers
where another slot may be free, are handed over when their handlers are slow enough to be worth it:

    MESSAGE, inline ──► run here ──────────────────┐
                   └──► copy ──► task ─────────────┤
    MESSAGE, large  ──► memory ──► payload ──► run here, or task
    MESSAGE, placed ──► a view of shared memory ──► run here, or task
                   └──► memory ──► task, streaming ┤
    not taken       ──► discard ──► rejected ──────┴──► OUTCOMES, in ranges

While this thread holds a slot it does nothing that can wait for the peer: the slot is given back before anything is
sent or a large payload is received.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, RemoteProtocolError, StorageError
from harmonicio.core.message import Outcome, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine.answers import Answers
from harmonicio.engine.arena_payloads import ArenaPayload, ArenaPayloads
from harmonicio.engine.flusher import OLDEST_UNSENT_S
from harmonicio.engine.loop import OVERTAKEN_FOR_S
from harmonicio.engine.message import Message
from harmonicio.engine.payloads import Payload, PayloadStore
from harmonicio.engine.peer import Peer
from harmonicio.engine.slots import Slot, Slots
from harmonicio.engine.streaming import Arrival, PayloadReader, StreamingMessage
from harmonicio.engine.task import DAMAGED, DRAINING, Task, refusal_of
from harmonicio.engine.work import Work
from harmonicio.transport.link import Link
from harmonicio.wire.events import Depth, Drain, Event, IncomingMessage, MessageBegun, MessagesReceived
from harmonicio.wire.frames import MAX_INLINE_BYTES
from harmonicio.wire.sections import drain_frame

#: A slot is given up after this long, so that others have their turn and outcomes are sent.
HOLD_AT_MOST_S = OLDEST_UNSENT_S

_NOTHING = memoryview(b"")
_NO_CREDIT = Outcome.rejected(RejectReason.NO_CREDIT, "The message is beyond the credit that this engine gave.")


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all sessions of one engine share."""

    declaration: StreamDeclaration
    work: Work
    slots: Slots
    payloads: PayloadStore


class Session:
    """Runs the messages of one connection and answers them.

    One thread at a time calls :meth:`opened`, :meth:`handle`, :meth:`pause` and :meth:`closed`, as
    :class:`harmonicio.transport.data_port.Session` says; the rest may be called by any thread.
    """

    def __init__(
        self,
        workshop: Workshop,
        link: Link,
        name: str,
        *,
        is_backlog: bool,
        on_closed: Callable[[Session], None],
        arena: ArenaPayloads | None = None,
    ) -> None:
        self.peer = Peer(name, is_backlog=is_backlog)
        self.answers = Answers(link, self.peer, arena)
        self.arena = arena
        self.is_closed = False
        self._work = workshop.work
        self._slots = workshop.slots
        self._payloads = workshop.payloads
        self._stream = workshop.declaration.name
        self._max_message_bytes = workshop.declaration.max_message_bytes
        self._link = link
        self._credit = self.peer.credit
        self._is_backlog = is_backlog
        self._route = "backlog" if is_backlog else "engine"
        self._slot: Slot | None = None
        self._held_since = 0.0
        self._held_messages = 0
        self._overdue_since: float | None = None
        self._payload: Payload | None = None
        self._arrival: Arrival | None = None
        self._on_closed = on_closed
        self._has_said_goodbye = False

    def __repr__(self) -> str:
        return f"<Session {self.peer!r}, {self.answers!r}{', closed' if self.is_closed else ''}>"

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def opened(self) -> None:
        """Give the first credit."""
        self._slots.join(self)
        self.answers.flush()

    def handle(self, event: Event) -> None:
        """Act on one event of the peer."""
        if isinstance(event, MessagesReceived):
            first = event.messages[0]
            if first.size_bytes <= MAX_INLINE_BYTES or first.place >= 0:
                self._small_received(event.messages)
            else:
                self._large_received(event.messages[0])
        elif isinstance(event, MessageBegun):
            self._large_begun(event.message)
        elif isinstance(event, Depth) and self._is_backlog:
            self._slots.depth_changed(event.messages)
        elif not isinstance(event, Drain):  # A peer that sends no more will close; there is nothing to do about it.
            raise RemoteProtocolError(f"An engine is not sent {type(event).__name__}.")

    def pause(self) -> None:
        """No complete message is here: send what waits."""
        self._end_hold()
        if self._overdue_since is not None and not self._link.channel.has_bytes_waiting:
            self._overdue_since = None
        if self._is_backlog and self._may_gather():
            self._slots.flusher.watch(self)
        else:
            self.checkpoint()

    def _may_gather(self) -> bool:
        """Whether answers may wait for more: so the master records many at once, and nobody waits for one."""
        return self.answers.may_wait and not (self.peer.is_credit_low or self._slots.has_hungry_peers)

    def closed(self, error: HarmonicIOError | None) -> None:
        """The connection has ended; outcomes that were not sent are lost, and the sender will send again."""
        self.is_closed = True
        self.answers.end()
        self._end_hold()
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.fail(error or ConnectionEnded("The connection ended before the payload was here."))
        payload, self._payload = self._payload, None
        if payload is not None:
            payload.release()
        self._slots.leave(self)
        if self.arena is not None:
            self.arena.close()
        self._on_closed(self)

    # ── sending: any thread ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def flush_due_at(self) -> float | None:
        """When the oldest news of this session will have waited for 5 ms; None when there is none.

        That a message was started is news, too: its sender may have credit for the next one.
        """
        oldest_at = self.answers.oldest_at
        if self._slot is not None:
            oldest_at = self._held_since if oldest_at is None else min(oldest_at, self._held_since)
        return None if oldest_at is None else oldest_at + OLDEST_UNSENT_S

    def checkpoint(self) -> None:
        """See that the peer has its credit and its outcomes.

        Raises:
            ConnectionEnded: nobody is there any more.
        """
        if self.peer.is_credit_low or self._slots.has_hungry_peers:
            self._slots.review(self)
        self.answers.flush()

    def cut(self) -> None:
        """End the connection at once: the sender sends what was not answered again, elsewhere."""
        self._link.channel.shutdown()

    def say_drain(self, within_s: float) -> None:
        """Tell the peer that nothing new is taken.

        Raises:
            ConnectionEnded: nobody is there any more.
        """
        self._link.send(drain_frame(within_s))

    def say_goodbye(self, code: str = "", text: str = "", hint: str = "") -> None:
        """End the connection with a reason; its thread will see the end. Said again, it does not wait for the peer."""
        if self._has_said_goodbye:
            self.cut()
            return
        self._has_said_goodbye = True
        self.answers.end()
        self._link.say_goodbye(code, text, hint)

    # ── handlers that run here ───────────────────────────────────────────────────────────────────────────────────────

    def _small_received(self, messages: list[IncomingMessage]) -> None:
        for message in messages:
            refusal = self._refusal(message)
            if refusal is None and not message.is_intact:
                refusal = DAMAGED
            if refusal is not None:
                self._end_hold()
                self._refuse(message, refusal)
                continue
            placed = self.arena.take(message) if self.arena is not None and message.place >= 0 else None
            slot, now = self._slot, time.monotonic()
            if slot is not None and self._may_hold_on(now) and not message.is_suspect:
                self._run_in(slot, message, message.payload or _NOTHING, now, placed)
                continue
            self._give_slot_back()
            size_bytes = message.size_bytes if placed is None else 0  # There is nothing to be received meanwhile.
            if not self._slots.should_hand_over(size_bytes, is_backlog=self._is_backlog):
                self._run_here(message, message.payload or _NOTHING, placed)
            elif placed is not None:
                self._hand_over(message, placed)
            else:
                self._copy_and_hand_over(message)

    def _copy_and_hand_over(self, message: IncomingMessage) -> None:
        try:
            payload = self._payloads.copy(message.payload or _NOTHING)
        except StorageError as error:
            self._refuse(message, Outcome.rejected(RejectReason.STORAGE, str(error)))
            return
        message.payload = None
        self._hand_over(message, payload)

    def _refusal(self, message: IncomingMessage) -> Outcome | None:
        """Count a message that arrives; return why it is not taken, if so."""
        is_within_credit = self._credit.message_received(message.size_bytes)
        if message.is_dead:
            raise RemoteProtocolError("A message that was given up is for the master, not for an engine.")
        if self._slots.is_draining:
            return DRAINING
        if message.size_bytes > self._max_message_bytes:
            text = f"The payload has {message.size_bytes} bytes; this stream takes at most {self._max_message_bytes}."
            return Outcome.rejected(RejectReason.TOO_LARGE, text)
        return None if is_within_credit else _NO_CREDIT

    def _refuse(self, message: IncomingMessage, refusal: Outcome) -> None:
        self.answers.message_refused(message, refusal)
        self._slots.flusher.watch(self)

    def _run_here(self, message: IncomingMessage, payload: memoryview, placed: ArenaPayload | None = None) -> None:
        """Wait for a slot and run the handler."""
        slot = self._slot_for_next(is_suspect=message.is_suspect)
        if slot is None:
            self._refuse(message, refusal_of(self._slots))
        else:
            self._run_in(slot, message, payload, self._held_since, placed)

    def _run_in(
        self, slot: Slot, message: IncomingMessage, payload: memoryview, now: float, placed: ArenaPayload | None
    ) -> None:
        """Run the handler with this payload, or with one in shared memory, which is released then."""
        content = self._content_of(message, payload if placed is None else placed.view)
        self.peer.started_here += 1
        slot.begin(message.id, now)
        outcome, detail = self._work.run(content, slot)
        if placed is not None:
            del content
            placed.release()
        slot.message_id = ""  # The board says so when the slot is given back: a moment later, in one write for many.
        self._held_messages += 1
        if message.is_suspect:
            self._end_hold()  # The others may go on.
        self.answers.message_handled(message, outcome, detail)

    def _may_hold_on(self, now: float) -> bool:
        """Whether the slot that this thread holds may have one more message, as far as others go."""
        return (
            now - self._held_since < HOLD_AT_MOST_S
            and not self.answers.is_full
            and not self._slots.is_wanted(is_owed=self._is_backlog or self._overdue_since is not None)
        )

    def _give_slot_back(self) -> None:
        """Let others have the slot that this thread holds, and send what its messages have come to."""
        if self._slot is not None:
            self._end_hold()
            self.checkpoint()

    def _slot_for_next(self, *, is_suspect: bool) -> Slot | None:
        """Wait for a slot, and hold it; None when there will be none. One that is held is given back first."""
        self._give_slot_back()
        if self.answers.oldest_at is not None:
            self._slots.flusher.watch(self)
        since = self._waits_since()
        slot = self._slots.acquire(since, is_backlog=self._is_backlog, is_suspect=is_suspect)
        self._held_since = time.monotonic()
        self._overdue_since = since if self._held_since - since >= OVERTAKEN_FOR_S else None
        self._slot = slot
        self._slots.flusher.watch(self)
        return slot

    def _waits_since(self) -> float:
        """Return since when the next message waits: what lies behind one that was overdue came with it.

        Only while there is a backlog: else new credit would keep this connection ahead of the others for ever.
        """
        if self._overdue_since is not None and self._slots.has_backlog:
            return self._overdue_since
        self._overdue_since = None
        return time.monotonic()

    def _end_hold(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            messages, self._held_messages = self._held_messages, 0
            self._slots.release(slot, messages, time.monotonic() - self._held_since)

    def _content_of(self, message: IncomingMessage, payload: memoryview) -> Any:
        """Return what the handler gets of a payload that is here."""
        if self._work.is_streaming:
            arrival = Arrival(payload)
            arrival.complete(is_intact=True)
            return self._streaming_message(message, arrival)
        attempt = message.attempts + 1
        return Message(message.id, self._stream, payload, None, message.priority, attempt, self._route, message.section)

    def _streaming_message(self, message: IncomingMessage, arrival: Arrival) -> StreamingMessage:
        reader = PayloadReader(arrival)
        attempt = message.attempts + 1
        return StreamingMessage(
            message.id, self._stream, message.size_bytes, reader, None, message.priority, attempt, message.section
        )

    def _hand_over(self, message: IncomingMessage, payload: Payload) -> None:
        # Only the task has the content: its handler may be done while this thread is still in here, and what this one
        # kept would keep the payload's memory from being used again.
        task = Task(
            self, self._slots, self._work, message, self._content_of(message, payload.view.toreadonly()), payload
        )
        self._slots.submit(task, self._waits_since(), is_backlog=self._is_backlog, is_suspect=message.is_suspect)

    # ── large messages ───────────────────────────────────────────────────────────────────────────────────────────────

    def _large_begun(self, message: IncomingMessage) -> None:
        self._end_hold()
        if self.answers.is_full:
            self.checkpoint()
        refusal = self._refusal(message)
        if refusal is None:
            try:
                self._payload = self._payloads.take(message.size_bytes)
            except StorageError as error:
                refusal = Outcome.rejected(RejectReason.STORAGE, str(error))
        if refusal is not None:
            self._discard(message, refusal)
        elif self._work.is_streaming:
            self._receive_streaming(message)
        elif self._payload is not None:
            self._link.receive_payload(self._payload.view)

    def _receive_streaming(self, message: IncomingMessage) -> None:
        payload, self._payload = self._payload, None
        assert payload is not None
        arrival = self._arrival = Arrival(payload.view)
        task = Task(self, self._slots, self._work, message, self._streaming_message(message, arrival), payload, arrival)
        self._slots.submit(task, self._waits_since(), is_backlog=self._is_backlog, is_suspect=message.is_suspect)
        self.checkpoint()
        self._link.receive_payload(payload.view, on_progress=arrival.advance)

    def _discard(self, message: IncomingMessage, refusal: Outcome) -> None:
        """Refuse a payload before it is read; then read and forget it, however large it is.

        To end the connection instead would lose the outcome on its way, so that the same message came again at once,
        and with it whatever else the connection carries.
        """
        self.answers.message_refused(message, refusal)
        self.answers.flush()
        self._link.connection.discard_payload()

    def _large_received(self, message: IncomingMessage) -> None:
        """Act on a large message whose payload is over; if it was refused before, nothing is left to do."""
        payload, self._payload = self._payload, None
        arrival, self._arrival = self._arrival, None
        view, message.payload = message.payload or _NOTHING, None
        if arrival is not None:
            del view
            arrival.complete(is_intact=message.is_intact)
        elif payload is None:
            return
        elif not message.is_intact:
            del view
            payload.release()
            self._refuse(message, DAMAGED)
        elif self._slots.should_hand_over(message.size_bytes, is_backlog=self._is_backlog):
            del view
            self._hand_over(message, payload)
        else:
            try:
                self._run_here(message, view)
            finally:  # An error of ours ends the connection, not the engine, whose room this is.
                del view
                payload.release()
