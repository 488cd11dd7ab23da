"""Which messages wait, who holds them, what becomes of them; :mod:`harmonicio.master.backlog.entry` draws the states.

Rules:

- Within a stream, larger priorities go first, then earlier arrivals. Nothing orders streams among each other. In an
  ordered stream one message at a time is held; one that is being stored or is to be tried again holds up those behind.
- A message is reserved by at most one engine at a time. A reservation ends by its outcome, by the end of the engine's
  connection, or by expiry, which whatever the engine completes puts off; an outcome that comes later finds no
  reservation and changes nothing.
- What a host has no room for is put off longer each time, or recalled for one that may have room. No dead letters.
- An attempt counts when the handler failed or was killed for time; a crash when the controller says so. Lost
  connections and expired reservations count nothing. Used-up attempts or crashes make a dead letter, whichever event
  shows it.
- A message id stays taken while its message waits or is dead, and for 24 h after it was finished. What was shed is
  nowhere: sent again, it is a new message.

Pure: no I/O, no clock, no lock. ``now`` is monotonic seconds: a wall clock that is set makes nothing older.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from harmonicio.core.back_off import delay_s
from harmonicio.core.message import Failure
from harmonicio.master.backlog import digest as digests
from harmonicio.master.backlog.books import Books
from harmonicio.master.backlog.budget import LedgerLimits, Refusal
from harmonicio.master.backlog.cause_of_death import cause_of_death, count, death_bytes
from harmonicio.master.backlog.ended import EndedIds
from harmonicio.master.backlog.entry import (
    Charge,
    Decision,
    Entry,
    Finished,
    PutVerdict,
    Reservation,
    RetryPolicy,
    State,
    Verdict,
)
from harmonicio.master.backlog.recent import RecentIds
from harmonicio.master.backlog.reservations import Reservations, engine_of

CHARGES_KEPT_S = 3600.0
MAX_CHARGES = 20_000
BACK_OFF_FIRST_S = 0.2
PUT_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 30.0
#: A payload that cannot be read is given up after so many tries, and not before so long: a share or disk may come back.
UNREADABLE_TRIES, UNREADABLE_S = 10, 3600.0
UNREADABLE_FIRST_S, UNREADABLE_MAX_S = 1.0, 60.0


class Ledger:
    """The decisions of the backlog."""

    def __init__(self, limits: LedgerLimits | None = None) -> None:
        limits = limits or LedgerLimits()
        self.books = Books(limits)
        self._reservations = Reservations()
        self._delays: list[tuple[float, int, Entry]] = []
        self._ended = EndedIds(limits.max_finished_ids)
        self._charges: RecentIds[Charge] = RecentIds(CHARGES_KEPT_S, MAX_CHARGES)
        self._next_sequence = 1
        #: Sequences of dead letters that are not on stable storage yet; :meth:`buried` takes them out.
        self._burying: set[int] = set()

    def __repr__(self) -> str:
        return f"<Ledger {self.books!r}, {self._reservations!r}>"

    # ── taking messages in ───────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, size_bytes: int) -> Refusal | None:
        """Set aside room for one message, or say why there is none. What is not put later must be withdrawn."""
        refusal = self.books.budget.refusal(size_bytes)
        if refusal is None:
            self.books.budget.admit(size_bytes)
        return refusal

    def withdraw(self, size_bytes: int) -> None:
        """Give back room that was admitted."""
        self.books.budget.withdraw(size_bytes)

    def draw_sequence(self) -> int:
        """Return the number of the next arrival."""
        sequence = self._next_sequence
        self._next_sequence = sequence + 1
        return sequence

    def put(
        self, entry: Entry, now: float, *, is_given_up: bool = False, failure: Failure | None = None
    ) -> tuple[PutVerdict, Failure | None]:
        """Enter a message for which room was admitted.

        Args:
            entry: ``put_at`` says when, by the wall clock.
            is_given_up: Its source sends it as a dead letter.
            failure: Why an earlier attempt failed, if the source said so.

        Returns:
            The verdict and, when the message is a dead letter from the start, the reason. Only after NEW is the entry
            part of the ledger; :meth:`stored` or :meth:`abandon` follows.
        """
        book = self.books.open(entry.stream)
        known = book.ids.get(entry.message_id)
        if known is not None and known.state is State.SHEDDING:
            return PutVerdict.LEAVING, None
        if known is not None:
            if known.size_bytes != entry.size_bytes or not digests.is_same(known.digest, entry.digest):
                return PutVerdict.CONFLICT, None
            return (PutVerdict.STORING if known.state is State.STORING else PutVerdict.KNOWN), None
        digest = self._ended.digest(entry.stream, entry.message_id, now)
        if digest is not None:
            return (PutVerdict.KNOWN if digests.is_same(digest, entry.digest) else PutVerdict.CONFLICT), None
        self._ended.forget(entry.stream, entry.message_id, now)  # What was shed is nowhere: it gets another chance.
        charge = self._charges.get(entry.stream, entry.message_id, now)  # Until it is stored: another copy may come.
        if charge is not None:
            count(entry, charge)
        self.books.enter(entry)
        if is_given_up:
            return PutVerdict.NEW, failure or Failure("GivenUp", "Its source gave the message up without a reason.")
        return PutVerdict.NEW, cause_of_death(entry, book.policy, failure)

    def stored(self, entry: Entry, failure: Failure | None = None, *, is_void: bool = False) -> Decision:
        """Say that the entry is on stable storage, as a dead letter if there is a failure; none wants a void one."""
        if is_void:
            self.abandon(entry)
        if entry.state is not State.STORING:
            return Decision(Verdict.LATE, entry)
        self._charges.drop(entry.stream, entry.message_id)
        self.books.of(entry).stored_total += 1
        if failure is not None:
            self.books.bury(entry, death_bytes(failure))
            return Decision(Verdict.DEAD, entry)
        return self._give_back(entry, 0.0)

    def abandon(self, entry: Entry) -> None:
        """Forget an entry that could not be stored."""
        if entry.state is State.STORING:
            self.books.remove(entry)

    def restore(self, entry: Entry, *, is_dead: bool) -> None:
        """Enter what a store has kept from an earlier run; nothing is refused."""
        self.books.budget.admit(entry.size_bytes)
        self._next_sequence = max(self._next_sequence, entry.sequence + 1)
        self.books.enter(entry)
        if is_dead:
            self.books.bury(entry, entry.death_bytes)
        else:
            self.books.of(entry).move(entry, State.READY)

    def restore_finished(self, finished: Finished, now: float, age_s: float) -> None:
        """Remember a message that an earlier run has finished or shed, so long ago; the oldest come first."""
        digest, ended_at = finished.digest, now - age_s
        self._ended.put(finished.stream, finished.message_id, digest, ended_at, is_shed=finished.is_shed)

    # ── giving messages out ──────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, stream: str, holder: str, now: float) -> Reservation | None:
        """Give the next message of the stream, of ``books.next_size``, to an engine; None when nothing is ready."""
        book = self.books.find(stream)
        entry = None if book is None else book.next_ready()
        if book is None or entry is None:
            return None
        entry.is_put_off = False
        entry.engine = engine_of(holder)
        book.move(entry, State.RESERVED)
        return self._reservations.make(entry, holder, now, book.policy.reservation_timeout_s)

    def sending(self, reservation: Reservation) -> bool:
        """The message is on its way to its engine, however long that takes; False when it was given up before."""
        return self._reservations.sending(reservation)

    def sent(self, reservation: Reservation, now: float) -> None:
        """The engine has all of the message: the time of its reservation counts from now."""
        self._reservations.sent(reservation, now)

    def progressed(self, engine: str, now: float) -> None:
        """The engine has ended the work on a message, whosever that was: what it holds is held for another while."""
        self._reservations.progressed(engine, now)

    def finish(self, reservation: Reservation) -> Decision:
        """The engine has processed the message; :meth:`settled` follows when that is on stable storage."""
        entry = reservation.entry
        if not self._reservations.end(reservation):
            return self._late(entry)
        self.books.of(entry).move(entry, State.SETTLING)
        return Decision(Verdict.SETTLING, entry)

    def absolve(self, entry: Entry) -> bool:
        """A dead message turns out to be processed; False when it is no dead letter now. :meth:`settled` follows."""
        self._burying.discard(entry.sequence)
        if entry.state is not State.DEAD:
            return False
        self.books.absolve(entry)
        return True

    def settled(self, entry: Entry, now: float) -> None:
        """The outcome of a finished message is on stable storage: only its id is remembered from here on."""
        if entry.state is State.SETTLING:
            self.books.of(entry).done_total += 1
            self._ended.put(entry.stream, entry.message_id, entry.digest, now)
            self.books.remove(entry)

    def shed(self, entry: Entry, now: float) -> None:
        """The record of a message that had to make room is on stable storage."""
        if entry.state is State.SHEDDING:
            self.books.of(entry).shed_total += 1
            self._ended.put(entry.stream, entry.message_id, entry.digest, now, is_shed=True)
            self.books.remove(entry)

    def fail(self, reservation: Reservation, failure: Failure, now: float, jitter: float) -> Decision:
        """The handler raised: another attempt after a back-off, or a dead letter.

        Args:
            jitter: A random number in [0, 1), for the back-off.
        """
        entry = reservation.entry
        if not self._reservations.end(reservation):
            return self._late(entry)
        entry.attempts += 1
        entry.is_timed_out = False
        if not failure.retryable:
            return self._bury(entry, failure)
        backed_off_s = delay_s(entry.attempts, first_s=BACK_OFF_FIRST_S, longest_s=BACK_OFF_MAX_S, chance=jitter)
        return self._give_back(entry, now + backed_off_s, failure, has_changed=True)

    def release(self, reservation: Reservation, now: float, pause_s: float) -> Decision:
        """The engine did not take the message: it is ready again after a pause, free of charge."""
        entry = reservation.entry
        return self._give_back(entry, now + pause_s) if self._reservations.end(reservation) else self._late(entry)

    def put_off(self, reservation: Reservation, now: float, jitter: float, *, is_recalled: bool = True) -> Decision:
        """The engine has no room for the message, or for what came of it: as :meth:`release`, after growing pauses.

        Args:
            jitter: A random number in [0, 1), for the pause.
            is_recalled: Whether an engine that has refused none may have it before.
        """
        entry = reservation.entry
        if not self._reservations.end(reservation):
            return self._late(entry)
        entry.is_put_off = is_recalled
        entry.times_put_off += 1
        pause_s = delay_s(entry.times_put_off, first_s=PUT_OFF_FIRST_S, longest_s=BACK_OFF_MAX_S, chance=jitter)
        return self._give_back(entry, now + pause_s)

    def hold_back(self, reservation: Reservation, failure: Failure, now: float, jitter: float) -> Decision:
        """The payload cannot be read now: it is tried again after pauses that grow, and given up in the end.

        Args:
            failure: Why it cannot.
            jitter: A random number in [0, 1), for the pause.
        """
        entry = reservation.entry
        if not entry.times_unreadable:
            entry.unreadable_since = now
        entry.times_unreadable += 1
        if entry.times_unreadable >= UNREADABLE_TRIES and now - entry.unreadable_since >= UNREADABLE_S:
            entry.times_unreadable = 0
            return self.bury(reservation, failure)
        pause_s = delay_s(entry.times_unreadable, first_s=UNREADABLE_FIRST_S, longest_s=UNREADABLE_MAX_S, chance=jitter)
        return self.release(reservation, now, pause_s)

    def has_read(self, entry: Entry) -> None:
        """The payload could be read: what failed before does not count any more."""
        entry.times_unreadable = 0

    def recall(self, stream: str) -> None:
        """An engine may have room: make ready what would be the next message if it had not been put off."""
        if (book := self.books.find(stream)) is not None and (entry := book.next_put_off()) is not None:
            book.move(entry, State.READY)

    def release_all(self, holder: str) -> list[Decision]:
        """The engine's connection ended: what it held is ready again, free of charge; what was sent is a suspect."""
        decisions = []
        for reservation, was_sent in self._reservations.end_holder(holder):
            entry = reservation.entry
            has_changed = was_sent and not entry.is_suspect
            entry.is_suspect = entry.is_suspect or was_sent
            decisions.append(self._give_back(entry, 0.0, has_changed=has_changed))
        return decisions

    def bury(self, reservation: Reservation, failure: Failure) -> Decision:
        """Give the message up whatever its attempts: it cannot be processed, as its engine says or as is found here."""
        entry = reservation.entry
        if not self._reservations.end(reservation):
            return self._late(entry)
        return self._bury(entry, failure)

    def buried(self, entry: Entry) -> None:
        """The dead letter of a message that was given up is on stable storage."""
        self._burying.discard(entry.sequence)

    @property
    def has_unwritten(self) -> bool:
        """Whether the outcome, the death or the shedding of a message is not on stable storage yet."""
        return bool(self._burying) or self.books.count(State.SETTLING, State.SHEDDING) > 0

    def is_burying(self, entry: Entry) -> bool:
        """Whether a message was given up, and its dead letter is not on stable storage yet."""
        return entry.sequence in self._burying

    # ── time, and what controllers report ────────────────────────────────────────────────────────────────────────────

    def expire(self, now: float) -> list[Decision]:
        """Give up the reservations whose time is over: their messages are ready again."""
        return [self._give_back(reservation.entry, 0.0) for reservation in self._reservations.end_expired(now)]

    def promote(self, now: float) -> set[str]:
        """Make ready whose delay is over; return the streams that have more ready messages by that."""
        streams = set()
        while self._delays and self._delays[0][0] <= now:
            not_before, _, entry = heappop(self._delays)
            if entry.state is State.DELAYED and entry.not_before == not_before:
                self.books.of(entry).move(entry, State.READY)
                streams.add(entry.stream)
        return streams

    def charge(self, stream: str, message_ids: Iterable[str], charge: Charge, now: float) -> list[Decision]:
        """Count attempts or crashes that a controller reports, also for messages that arrive only later."""
        decisions = []
        for message_id in message_ids:
            entry = self.books.entry(stream, message_id)
            if entry is None or entry.state is State.STORING:
                before = self._charges.get(stream, message_id, now)
                self._charges.put(stream, message_id, charge.after(before), now)
            if entry is not None and entry.state in (State.STORING, State.READY, State.DELAYED, State.RESERVED):
                count(entry, charge)
                decisions.append(self._reconsider(entry))
        return decisions

    def is_known(self, stream: str, message_id: str, now: float) -> bool:
        """Whether a message of this id waits, is being stored, is dead, or is remembered as finished."""
        return self.books.entry(stream, message_id) is not None or self.is_finished(stream, message_id, now)

    def is_shed(self, stream: str, message_id: str, now: float) -> bool:
        """Whether the message is remembered as shed."""
        return self._ended.is_shed(stream, message_id, now)

    def is_finished(self, stream: str, message_id: str, now: float) -> bool:
        """Whether the message is remembered as finished."""
        return self._ended.digest(stream, message_id, now) is not None

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def set_policy(self, stream: str, policy: RetryPolicy) -> None:
        """Say how the stream's messages are retried from now on."""
        self.books.open(stream).policy = policy

    def drop_stream(self, stream: str, before_sequence: int) -> int:
        """Forget a stream with everything that arrived before this sequence; return how many messages that were."""
        if self.books.find(stream) is None:
            return 0
        self._reservations.end_where(lambda entry: entry.stream == stream and entry.sequence < before_sequence)
        dropped = self.books.drop(stream, before_sequence)
        self._delays = [item for item in self._delays if item[2].state is State.DELAYED]
        heapify(self._delays)
        self._ended.drop_stream(stream)
        self._charges.drop_stream(stream)
        return dropped

    # ── moves ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _late(self, entry: Entry) -> Decision:
        book = self.books.find(entry.stream)
        if book is not None:
            book.late_total += 1
        return Decision(Verdict.LATE, entry)

    def _give_back(
        self, entry: Entry, not_before: float, failure: Failure | None = None, *, has_changed: bool = False
    ) -> Decision:
        """Make an entry ready, at once or later, unless its attempts or crashes are used up."""
        book = self.books.of(entry)
        cause = cause_of_death(entry, book.policy, failure)
        if cause is not None:
            return self._bury(entry, cause)
        entry.not_before = not_before
        if not_before > 0:
            book.move(entry, State.DELAYED)
            heappush(self._delays, (not_before, entry.sequence, entry))
        else:
            book.move(entry, State.READY)
        return Decision(Verdict.READY, entry, has_changed)

    def _reconsider(self, entry: Entry) -> Decision:
        """An entry's counters changed where it is: one that nobody holds may be dead by that."""
        if entry.state not in (State.READY, State.DELAYED):
            return Decision(Verdict.RESERVED, entry, True)
        cause = cause_of_death(entry, self.books.of(entry).policy, None)
        return Decision(Verdict.READY, entry, True) if cause is None else self._bury(entry, cause)

    def _bury(self, entry: Entry, failure: Failure) -> Decision:
        self.books.bury(entry, death_bytes(failure))
        self._burying.add(entry.sequence)
        return Decision(Verdict.DEAD, entry, True, failure)
