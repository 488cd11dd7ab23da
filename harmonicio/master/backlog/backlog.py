"""The backlog: the ledger decides, the store keeps.

    put ──► ledger.put ──► store.put ──flush──► ledger.stored ──► answer `stored`, listeners
    reserve ──► ledger.reserve          open_payload ──► store.read
    settle ──► ledger.finish ──► store.finish ──flush──► ledger.settled ──► subscribers
           └─► ledger.fail ──► store.update (another attempt) or store.bury (dead letter) ──flush──► subscribers

Rules:

- Decided under the lock, acted on outside it. Answers, subscribers and listeners are called without the lock.
- Nothing is said before it is on stable storage: neither `stored`, nor a final outcome.
- What must be written but could not be is tried again every few seconds; until then the message is not forgotten, and
  after a restart it is simply ready again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable
from functools import partial

from harmonicio.control.messages import BacklogFigures, EngineExit, FailureView, OutcomeView
from harmonicio.core.clock import Clock, SystemClock
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import BacklogFull, LocalProtocolError, RemoteProtocolError, StorageError
from harmonicio.core.message import MEMORY_PAYLOAD_MAX_BYTES, Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.arrival import Arrival
from harmonicio.master.backlog.base import BacklogStore, PayloadLease, PendingPayload
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import Decision, Entry, PutVerdict, Reservation, RetryPolicy, State, Verdict
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.notifier import Notifier
from harmonicio.master.backlog.subscriptions import OnFinal, Subscriptions
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.outcomes import STORED

_log = logging.getLogger(__name__)

#: Payload bytes in memory that may be on their way in; what comes beyond arrives in files.
ARRIVING_MEMORY_BYTES = 256 * 1024**2
#: An engine that refused a message is not offered it again at once.
REFUSED_AGAIN_AFTER_S = 0.1
READ_AGAIN_AFTER_S = 1.0
REPEAT_INTERVAL_S = 5.0
PRUNE_INTERVAL_S = 10.0

Answer = Callable[[Outcome], None]

_STATES = {
    State.STORING: "waiting",
    State.READY: "waiting",
    State.DELAYED: "waiting",
    State.RESERVED: "reserved",
    State.SETTLING: "reserved",
    State.DEAD: "dead",
}


class Backlog:
    """Messages that wait at the master, and what became of them. Every method may be called from any thread.

    Args:
        store: Recovered here; closed by :meth:`close`.
        limits: What may wait.
        arriving_memory_bytes: Payload bytes in memory that may be on their way in.
        randomness: Spreads the delays of further attempts.

    Raises:
        StorageError: the store cannot be opened.
        Conflict: another process has it open.
    """

    def __init__(
        self,
        store: BacklogStore,
        limits: LedgerLimits | None = None,
        *,
        arriving_memory_bytes: int = ARRIVING_MEMORY_BYTES,
        clock: Clock | None = None,
        randomness: random.Random | None = None,
    ) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._random = randomness or random.Random()
        self._lock = threading.Lock()
        self._ledger = Ledger(limits)
        self._subscriptions = Subscriptions()
        self._memory_max_bytes: dict[str, int] = {}
        self._arriving_memory_bytes = arriving_memory_bytes
        self._arrivals: set[Arrival] = set()
        self._arrived_memory_bytes = 0
        #: Further answers to a message that arrived again while it was being stored, by its sequence.
        self._also_waiting: dict[int, list[Answer]] = {}
        #: Reasons of dead letters that are not on stable storage yet, by their sequence.
        self._burying: dict[int, Failure] = {}
        self._to_repeat: list[Callable[[], None]] = []
        self._repeat_at = self._prune_at = 0.0
        self._wanted_bytes: int | None = None
        self._recover()
        self._notifier = Notifier()

    def __repr__(self) -> str:
        return f"<Backlog {self._ledger!r} in {self._store!r}>"

    def _recover(self) -> None:
        recovery = self._store.recover()
        for finished in recovery.finished:
            self._ledger.restore_finished(finished)
        for entries, is_dead in ((recovery.entries, False), (recovery.dead, True)):
            for entry in entries:
                self._ledger.restore(entry, is_dead=is_dead)
        for repair in recovery.repairs:
            _log.warning("Recovery of the backlog: %s", repair)
        _log.info("The backlog has %d messages and %d dead letters", len(recovery.entries), len(recovery.dead))

    def set_listeners(
        self, *, on_change: Callable[[str], None] | None = None, on_room: Callable[[], None] | None = None
    ) -> None:
        """Say who is told of changes. Both are called from one thread of the backlog, without any lock of it.

        Args:
            on_change: More or fewer messages of this stream are ready than before: look at :meth:`depth`.
            on_room: There is room again, after :meth:`can_take` or :meth:`new_payload` said that there was none.
        """
        self._notifier.set_listeners(on_change=on_change, on_room=on_room)

    def close(self) -> None:
        """Write what waits, then end all threads and give everything back. May be repeated."""
        self._notifier.close()
        self._store.close()

    # ── taking messages in ───────────────────────────────────────────────────────────────────────────────────────────

    def can_take(self, size_bytes: int = 0) -> bool:
        """Whether a message of this size would be taken now; ``on_room`` is called when it is not and later would."""
        with self._lock:
            return self._has_room(size_bytes)

    def new_payload(self, stream: str, size_bytes: int) -> Arrival:
        """Return room for a payload, to be filled and then put or discarded.

        Raises:
            BacklogFull: the budget is used up; says when to try again.
            StorageError: there is no room on the disk.
        """
        with self._lock:
            refusal = self._ledger.admit(size_bytes)
            if refusal is not None:
                self._has_room(size_bytes)
                raise BacklogFull(refusal.text, retry_after_s=refusal.retry_after_s)
            sequence = self._ledger.draw_sequence()
            memory_max_bytes = self._memory_max_bytes.get(stream, MEMORY_PAYLOAD_MAX_BYTES)
            to_disk = size_bytes > min(memory_max_bytes, self._arriving_memory_bytes - self._arrived_memory_bytes)
            arrival = Arrival(stream, sequence, size_bytes, self._discarded)
            self._arrivals.add(arrival)
            self._arrived_memory_bytes += 0 if to_disk else size_bytes
            arrival.memory_bytes = 0 if to_disk else size_bytes
        try:
            arrival.provide(self._store.new_payload(sequence, size_bytes, to_disk=to_disk))
        except StorageError:
            arrival.discard()
            raise
        return arrival

    def _discarded(self, arrival: Arrival) -> None:
        with self._lock:
            self._end_arrival(arrival)
            self._ledger.withdraw(arrival.size_bytes)
            has_room = self._is_wanted_room_there()
        if has_room:
            self._notifier.has_room()

    def _end_arrival(self, arrival: Arrival) -> None:
        self._arrivals.discard(arrival)
        self._arrived_memory_bytes -= arrival.memory_bytes
        arrival.memory_bytes = 0

    def put(self, stream: str, message: IncomingMessage, pending: PendingPayload | None, answer: Answer) -> None:
        """Store a message.

        Args:
            pending: What :meth:`new_payload` returned, filled; None when the payload is still to be copied from
                ``message``.
            answer: Called once, from any thread, with `stored` or the reason why not.
        """
        if pending is None:
            try:
                pending = self._copy(stream, message)
            except BacklogFull as error:
                answer(_rejected(RejectReason.BACKLOG_FULL, str(error)))
                return
            except StorageError as error:
                answer(_rejected(RejectReason.STORAGE, str(error)))
                return
        if not isinstance(pending, Arrival):
            raise LocalProtocolError("A payload is put that the backlog has not made.")
        self._put(pending, _entry(pending, message, self._clock.wall()), message, answer)

    def _copy(self, stream: str, message: IncomingMessage) -> Arrival:
        arrival = self.new_payload(stream, message.size_bytes)
        if message.payload is not None:
            arrival.buffer[:] = message.payload
        return arrival

    def _put(self, arrival: Arrival, entry: Entry, message: IncomingMessage, answer: Answer) -> None:
        with self._lock:
            if arrival.is_void:
                verdict, failure = None, None
            else:
                verdict, failure = self._ledger.put(
                    entry, self._clock.monotonic(), is_given_up=message.is_dead, failure=message.failure
                )
            if verdict is PutVerdict.STORING:
                known = self._ledger.entry(entry.stream, entry.message_id)
                assert known is not None
                self._also_waiting.setdefault(known.sequence, []).append(answer)
        if verdict is PutVerdict.NEW:
            stored = partial(self._stored, arrival, entry, failure, answer)
            self._store.put(entry, arrival.take(), stored, failure)
            return
        arrival.discard()
        if verdict is None:
            answer(_rejected(RejectReason.STORAGE, f"Stream {entry.stream!r} was deleted meanwhile."))
        elif verdict is PutVerdict.KNOWN:
            answer(STORED)
        elif verdict is PutVerdict.CONFLICT:
            answer(_rejected(RejectReason.ID_CONFLICT, f"Another message has the id {entry.message_id!r}."))

    def _stored(
        self, arrival: Arrival, entry: Entry, failure: Failure | None, answer: Answer, error: StorageError | None
    ) -> None:
        with self._lock:
            self._end_arrival(arrival)
            answers = [answer, *self._also_waiting.pop(entry.sequence, ())]
            if error is not None:
                self._ledger.abandon(entry)
                outcome = _rejected(RejectReason.STORAGE, str(error))
            else:
                decision = self._ledger.stored(entry, is_dead=failure is not None)
                outcome = STORED
        if error is None and decision.verdict is Verdict.LATE:
            self._store.forget(entry)
            outcome = _rejected(RejectReason.STORAGE, f"Stream {entry.stream!r} was deleted meanwhile.")
        for each in answers:
            each(outcome)
        if error is not None:
            self._room_freed()
        elif failure is not None:
            self._tell_final(entry, Outcome(OutcomeKind.FAILED, failure=failure))
        else:
            self._carry_out([decision])

    # ── giving messages out ──────────────────────────────────────────────────────────────────────────────────────────

    def depth(self, stream: str) -> int:
        """Return how many messages could be given out at once."""
        with self._lock:
            return self._ledger.depth(stream)

    def next_size(self, stream: str) -> int | None:
        """Return the payload size of the message that would be reserved next; None when nothing is ready."""
        with self._lock:
            return self._ledger.next_size(stream)

    def reserve(self, stream: str, engine: str, now: float) -> Reservation | None:
        """Give the next message of the stream to an engine; None when nothing is ready.

        Args:
            engine: Names who holds it, for :meth:`engine_gone`.
            now: Monotonic seconds.
        """
        with self._lock:
            reservation = self._ledger.reserve(stream, engine, now)
        if reservation is not None:
            self._notifier.changed(stream)
        return reservation

    def open_payload(self, reservation: Reservation) -> PayloadLease:
        """Return the payload of a reserved message, as a context.

        Raises:
            StorageError: it cannot be read. The reservation has ended: a damaged message is a dead letter now, another
                one is ready again in a second.
        """
        try:
            return self._store.read(reservation.entry)
        except StorageError as error:
            _log.error("Message %r cannot be given out: %s", reservation.entry.message_id, error)
            with self._lock:
                if error.retryable:
                    decision = self._ledger.release(reservation, self._clock.monotonic(), delay_s=READ_AGAIN_AFTER_S)
                else:
                    failure = Failure("PayloadDamaged", error.text, retryable=False)
                    decision = self._ledger.bury(reservation, failure)
            self._carry_out([decision])
            raise

    def settle(self, reservation: Reservation, outcome: Outcome) -> None:
        """Take an engine's answer; that of a reservation which was given up before is counted and has no effect.

        Raises:
            RemoteProtocolError: an engine does not answer like that.
        """
        if outcome.kind is OutcomeKind.STORED:
            raise RemoteProtocolError("An engine answered `stored`, which only the master does.")
        now = self._clock.monotonic()
        with self._lock:
            if outcome.kind is OutcomeKind.DONE:
                decision = self._ledger.finish(reservation)
            elif outcome.kind is OutcomeKind.FAILED:
                failure = outcome.failure or Failure("Unknown", "The engine did not say why.")
                decision = self._ledger.fail(reservation, failure, now, self._random.random())
            elif outcome.reason is not None and outcome.reason.is_final:
                failure = Failure("Rejected", f"{outcome.reason}: {outcome.text}", retryable=False)
                decision = self._ledger.bury(reservation, failure)
            else:
                decision = self._ledger.release(reservation, now, delay_s=REFUSED_AGAIN_AFTER_S)
        if decision.verdict is Verdict.SETTLING:
            self._finish(decision.entry, outcome)
        else:
            self._carry_out([decision])

    def engine_gone(self, engine: str) -> None:
        """The engine's connection ended: what it held is ready again, as suspects."""
        with self._lock:
            decisions = self._ledger.release_all(engine)
        self._carry_out(decisions)

    def engine_exited(self, ended: EngineExit) -> None:
        """A controller tells how an engine ended.

        A time-out counts an attempt for what its handlers were running; a crash counts for the message that was alone.
        """
        is_timeout = ended.reason is ExitReason.TIMED_OUT
        is_crash = ended.reason is ExitReason.CRASHED and len(ended.held) == 1
        if is_timeout or is_crash:
            with self._lock:
                decisions = self._ledger.charge(
                    ended.stream, ended.held, self._clock.monotonic(), attempts=int(is_timeout), crashes=int(is_crash)
                )
            self._carry_out(decisions)

    # ── carrying out ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        """Have the store write what was decided, and tell who waits for it. Called without the lock."""
        for decision in decisions:
            if decision.verdict is Verdict.LATE:
                continue
            if decision.failure is not None:
                with self._lock:
                    self._burying[decision.entry.sequence] = decision.failure
                self._bury(decision.entry, decision.failure)
            elif decision.has_changed:
                self._store.update(decision.entry)
            self._notifier.changed(decision.entry.stream)

    def _finish(self, entry: Entry, outcome: Outcome) -> None:
        self._store.finish(entry, outcome, partial(self._finished, entry, outcome))

    def _finished(self, entry: Entry, outcome: Outcome, error: StorageError | None) -> None:
        with self._lock:
            if error is not None:
                self._to_repeat.append(partial(self._finish, entry, outcome))
                return
            self._ledger.settled(entry, self._clock.wall())
        self._tell_final(entry, outcome)
        self._room_freed()

    def _bury(self, entry: Entry, failure: Failure) -> None:
        self._store.bury(entry, failure, partial(self._buried, entry, failure))

    def _buried(self, entry: Entry, failure: Failure, error: StorageError | None) -> None:
        with self._lock:
            if error is not None:
                self._to_repeat.append(partial(self._bury, entry, failure))
                return
            self._burying.pop(entry.sequence, None)
        self._tell_final(entry, Outcome(OutcomeKind.FAILED, failure=failure))

    def _tell_final(self, entry: Entry, outcome: Outcome) -> None:
        with self._lock:
            subscribers = self._subscriptions.take(entry.stream, entry.message_id)
        for on_final in subscribers:
            on_final(entry.message_id, outcome)

    def _has_room(self, size_bytes: int) -> bool:
        if self._ledger.budget.refusal(size_bytes) is None:
            return True
        self._wanted_bytes = size_bytes if self._wanted_bytes is None else min(size_bytes, self._wanted_bytes)
        return False

    def _is_wanted_room_there(self) -> bool:
        if self._wanted_bytes is None or self._ledger.budget.refusal(self._wanted_bytes) is not None:
            return False
        self._wanted_bytes = None
        return True

    def _room_freed(self) -> None:
        with self._lock:
            has_room = self._is_wanted_room_there()
        if has_room:
            self._notifier.has_room()

    def tick(self) -> None:
        """Let time pass; called a few times a second."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        repeats: list[Callable[[], None]] = []
        with self._lock:
            decisions = self._ledger.expire(now)
            promoted = self._ledger.promote(now)
            is_prune_due = now >= self._prune_at
            if is_prune_due:
                self._prune_at = now + PRUNE_INTERVAL_S
            if self._to_repeat and now >= self._repeat_at:
                repeats, self._to_repeat = self._to_repeat, []
                self._repeat_at = now + REPEAT_INTERVAL_S
        for repeat in repeats:
            repeat()
        self._carry_out(decisions)
        for stream in promoted:
            self._notifier.changed(stream)
        if is_prune_due:
            self._store.prune(wall)

    # ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def subscribe(self, stream: str, message_id: str, on_final: OnFinal) -> None:
        """Have the final outcome of a message told, once: at once when there is one, or none is known.

        Raises:
            StorageError: a final outcome cannot be read.
        """
        with self._lock:
            entry = self._ledger.entry(stream, message_id)
            if entry is not None and (entry.state is not State.DEAD or entry.sequence in self._burying):
                self._subscriptions.add(stream, message_id, on_final)
                return
        on_final(message_id, self._final_outcome(stream, message_id, entry))

    def unsubscribe(self, stream: str, message_ids: Iterable[str], on_final: OnFinal) -> None:
        """Forget subscriptions."""
        with self._lock:
            self._subscriptions.remove(stream, tuple(message_ids), on_final)

    def _final_outcome(self, stream: str, message_id: str, dead: Entry | None) -> Outcome | None:
        if dead is not None:
            failure = self._store.failure(dead)
            return None if failure is None else Outcome(OutcomeKind.FAILED, failure=failure)
        kept = self._store.outcome(stream, message_id)
        return None if kept is None else kept.outcome

    def outcome(self, stream: str, message: str) -> OutcomeView | None:
        """Return what is known of a message; None when nothing is, or not any more.

        Raises:
            StorageError: it cannot be read.
        """
        with self._lock:
            entry = self._ledger.entry(stream, message)
            state = "" if entry is None else _STATES[entry.state]
            failure = None if entry is None else self._burying.get(entry.sequence)
            is_finished = self._ledger.is_finished(stream, message, self._clock.wall())
        if entry is not None:
            if state == "dead" and failure is None:
                failure = self._store.failure(entry)
            return OutcomeView(message, state, entry.attempts, None if failure is None else _view(failure))
        kept = self._store.outcome(stream, message)
        if kept is not None:
            return OutcomeView(message, "done", kept.attempts)
        return OutcomeView(message, "done", 0) if is_finished else None

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def declare(self, declaration: StreamDeclaration) -> None:
        """A stream is declared, or declared anew: treat its messages by this from now on."""
        with self._lock:
            self._ledger.set_policy(declaration.name, RetryPolicy.of(declaration))
            self._memory_max_bytes[declaration.name] = declaration.memory_payload_max_bytes

    def figures(self, stream: str) -> BacklogFigures:
        with self._lock:
            return self._ledger.figures(stream, self._clock.wall())

    @property
    def late_outcomes(self) -> int:
        """How many outcomes came for reservations that had been given up."""
        return self._ledger.late_outcomes

    def drop_stream(self, stream: str) -> None:
        """A stream is deleted: delete its messages, dead letters and outcomes. Who asked for outcomes gets None."""
        with self._lock:
            self._ledger.drop_stream(stream)
            before_sequence = self._ledger.draw_sequence()
            for arrival in self._arrivals:
                arrival.is_void = arrival.is_void or arrival.stream == stream
            self._memory_max_bytes.pop(stream, None)
            subscribers = self._subscriptions.take_stream(stream)
        self._store.drop_stream(stream, before_sequence)
        for message_id, on_final in subscribers:
            on_final(message_id, None)
        self._notifier.changed(stream)
        self._room_freed()


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


def _rejected(reason: RejectReason, text: str) -> Outcome:
    return Outcome(OutcomeKind.REJECTED, reason=reason, text=text)


def _view(failure: Failure) -> FailureView:
    return FailureView(failure.error_type, failure.text, failure.traceback, failure.retryable)
