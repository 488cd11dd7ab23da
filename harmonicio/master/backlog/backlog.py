"""The backlog: the ledger decides, the store keeps.

    put ──────► reception ──► ledger, store
    reserve ──► ledger        open_payload ──► store
    settle ───► ledger ─────► clerk ──► store ──flush──► subscribers

Rules:

- Decided under the lock, acted on outside it. Answers, subscribers and listeners are called without any lock.
- Nothing is said before it is on stable storage: neither `stored`, nor a final outcome.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from harmonicio.control.messages import BacklogFigures, EngineExit
from harmonicio.core.clock import Clock, SystemClock
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import StorageError
from harmonicio.core.message import Failure, Outcome
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.answer import PUT_OFF, decide
from harmonicio.master.backlog.answer_log import AnswerLog
from harmonicio.master.backlog.arrival import Arrival
from harmonicio.master.backlog.base import BacklogStore, PayloadLease, PendingPayload
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.clerk import Clerk, FindOutcome
from harmonicio.master.backlog.entry import Charge, Decision, Entry, Reservation, RetryPolicy, Verdict
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.notifier import Notifier
from harmonicio.master.backlog.outcome_codec import check_answer
from harmonicio.master.backlog.past import Past
from harmonicio.master.backlog.reception import Answer, Reception
from harmonicio.master.backlog.reservations import engine_of
from harmonicio.master.backlog.stream_removal import StreamRemoval
from harmonicio.master.backlog.subscriptions import OnFinal
from harmonicio.master.backlog.upkeep import Upkeep
from harmonicio.wire.events import IncomingMessage

_log = logging.getLogger(__name__)

ARRIVING_MEMORY_BYTES = 256 * 1024**2
#: So many messages are given out at once: whoever else wants something of the backlog has a turn after them.
RESERVED_AT_ONCE = 256


class Backlog:
    """Messages that wait at the master, and what became of them. Every method may be called from any thread.

    Args:
        store: Recovered here; closed by :meth:`close`.
        limits: What may wait.
        arriving_memory_bytes: Payload bytes in memory that may be on their way in; what comes beyond arrives in files.
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
        self._past = Past(store, self._clock)
        self._answer_log = AnswerLog()
        self._recover()
        self._notifier = Notifier()
        self._clerk = Clerk(self._lock, self._ledger, store, self._notifier, self._clock)
        #: For people: dead letters, and what waits.
        self.upkeep = Upkeep(self._lock, self._ledger, store, self._clerk, self._notifier, self._clock)
        self._reception = Reception(
            self._lock, self._ledger, store, self._clerk, self._clock, memory_max_bytes=arriving_memory_bytes
        )
        self._removal = StreamRemoval(self._lock, self._ledger, store, self._reception, self._clerk, self._notifier)

    def __repr__(self) -> str:
        return f"<Backlog {self._ledger!r} in {self._store!r}>"

    @property
    def is_intact(self) -> bool:
        """Whether its threads run, those of the store included."""
        return self._notifier.is_intact and self._store.is_intact

    @property
    def has_unwritten(self) -> bool:
        """Whether what became of some message is decided, and not on stable storage yet."""
        with self._lock:
            return self._ledger.has_unwritten

    def tell_undeclared(self) -> None:
        """All streams that are known have been declared: see that people hear of messages of others."""
        with self._lock:
            streams = [each for each in self._ledger.books.streams() if not self._reception.locked_takes(each)]
        for stream in streams:
            told = f"Messages of stream {stream!r} are kept, which is not declared: declare it, or then delete it."
            _log.warning("%s", told)
            self.recovered += (told,)

    def _recover(self) -> None:
        recovery = self._store.recover()
        recovery = replace(recovery, repairs=recovery.repairs + self._past.restore(self._ledger, recovery))
        for repair in recovery.repairs:
            _log.warning("Recovery of the backlog: %s", repair)
        #: What the start has found and done, in sentences.
        self.recovered = (recovery.summary(), *recovery.repairs)
        _log.info("%s", recovery.summary())

    def set_listeners(
        self, *, on_change: Callable[[str], None] | None = None, on_room: Callable[[], None] | None = None
    ) -> None:
        """Say who is told of changes. Both are called from one thread of the backlog.

        Args:
            on_change: More or fewer messages of this stream are ready than before: look at :meth:`depth`.
            on_room: There is room again, after :meth:`can_take` or :meth:`new_payload` said that there was none.
        """
        self._notifier.set_listeners(on_change=on_change, on_room=on_room)

    def set_outcome_finder(self, find_outcome: FindOutcome) -> None:
        """Say who knows outcomes of messages whose engine could not tell them; it may raise StorageError."""
        self._clerk.find_outcome = find_outcome

    def set_image_finder(self, find_image: Callable[[str], str]) -> None:
        """Say who knows the digest of the image that an engine runs, for the records of dead letters."""
        self._clerk.find_image = find_image

    def tick(self) -> None:
        """Let time pass; called a few times a second."""
        now = self._clock.monotonic()
        with self._lock:
            decisions = self._ledger.expire(now)
            promoted = self._ledger.promote(now)
        self._clerk.carry_out(decisions)
        for stream in promoted:
            self._notifier.changed(stream)
        self._clerk.repeat(now)
        self._past.tick(now)

    def close(self) -> None:
        """Write what waits, then end all threads and give everything back. May be repeated."""
        self._notifier.close()
        self._store.close()

    # ── taking messages in ───────────────────────────────────────────────────────────────────────────────────────────

    def can_take(self, size_bytes: int = 0, stream: str = "") -> bool:
        """Whether a message of this size would be taken now; ``on_room`` is called once it would, if it is not.

        Args:
            stream: Whose messages may be shed for it, if it says so.
        """
        with self._lock:
            return self._clerk.locked_has_room(size_bytes, stream)

    def new_payload(self, stream: str, size_bytes: int, message_id: str = "", priority: int = 0) -> Arrival:
        """Return room for a payload, to be filled and then put or discarded.

        Args:
            message_id, priority: Of its message, for which others may be shed where the stream says so.

        Raises:
            BacklogFull: the budget is used up; says when to try again.
            InvalidInput: the payload is larger than the whole backlog.
            NotFound: the stream is not declared.
            StorageError: there is no room on the disk.
        """
        return self._reception.new_payload(stream, size_bytes, message_id, priority)

    def put(self, stream: str, message: IncomingMessage, pending: PendingPayload | None, answer: Answer) -> None:
        """Store a message. Blocks while too much waits to be written.

        Args:
            pending: What :meth:`new_payload` returned, filled; None when the payload is still to be copied from
                ``message``.
            answer: Called once, from any thread, with `stored` or the reason why not.
        """
        self._reception.put(stream, message, pending, answer)

    # ── giving messages out ──────────────────────────────────────────────────────────────────────────────────────────

    def depth(self, stream: str) -> int:
        """Return how many messages could be given out at once."""
        with self._lock:
            return self._ledger.books.depth(stream)

    def next_size(self, stream: str) -> int | None:
        """Return the payload size of the message that would be reserved next; None when nothing is ready."""
        with self._lock:
            return self._ledger.books.next_size(stream)

    def put_off_size(self, stream: str) -> int | None:
        """Return the payload size of what :meth:`recall` makes ready; None when there is nothing to recall."""
        with self._lock:
            return self._ledger.books.put_off_size(stream)

    def recall(self, stream: str) -> None:
        """An engine is there that may have room: make the next message ready that others had no room for."""
        with self._lock:
            self._ledger.recall(stream)

    def reserve(
        self, stream: str, choose: Callable[[int], str | None], now: float, *, most: int = RESERVED_AT_ONCE
    ) -> list[Reservation]:
        """Give messages of the stream to engines, in order; fewer than ``most`` when no more are ready, or wanted.

        Args:
            choose: Told the size of the next payload, names the engine and its connection that holds the message, for
                :meth:`engine_gone`; None: nobody can have it. Called under a lock, so it must not ask the backlog.
            now: Monotonic seconds.
        """
        reservations: list[Reservation] = []
        with self._lock:
            books = self._ledger.books
            while len(reservations) < most and (size_bytes := books.next_size(stream)) is not None:
                holder = choose(size_bytes)
                reservation = None if holder is None else self._ledger.reserve(stream, holder, now)
                if reservation is None:
                    break
                reservations.append(reservation)
                if books.put_off_size(stream) is not None:
                    break  # It may be recalled, and goes before the next one then.
            is_last = bool(reservations) and not books.depth(stream)
        if is_last:
            self._notifier.changed(stream)
        return reservations

    def sending(self, reservations: Iterable[Reservation]) -> list[Reservation]:
        """Reserved messages are about to be sent; return those that were not given up meanwhile, and are to be."""
        with self._lock:
            return [reservation for reservation in reservations if self._ledger.sending(reservation)]

    def sent(self, reservations: Iterable[Reservation]) -> None:
        """Reserved messages have been sent: the time of their reservations counts from now."""
        now = self._clock.monotonic()
        with self._lock:
            for reservation in reservations:
                self._ledger.sent(reservation, now)

    def read_ahead(self, reservation: Reservation) -> None:
        """The payload of a reserved message will be opened soon: have it fetched where it has to be."""
        self._store.read_ahead(reservation.entry)

    def open_payload(self, reservation: Reservation) -> PayloadLease:
        """Return the payload of a reserved message, as a context.

        Raises:
            StorageError: it cannot be read. The reservation has ended: a damaged message is a dead letter now, another
                one is tried again after a pause.
        """
        try:
            payload = self._store.read(reservation.entry)
        except StorageError as error:
            self._answer_log.unreadable(reservation, error, self._clock.monotonic())
            self._clerk.carry_out([self._decide_unreadable(reservation, error)])
            raise
        if reservation.entry.times_unreadable:
            with self._lock:
                self._ledger.has_read(reservation.entry)
        return payload

    def _decide_unreadable(self, reservation: Reservation, error: StorageError) -> Decision:
        with self._lock:
            if error.retryable:
                failure = Failure("PayloadUnreadable", error.text)
                return self._ledger.hold_back(reservation, failure, self._clock.monotonic(), self._random.random())
            failure = Failure("PayloadDamaged", error.text, retryable=False)
            return self._ledger.bury(reservation, failure)

    def settle(self, reservations: Sequence[Reservation], outcome: Outcome) -> None:
        """Take an engine's answer to messages that it has over one connection.

        That to a reservation that was given up is counted, logged, and changes nothing.

        Raises:
            RemoteProtocolError: an engine does not answer like that.
        """
        check_answer(outcome)  # Before anything is decided: what cannot be written would be neither done nor ready.
        now = self._clock.monotonic()
        with self._lock:
            self._ledger.progressed(engine_of(reservations[0].holder), now)
            decisions = [decide(self._ledger, each, outcome, now, self._random.random) for each in reservations]
        finished: list[Entry] = []
        others: list[Decision] = []
        for reservation, decision in zip(reservations, decisions, strict=True):
            if decision.verdict is Verdict.SETTLING:
                finished.append(decision.entry)
                continue
            others.append(decision)
            if decision.verdict is Verdict.LATE:
                self._answer_log.late(reservation, outcome, now)
            elif outcome.reason in PUT_OFF and decision.verdict is Verdict.READY:
                self._answer_log.put_off(reservation, outcome, now)
        self._clerk.finish(finished, outcome)
        self._clerk.carry_out(others)

    def engine_gone(self, holder: str) -> None:
        """The engine's connection ended: what it held is ready again, as suspects."""
        with self._lock:
            decisions = self._ledger.release_all(holder)
        self._clerk.carry_out(decisions)

    def engines_progressed(self, engines: Iterable[str]) -> None:
        """Controllers tell of engines whose handlers have returned, with messages that need not have come from here."""
        now = self._clock.monotonic()
        with self._lock:
            for engine in engines:
                self._ledger.progressed(engine, now)

    def engine_exited(self, ended: EngineExit) -> None:
        """A controller tells how an engine ended.

        A time-out counts an attempt for what handlers ran for too long; a crash counts for a message that was alone.
        """
        attempts = int(ended.reason is ExitReason.TIMED_OUT)
        crashes = int(ended.reason is ExitReason.CRASHED and len(ended.held) == 1)
        if not attempts and not crashes:
            return
        with self._lock:
            charge = Charge(attempts, crashes, ended.engine, ended.text)
            decisions = self._ledger.charge(ended.stream, ended.held, charge, self._clock.monotonic())
        self._clerk.carry_out(decisions)

    # ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def subscribe(self, stream: str, message_id: str, on_final: OnFinal) -> None:
        """Have the final outcome of a message told, once: at once when there is one, or none is known.

        Raises:
            StorageError: a final outcome cannot be read.
        """
        self._clerk.subscribe(stream, message_id, on_final)

    def unsubscribe(self, stream: str, message_ids: Iterable[str], on_final: OnFinal) -> None:
        """Forget subscriptions, as far as they have not been answered."""
        self._clerk.unsubscribe(stream, message_ids, on_final)

    def entry(self, stream: str, message_id: str) -> Entry | None:
        """Return a message that waits, is being stored, or is dead."""
        with self._lock:
            return self._ledger.books.entry(stream, message_id)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def declare(self, declaration: StreamDeclaration) -> None:
        """A stream is declared, or declared anew: treat its messages by this from now on."""
        with self._lock:
            self._ledger.set_policy(declaration.name, RetryPolicy.of(declaration))
            self._reception.locked_declare(declaration.name, declaration.memory_payload_max_bytes)

    def streams(self) -> list[str]:
        """Return the streams of which there are messages, whether they are declared or not."""
        with self._lock:
            return self._ledger.books.streams()

    def figures(self, stream: str) -> BacklogFigures:
        with self._lock:
            return self._ledger.books.figures(stream, self._clock.wall())

    def drop_stream(self, stream: str, *, is_forced: bool = False) -> None:
        """A stream is deleted: forget its outcomes, and refuse what still comes for it until it is declared again.

        All of it stays known until it is gone from stable storage. Who asked for outcomes gets None then.

        Args:
            is_forced: Delete the messages that are to be processed and the dead letters, too.

        Raises:
            Conflict: there are messages of it, and the deletion is not forced; nothing has changed.
            StorageError: it could not be written: what was stored is still there.
            Unavailable: it is not written yet.
        """
        self._removal.drop(stream, is_forced=is_forced)
