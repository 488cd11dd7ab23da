"""How messages come in: room is admitted, the payload arrives, the message is stored, its sender is answered.

new_payload ──► (bytes arrive) ──► ledger.put ──► store.put ──flush──► ledger.stored ──► answer `stored`
                                     │
                                     ├─ known already: `stored`    other bytes under this id: `id_conflict`
                                     └─ just being shed: `backlog_full`
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from harmonicio.core.clock import Clock
from harmonicio.core.errors import (
    BacklogFull,
    HarmonicIOError,
    InvalidInput,
    LocalProtocolError,
    NotFound,
    StorageError,
)
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.master.backlog.arrival import Arrival
from harmonicio.master.backlog.base import BacklogStore, PendingPayload
from harmonicio.master.backlog.clerk import Clerk
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import Entry, PutVerdict, Verdict
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.outcomes import STORED

#: Called once, from any thread, with `stored` or the reason why not.
Answer = Callable[[Outcome], None]
#: Why there may be no room for a payload.
REFUSALS = (BacklogFull, InvalidInput, NotFound, StorageError)


class Reception:
    """The incoming side of the backlog.

    Args:
        lock: Guards the ledger.
        memory_max_bytes: Payload bytes in memory that may be on their way in; what comes beyond arrives in files.
    """

    def __init__(
        self,
        lock: threading.Lock,
        ledger: Ledger,
        store: BacklogStore,
        clerk: Clerk,
        clock: Clock,
        *,
        memory_max_bytes: int,
    ) -> None:
        self._lock = lock
        self._ledger = ledger
        self._store = store
        self._clerk = clerk
        self._clock = clock
        self._memory_max_bytes = memory_max_bytes
        self._memory_bytes = 0
        #: The declared streams, and beyond which size their payloads arrive in files.
        self._memory_payload_max_bytes: dict[str, int] = {}
        self._arrivals: set[Arrival] = set()
        #: Further answers to a message that arrived again while it was being stored, by its sequence.
        self._also_waiting: dict[int, list[Answer]] = {}
        #: What is done once no message of a stream is being put that arrived before a sequence.
        self._after_puts: list[tuple[str, int, Callable[[], None]]] = []

    def __repr__(self) -> str:
        return f"<Reception: {len(self._arrivals)} arriving, {self._memory_bytes} bytes of them in memory>"

    # ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def locked_declare(self, stream: str, memory_payload_max_bytes: int) -> None:
        """Take messages of this stream from now on; larger payloads arrive in files."""
        self._memory_payload_max_bytes[stream] = memory_payload_max_bytes

    def locked_takes(self, stream: str) -> bool:
        """Whether messages of this stream are taken."""
        return stream in self._memory_payload_max_bytes

    def locked_arriving(self, stream: str) -> int:
        """Return how many messages of this stream are being received or stored."""
        return sum(arrival.stream == stream for arrival in self._arrivals)

    def locked_drop_stream(self, stream: str) -> None:
        """What is arriving for this stream will not be put, and nothing more is taken."""
        self._memory_payload_max_bytes.pop(stream, None)
        for arrival in self._arrivals:
            arrival.is_void = arrival.is_void or arrival.stream == stream

    def after_puts(self, stream: str, before_sequence: int, act: Callable[[], None]) -> None:
        """Call this once the store has, or has not, put all of the stream that arrived before this sequence."""
        with self._lock:
            self._after_puts.append((stream, before_sequence, act))
        self._act_after_puts()

    def _act_after_puts(self) -> None:
        with self._lock:
            is_putting = self._ledger.books.is_storing
            over = [each for each in self._after_puts if not is_putting(each[0], each[1])]
            self._after_puts = [each for each in self._after_puts if each not in over]
        for _, _, act in over:
            act()

    def new_payload(self, stream: str, size_bytes: int, message_id: str, priority: int) -> Arrival:
        with self._lock:
            memory_payload_max_bytes = self._memory_payload_max_bytes.get(stream)
            if memory_payload_max_bytes is None:
                raise NotFound(f"There is no stream {stream!r} any more.", hint="Declare it again.")
            shed: list[Entry] = []
            refusal = self._ledger.admit(size_bytes)
            if refusal is not None and not refusal.is_final and not self._is_known(stream, message_id):
                shed = self._clerk.shedding.make_room(stream, size_bytes, priority)
                refusal = self._ledger.admit(size_bytes) if shed else refusal
            if refusal is not None and refusal.is_final:
                raise InvalidInput(refusal.text, hint="Give the backlog more room, or send smaller messages.")
            if refusal is not None:
                self._clerk.locked_has_room(size_bytes)
                raise BacklogFull(refusal.text, retry_after_s=refusal.retry_after_s)
            arrival = Arrival(stream, self._ledger.draw_sequence(), size_bytes, self._discarded)
            to_disk = size_bytes > min(memory_payload_max_bytes, self._memory_max_bytes - self._memory_bytes)
            arrival.memory_bytes = 0 if to_disk else size_bytes
            self._memory_bytes += arrival.memory_bytes
            self._arrivals.add(arrival)
        why = f"The backlog was full when a message of priority {priority} and {size_bytes} bytes came."
        self._clerk.shed(shed, why)
        try:
            arrival.provide(self._store.new_payload(arrival.sequence, size_bytes, to_disk=to_disk))
        except StorageError:
            with self._lock:
                self._clerk.locked_put_ended(is_stored=False)
            arrival.discard()
            raise
        return arrival

    def _is_known(self, stream: str, message_id: str) -> bool:
        """Whether this will be a second copy, for which nothing should be shed."""
        return self._ledger.is_known(stream, message_id, self._clock.monotonic())

    def _discarded(self, arrival: Arrival) -> None:
        with self._lock:
            self._end(arrival)
            self._ledger.withdraw(arrival.size_bytes)
        self._clerk.room_freed()

    def _end(self, arrival: Arrival) -> None:
        self._arrivals.discard(arrival)
        self._memory_bytes -= arrival.memory_bytes
        arrival.memory_bytes = 0

    # ── putting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, stream: str, message: IncomingMessage, pending: PendingPayload | None, answer: Answer) -> None:
        if pending is None:
            try:
                pending = self._copy(stream, message)
            except REFUSALS as error:
                answer(refusal_of(error))
                return
        if not isinstance(pending, Arrival):
            raise LocalProtocolError("A payload is put that the backlog has not made.")
        self._put(pending, _entry(pending, message, self._clock.wall()), message, answer)

    def _copy(self, stream: str, message: IncomingMessage) -> Arrival:
        arrival = self.new_payload(stream, message.size_bytes, message.id, message.priority)
        if message.payload is not None:
            arrival.buffer[:] = message.payload
        return arrival

    def _put(self, arrival: Arrival, entry: Entry, message: IncomingMessage, answer: Answer) -> None:
        verdict, failure = self._decide(arrival, entry, message, answer)
        if verdict is PutVerdict.NEW:
            if failure is not None and not message.is_dead and message.failure is None and self._is_recorded(entry):
                failure = None  # It goes the way of all that waits, and that ends with the record.
            stored = partial(self._stored, arrival, entry, failure, answer)
            death = None if failure is None else self._clerk.death(entry, failure)
            self._store.put(entry, arrival.take(), stored, death)
            return
        arrival.discard()
        if verdict is None:
            answer(_deleted(entry))
        elif verdict is PutVerdict.KNOWN:
            answer(STORED)
        elif verdict is PutVerdict.LEAVING:
            text = "The backlog is full, and is just giving up the copy that it had: send it again."
            answer(Outcome.rejected(RejectReason.BACKLOG_FULL, text))
        elif verdict is PutVerdict.CONFLICT:
            answer(Outcome.rejected(RejectReason.ID_CONFLICT, f"Another message has the id {entry.message_id!r}."))

    def _decide(
        self, arrival: Arrival, entry: Entry, message: IncomingMessage, answer: Answer
    ) -> tuple[PutVerdict | None, Failure | None]:
        """Ask the ledger; no verdict means that the stream is gone."""
        with self._lock:
            if arrival.is_void:
                return None, None
            verdict, failure = self._ledger.put(
                entry, self._clock.monotonic(), is_given_up=message.is_dead, failure=message.failure
            )
            if verdict is PutVerdict.STORING:
                known = self._ledger.books.entry(entry.stream, entry.message_id)
                assert known is not None
                self._also_waiting.setdefault(known.sequence, []).append(answer)
            return verdict, failure

    def _is_recorded(self, entry: Entry) -> bool:
        """Whether a message whose engines died is known to be processed, or that cannot be said now."""
        try:
            return self._clerk.recorded(entry) is not None
        except StorageError:
            return True

    def _stored(
        self, arrival: Arrival, entry: Entry, failure: Failure | None, answer: Answer, error: StorageError | None
    ) -> None:
        """The store has, or has not, put an entry."""
        decision = None
        with self._lock:
            self._end(arrival)
            self._clerk.locked_put_ended(is_stored=error is None)
            answers = [answer, *self._also_waiting.pop(entry.sequence, ())]
            if error is None:
                decision = self._ledger.stored(entry, failure, is_void=arrival.is_void)
            else:
                self._ledger.abandon(entry)
        if decision is not None and decision.verdict is Verdict.LATE:
            self._clerk.forget(entry, partial(_answer, answers, _deleted(entry)))
            self._act_after_puts()
            self._clerk.room_freed()
            return
        outcome = STORED if decision is not None else Outcome.rejected(RejectReason.STORAGE, str(error))
        _answer(answers, outcome)
        if decision is not None and failure is None:
            # What its engine's exit was charged meanwhile may make it a dead letter.
            self._clerk.carry_out_soon(decision)
            return
        if decision is None:
            self._act_after_puts()
            self._clerk.room_freed()
        elif decision.verdict is Verdict.DEAD:
            self._clerk.tell_final([entry], Outcome(OutcomeKind.FAILED, failure=failure))
        self._clerk.stream_changed(entry.stream)


def _entry(arrival: Arrival, message: IncomingMessage, wall: float) -> Entry:
    return Entry(
        arrival.stream,
        message.id,
        arrival.sequence,
        arrival.size_bytes,
        priority=message.priority,
        digest=digest_of(arrival.buffer),
        section=message.section,
        attempts=message.attempts,
        crashes=message.crashes,
        is_suspect=message.is_suspect,
        put_at=wall,
    )


def _answer(answers: list[Answer], outcome: Outcome) -> None:
    for each in answers:
        each(outcome)


def refusal_of(error: HarmonicIOError) -> Outcome:
    """Return how a sender hears of one of the ``REFUSALS``."""
    if isinstance(error, InvalidInput):
        reason = RejectReason.TOO_LARGE
    else:
        reason = RejectReason.BACKLOG_FULL if isinstance(error, BacklogFull) else RejectReason.STORAGE
    return Outcome.rejected(reason, str(error))


def _deleted(entry: Entry) -> Outcome:
    return Outcome.rejected(RejectReason.STORAGE, f"Stream {entry.stream!r} was deleted meanwhile.")
