"""An engine's connection to the master: the backlog is pushed over it.

The engine gives credit and hears by DEPTH whether more waits. Which message goes to which engine is decided by the
intake, under one lock; this session sends what it was assigned and passes on the outcomes.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from harmonicio.core.errors import HarmonicIOError, RemoteProtocolError, StorageError
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.master.backlog.backlog import RESERVED_AT_ONCE, Backlog
from harmonicio.master.backlog.entry import Reservation
from harmonicio.master.session_task import SessionTask
from harmonicio.transport.link import Link
from harmonicio.wire.checksum import FLAG_OF, trailer
from harmonicio.wire.connection import raw_prefix
from harmonicio.wire.credit import SenderCredit
from harmonicio.wire.events import Credit, Drain, Event, OutcomesReceived
from harmonicio.wire.frames import Flag
from harmonicio.wire.sections import depth_frame, raw_message_id

#: Messages are gathered up to this size for one call.
BATCH_BYTES = 4 * 1024**2
#: What is sent next is fetched from the disk meanwhile, so much and so many of it.
READ_AHEAD_BYTES, READ_AHEAD_MESSAGES = 32 * 1024**2, 32


class EngineSession:
    """Pushes the backlog of one stream to one engine.

    Args:
        engine, stream: Which engine it is, and the stream that it serves.
        holder: Names this connection of it in reservations.
        checksum: The kind that both ends agreed on, or an empty text.
        on_room: Called when the engine may take more, so that waiting messages are assigned.
        on_closed: Called once when the connection has ended.

    Attributes:
        refusals: Messages that the engine's host had no room for, since it took one of the size of the smallest.
    """

    def __init__(
        self,
        link: Link,
        engine: str,
        holder: str,
        stream: str,
        backlog: Backlog,
        executor: Executor,
        *,
        checksum: str,
        on_room: Callable[[str], None],
        on_closed: Callable[[EngineSession], None],
    ) -> None:
        self.engine = engine
        self.holder = holder
        self.stream = stream
        self._link = link
        self._backlog = backlog
        self._checksum_flags = int(FLAG_OF[checksum])
        self._on_room = on_room
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._credit = SenderCredit()
        self._assigned: deque[Reservation] = deque()
        #: Assigned and not yet counted in the credit: what a batch reads from the disk is among them.
        self._unsent = 0
        self._unsent_bytes = 0
        #: So many of the next ones are fetched from the disk already, or are on their way.
        self._fetched = self._fetched_bytes = 0
        self._sent: dict[int, Reservation] = {}
        #: So many have been answered since the engine was last given more.
        self._settled = 0
        self.refusals = 0
        self._refused_bytes = 0
        self._is_draining = False
        self._is_depth_told = False
        self._task = SessionTask(executor, self._send_what_waits, link.channel.shutdown)

    def __repr__(self) -> str:
        return f"<EngineSession {self.holder}: {self._unsent} assigned, {len(self._sent)} at the engine>"

    # ── what the intake decides by ───────────────────────────────────────────────────────────────────────────────────

    @property
    def load(self) -> int:
        """Messages that this engine has, or is about to have, from the backlog."""
        return self._unsent + len(self._sent)

    def can_take(self, size_bytes: int) -> bool:
        """Whether the engine's credit admits one more message of this size."""
        with self._lock:
            if self._is_draining:
                return False
            if not self._unsent:
                return self._credit.can_send(size_bytes)
            is_within_count = self._credit.sent + self._unsent < self._credit.messages_total
            to_come = self._credit.sent_bytes + self._unsent_bytes + size_bytes
            return is_within_count and to_come <= self._credit.bytes_total

    def expect(self, size_bytes: int) -> None:
        """A message of this size is about to be assigned: it takes credit from now on."""
        with self._lock:
            self._unsent += 1
            self._unsent_bytes += size_bytes

    def assign(self, reservations: Iterable[Reservation]) -> None:
        """Send these messages, which were expected, next."""
        with self._lock:
            self._assigned.extend(reservations)
        self._task.kick()

    def depth_changed(self) -> None:
        """See that the engine hears whether messages wait."""
        self._task.kick()

    @property
    def has_unanswered(self) -> bool:
        return self.load > 0

    def drain(self, within_s: float) -> None:
        """Give out nothing more; the engine hears of no depth, so that connectors have its credit meanwhile."""
        with self._lock:
            self._is_draining = True
        self._task.kick()

    # ── from the engine ──────────────────────────────────────────────────────────────────────────────────────────────

    def opened(self) -> None:
        self._on_room(self.stream)
        self._task.begin()

    def handle(self, event: Event) -> None:
        """Act on credit and outcomes."""
        if isinstance(event, Credit):
            with self._lock:
                self._credit.granted(event.messages, event.bytes)
            self._on_room(self.stream)
        elif isinstance(event, OutcomesReceived):
            for answered in event.ranges:
                self._settle(answered.first, answered.last, answered.outcome)
                self._settled += answered.last + 1 - answered.first
            if self._settled >= RESERVED_AT_ONCE:
                self._say_room()
        elif isinstance(event, Drain):
            with self._lock:
                self._is_draining = True
        else:
            raise RemoteProtocolError(f"An engine does not send {type(event).__name__}.")

    def _settle(self, first: int, last: int, outcome: Outcome) -> None:
        numbers = range(first, last + 1)
        with self._lock:
            self._credit.outcomes_received(first, last)
            answered = [self._sent.get(number) for number in numbers]
        if None in answered:
            raise RemoteProtocolError(f"Messages {first} to {last} are answered twice.")
        reservations = [reservation for reservation in answered if reservation is not None]
        for reservation in reservations:
            self._note_room(reservation.entry.size_bytes, outcome)  # First: it decides who is offered them next.
        self._backlog.settle(reservations, outcome)
        with self._lock:
            for number in numbers:
                del self._sent[number]  # Not before it is decided: who drains the master looks here, and then there.

    def _note_room(self, size_bytes: int, outcome: Outcome) -> None:
        """Learn from an answer whether the engine's host has room."""
        if outcome.reason is RejectReason.STORAGE:
            self._refused_bytes = min(size_bytes, self._refused_bytes) if self.refusals else size_bytes
            self.refusals += 1
        elif outcome.kind is not OutcomeKind.REJECTED and size_bytes >= self._refused_bytes:
            self.refusals = 0

    def pause(self) -> None:
        """No more answers are here: the engine may take others. They are sent by the session's task."""
        if self._settled:
            self._say_room()

    def _say_room(self) -> None:
        self._settled = 0
        self._on_room(self.stream)

    def end(self) -> None:
        """Break the connection, from another thread: what the engine has is given back."""
        self._link.channel.shutdown()

    def closed(self, error: HarmonicIOError | None) -> None:
        """Give back what the engine still had."""
        self._task.end()
        self._on_closed(self)
        self._backlog.engine_gone(self.holder)

    # ── to the engine: the session's task ────────────────────────────────────────────────────────────────────────────

    def _send_what_waits(self) -> None:
        while batch := self._next_batch():
            self._read_ahead()
            self._send(batch)
        # Read once: what is told is what was decided by.
        depth = 0 if self._is_draining else self._backlog.depth(self.stream)
        if (depth > 0) != self._is_depth_told:
            self._is_depth_told = depth > 0
            self._link.send(depth_frame(depth))

    def _next_batch(self) -> list[Reservation]:
        batch: list[Reservation] = []
        size_bytes = 0
        with self._lock:
            while self._assigned and (not batch or size_bytes + self._assigned[0].entry.size_bytes <= BATCH_BYTES):
                reservation = self._assigned.popleft()
                size_bytes += reservation.entry.size_bytes
                batch.append(reservation)
            if self._fetched > len(batch):
                self._fetched -= len(batch)
                self._fetched_bytes -= size_bytes
            else:
                self._fetched = self._fetched_bytes = 0
        return batch

    def _read_ahead(self) -> None:
        """Have fetched what is sent behind the batch that was just taken: each message once."""
        ahead: list[Reservation] = []
        with self._lock:
            for reservation in itertools.islice(self._assigned, self._fetched, READ_AHEAD_MESSAGES):
                if self._fetched and self._fetched_bytes + reservation.entry.size_bytes > READ_AHEAD_BYTES:
                    break
                self._fetched += 1
                self._fetched_bytes += reservation.entry.size_bytes
                ahead.append(reservation)
        for reservation in ahead:
            self._backlog.read_ahead(reservation)

    def _send(self, batch: list[Reservation]) -> None:
        opened = []
        try:
            for reservation in batch:
                try:
                    opened.append((reservation, self._backlog.open_payload(reservation)))
                except StorageError:
                    continue  # The backlog has put it aside and recorded why.
            # What was given up meanwhile, somebody else has. Not before now: what is being sent does not expire, and a
            # payload that takes long to be read holds up no others.
            going = {each.token for each in self._backlog.sending(reservation for reservation, _ in opened)}
            readable = [each for each in opened if each[0].token in going]
            buffers: list[bytes | memoryview] = []
            for reservation, payload in readable:
                buffers += (self._prefix(reservation), payload.view)
                if self._checksum_flags:
                    buffers.append(trailer(self._checksum_flags, payload.view))
            with self._lock:
                self._unsent -= len(batch)
                self._unsent_bytes -= sum(reservation.entry.size_bytes for reservation in batch)
                for reservation, _ in readable:
                    self._sent[self._credit.message_sent(reservation.entry.size_bytes)] = reservation
            self._link.send(*buffers)
            self._backlog.sent(reservation for reservation, _ in readable)
            if len(readable) < len(batch):
                # What is not sent after all has used credit until now: others were not assigned because of it.
                self._on_room(self.stream)
        finally:
            for _, payload in opened:
                payload.close()

    def _prefix(self, reservation: Reservation) -> bytes:
        entry = reservation.entry
        return raw_prefix(
            raw_message_id(entry.message_id),
            entry.size_bytes,
            entry.section,
            priority=entry.priority,
            flags=self._checksum_flags | (int(Flag.SUSPECT) if entry.is_suspect else 0),
            attempts=entry.attempts,
            crashes=entry.crashes,
        )
