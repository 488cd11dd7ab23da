"""Has written what the ledger decided, and tells those who wait for it.

    decision ──► store.update                                   counters
             ├─► store.bury ──flush──► subscribers              dead letter
             ├─► store.finish ──flush──► ledger.settled, subscribers
             └─► store.shed ──flush──► ledger.shed, subscribers   what had to make room

What must be written but could not be is tried again every few seconds. Until then the message is not forgotten; after a
restart it is simply ready again. What its stream's deletion has taken away meanwhile is not written any more: its id
may be that of another message by now.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from harmonicio.core.clock import Clock
from harmonicio.core.errors import Conflict, StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.master.backlog.base import BacklogStore
from harmonicio.master.backlog.entry import Death, Decision, Entry, Shed, State, Verdict
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.log_pace import LogPace
from harmonicio.master.backlog.notifier import Notifier
from harmonicio.master.backlog.outcome_codec import KeptOutcome
from harmonicio.master.backlog.shedding import Shedding
from harmonicio.master.backlog.subscriptions import OnFinal, Subscriptions

_log = logging.getLogger(__name__)

#: Given a stream, a message id and the size of the payload.
FindOutcome = Callable[[str, str, int], Outcome | None]

REPEAT_INTERVAL_S = 5.0
#: How often it is looked what became of a message that is replayed while somebody asks.
LOOKS = 3
#: The type of error that a dead letter shows whose record is damaged.
UNREADABLE = "RecordUnreadable"
#: One log line about messages that were shed in so many seconds.
SHED_LOG_INTERVAL_S = 10.0
#: A disk that has taken no message is tried again after pauses that double: each try costs what sources send in vain.
INTAKE_PAUSE_FIRST_S, INTAKE_PAUSE_MAX_S = 1.0, 8.0


class Clerk:
    """The hand of the ledger.

    Args:
        lock: Guards the ledger. Methods are called without it, those whose names begin with ``locked_`` with it.
    """

    def __init__(
        self, lock: threading.Lock, ledger: Ledger, store: BacklogStore, notifier: Notifier, clock: Clock
    ) -> None:
        self._lock = lock
        self._ledger = ledger
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self.shedding = Shedding(ledger.books)
        self._shed_log = LogPace(SHED_LOG_INTERVAL_S)
        self._subscriptions = Subscriptions()
        #: Reasons of dead letters that are not on stable storage yet, by their sequence.
        self._burying: dict[int, Death] = {}
        #: Returns the digest of the image that an engine runs, empty without one. Called without the lock.
        self.find_image: Callable[[str], str] = lambda engine: ""
        #: Returns the recorded outcome of a message whose engine did the work and could not say so; may raise.
        self.find_outcome: FindOutcome = lambda stream, message_id, size_bytes: None
        self._to_repeat: list[Callable[[], None]] = []
        self._repeat_at = 0.0
        #: Decisions over messages whose record has to be looked for first, by the next tick.
        self._soon: list[Decision] = []
        #: The smallest message for which there was no room.
        self._wanted_bytes: int | None = None
        #: Nothing new is taken until then, since the store could not take it; None: it can.
        self._intake_at: float | None = None
        self._intake_pause_s = INTAKE_PAUSE_FIRST_S

    def __repr__(self) -> str:
        return f"<Clerk: {self._subscriptions!r}, {len(self._burying)} to bury, {len(self._to_repeat)} to repeat>"

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def carry_out(self, decisions: Iterable[Decision]) -> None:
        """Have decisions written, finished messages aside."""
        for decision in decisions:
            if decision.verdict is Verdict.LATE:
                continue
            if decision.failure is not None:
                death = self.death(decision.entry, decision.failure)
                with self._lock:
                    self._burying[decision.entry.sequence] = death
                self._attempt(partial(self._give_up, decision.entry, death))
            elif decision.has_changed:
                self._store.update(decision.entry)
            self._notifier.changed(decision.entry.stream)

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do this, or later when an error that nobody has thought of comes between: what is behind it goes on."""
        try:
            work()
        except Exception:  # noqa: BLE001  it is logged, and tried again
            _log.exception("Something was not written; it is tried again")
            with self._lock:
                self._to_repeat.append(work)

    def carry_out_soon(self, decision: Decision) -> None:
        """As :meth:`carry_out`, for the store's own threads, which must not wait for a database of records."""
        if decision.failure is None:
            self.carry_out([decision])
            return
        with self._lock:
            self._soon.append(decision)

    def recorded(self, entry: Entry) -> Outcome | None:
        """Return the outcome of a message whose engine did the work and could not say so.

        Raises:
            StorageError: that is not known yet, for whatever reason: extensions are others' code.
        """
        try:
            return self.find_outcome(entry.stream, entry.message_id, entry.size_bytes)
        except StorageError:
            raise
        except Exception as error:
            _log.exception("The record of message %r could not be looked for", entry.message_id)
            raise StorageError(f"The record of message {entry.message_id!r} cannot be read: {error}.") from error

    def _give_up(self, entry: Entry, death: Death) -> None:
        """Have a dead letter written; but what one of its engines has done after all is processed."""
        # What is recorded under the id of a message with other bytes is not of this one.
        is_of_another = death.failure.error_type == Conflict.__name__
        try:
            outcome = None if is_of_another else self.recorded(entry)
        except StorageError as error:
            _log.warning("Whether message %r was processed is not known yet: %s", entry.message_id, error)
            with self._lock:
                self._to_repeat.append(partial(self._give_up, entry, death))
            return
        if outcome is None:
            self._bury(entry, death)
            return
        with self._lock:
            self._burying.pop(entry.sequence, None)
            is_absolved = self._ledger.absolve(entry)
        if is_absolved:
            self.finish([entry], outcome)

    def death(self, entry: Entry, failure: Failure) -> Death:
        """Return the record of a message that is given up now."""
        engine = entry.engine
        image = self.find_image(engine) if engine else ""
        with self._lock:
            version = self._ledger.books.policy(entry.stream).version
        return Death(failure, self._clock.wall(), engine, image, version)

    def stream_changed(self, stream: str) -> None:
        """A message does not come to be ready: in an ordered stream those behind it may be."""
        self._notifier.changed(stream)

    def finish(self, entries: Iterable[Entry], outcome: Outcome) -> None:
        """Have the outcome of messages written that the ledger calls finished."""
        left = [entry for entry in entries if entry.state is not State.GONE]
        if left:
            self._store.finish(left, outcome, partial(self._finished, left, outcome))

    def shed(self, entries: Iterable[Entry], why: str) -> None:
        """Have it written that messages had to make room."""
        for entry in entries:
            record = Shed(entry.stream, entry.message_id, entry.priority, entry.size_bytes, self._clock.wall(), why)
            if count := self._shed_log.count(self._clock.monotonic()):
                last = (entry.message_id, entry.stream, why)
                _log.warning("Messages were shed: %d; the last was %r of stream %r: %s", count, *last)
            self._write_shed(entry, record)

    def _write_shed(self, entry: Entry, record: Shed) -> None:
        if entry.state is State.GONE:
            return
        outcome = Outcome(OutcomeKind.FAILED, failure=Failure("Shed", record.why, retryable=False))
        self._store.shed(entry, record, outcome, partial(self._shed, entry, record, outcome))

    def _shed(self, entry: Entry, record: Shed, outcome: Outcome, error: StorageError | None) -> None:
        with self._lock:
            if entry.state is State.GONE:
                return
            if error is not None:
                self._to_repeat.append(partial(self._write_shed, entry, record))
                return
            self._ledger.shed(entry, self._clock.monotonic())
        self.tell_final([entry], outcome)
        self.room_freed()  # It may have been larger than what it made room for.

    def forget(self, entry: Entry, on_tried: Callable[[], None] = lambda: None) -> None:
        """Have the row of a message removed that is no part of the ledger (any more)."""
        self._store.forget(entry, partial(self._forgotten, entry, on_tried))

    def _forgotten(self, entry: Entry, on_tried: Callable[[], None], error: StorageError | None) -> None:
        if error is not None:
            with self._lock:
                self._to_repeat.append(partial(self.forget, entry))
        on_tried()

    def repeat(self, now: float) -> None:
        """Carry out what was put off, and try again what could not be written, and whether there is room."""
        self._resume_intake(now)
        with self._lock:
            soon, self._soon = self._soon, []
        self.carry_out(soon)
        with self._lock:
            if not self._to_repeat or now < self._repeat_at:
                return
            repeats, self._to_repeat = self._to_repeat, []
            self._repeat_at = now + REPEAT_INTERVAL_S
        for each in repeats:
            self._attempt(each)

    def _finished(self, entries: Sequence[Entry], outcome: Outcome, error: StorageError | None) -> None:
        now = self._clock.monotonic()
        with self._lock:
            if error is not None:
                self._to_repeat.append(partial(self.finish, entries, outcome))
                return
            left = [entry for entry in entries if entry.state is not State.GONE]
            for entry in left:
                self._ledger.settled(entry, now)
        self.tell_final(left, outcome)
        self.room_freed()

    def _bury(self, entry: Entry, death: Death) -> None:
        self._store.bury(entry, death, partial(self._buried, entry, death))

    def _buried(self, entry: Entry, death: Death, error: StorageError | None) -> None:
        with self._lock:
            is_gone = entry.state is State.GONE
            if error is not None and not is_gone:
                self._to_repeat.append(partial(self._bury, entry, death))
                return
            self._burying.pop(entry.sequence, None)
            self._ledger.buried(entry)
        if is_gone:
            return
        self.tell_final([entry], Outcome(OutcomeKind.FAILED, failure=death.failure))

    # ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def tell_final(self, entries: Iterable[Entry], outcome: Outcome) -> None:
        """Tell the subscribers of messages, whose outcome is on stable storage."""
        with self._lock:
            told = [
                (entry.message_id, on_final)
                for entry in entries
                for on_final in self._subscriptions.take(entry.stream, entry.message_id)
            ]
        for message_id, on_final in told:
            on_final(message_id, outcome)

    def subscribe(self, stream: str, message_id: str, on_final: OnFinal) -> None:
        for _ in range(LOOKS):
            with self._lock:
                entry = self._ledger.books.entry(stream, message_id)
                # One that is replayed or purged now is answered when that is done.
                if entry is not None and (entry.state is not State.DEAD or self._ledger.is_burying(entry)):
                    self._subscriptions.add(stream, message_id, on_final)
                    return
            if entry is None:
                kept = self.kept_outcome(stream, message_id)
                on_final(message_id, None if kept is None else kept.outcome)
                return
            if (death := self.kept_death(entry)) is not None:
                on_final(message_id, Outcome(OutcomeKind.FAILED, failure=death.failure))
                return
            # It was replayed or purged in between.
        on_final(message_id, None)

    def ask_again(self, entry: Entry) -> None:
        """Something but an outcome has become of a message: answer those who wait for it as if they asked now."""
        with self._lock:
            subscribers = self._subscriptions.take(entry.stream, entry.message_id)
        for on_final in subscribers:
            try:
                self.subscribe(entry.stream, entry.message_id, on_final)
            except StorageError as error:
                _log.warning("What became of message %r is not known: %s", entry.message_id, error)
                on_final(entry.message_id, None)

    def unsubscribe(self, stream: str, message_ids: Iterable[str], on_final: OnFinal) -> None:
        with self._lock:
            self._subscriptions.remove(stream, tuple(message_ids), on_final)

    def locked_subscribers(self, stream: str) -> list[tuple[str, OnFinal]]:
        """Return who waits for messages of a stream that are gone, and forget them."""
        return self._subscriptions.take_stream(stream, but=self._ledger.books.ids(stream))

    def kept_outcome(self, stream: str, message_id: str) -> KeptOutcome | None:
        """Return the outcome of a finished message. Raises StorageError."""
        return self._store.outcome(stream, message_id)

    def kept_death(self, entry: Entry) -> Death | None:
        """Return why a dead letter was given up; None when it is none (any more).

        One whose record is damaged says so: it can be replayed and purged as the others.

        Raises:
            StorageError: it cannot be read now.
        """
        with self._lock:
            death = self._burying.get(entry.sequence)
        if death is not None:
            return death
        try:
            return self._store.death(entry)
        except StorageError as error:
            if error.retryable:
                raise
            return Death(Failure(UNREADABLE, f"Its record cannot be read. {error.text}", retryable=False))

    # ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def locked_has_room(self, size_bytes: int, stream: str = "") -> bool:
        """Whether a message of this size can be taken; when not, see that it is told once it can."""
        budget = self._ledger.books.budget
        if self._intake_at is None and (budget.refusal(size_bytes) is None or self.shedding.can_help(stream)):
            return True
        self._wanted_bytes = size_bytes if self._wanted_bytes is None else min(size_bytes, self._wanted_bytes)
        return False

    def locked_put_ended(self, *, is_stored: bool) -> None:
        """The store has, or has not, taken a message. If not, none are called for until a pause is over."""
        if is_stored:
            self._intake_pause_s = INTAKE_PAUSE_FIRST_S
        elif self._intake_at is None:
            self._intake_at = self._clock.monotonic() + self._intake_pause_s
            self._intake_pause_s = min(2 * self._intake_pause_s, INTAKE_PAUSE_MAX_S)

    def _resume_intake(self, now: float) -> None:
        with self._lock:
            if self._intake_at is None or now < self._intake_at:
                return
            self._intake_at = None
        self.room_freed()

    def room_freed(self) -> None:
        """Something has left the backlog: tell those for whom there was no room."""
        with self._lock:
            wanted_bytes = self._wanted_bytes
            if (
                wanted_bytes is None
                or self._intake_at is not None
                or self._ledger.books.budget.refusal(wanted_bytes) is not None
            ):
                return
            self._wanted_bytes = None
        self._notifier.has_room()
