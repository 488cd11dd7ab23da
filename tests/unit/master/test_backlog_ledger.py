"""The ledger: which messages wait, who holds them, and what becomes of them."""

from __future__ import annotations

import pytest

from harmonicio.core.message import MAX_PRIORITY, MIN_PRIORITY, Failure
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import (
    ENTRY_OVERHEAD_BYTES,
    Decision,
    Entry,
    Finished,
    PutVerdict,
    Reservation,
    RetryPolicy,
    State,
    Verdict,
)
from harmonicio.master.backlog.ledger import BACK_OFF_MAX_S, Ledger

ERROR = Failure("ValueError", "no cell in sight")
FATAL = Failure("ValueError", "not an image", retryable=False)
DAY_S = 24 * 3600.0


class Desk:
    """A ledger with shortcuts for one stream."""

    def __init__(self, limits: LedgerLimits | None = None, policy: RetryPolicy | None = None) -> None:
        self.ledger = Ledger(limits)
        self.ledger.set_policy("plates", policy or RetryPolicy(3, 3, 60.0))

    def entry(self, message_id: str, payload: bytes = b"cells", **more: object) -> Entry:
        given: dict[str, object] = {"stream": "plates", "digest": digest_of(payload), "put_at": 0.0}
        sequence = self.ledger.draw_sequence()
        return Entry(
            message_id=message_id,
            sequence=sequence,
            size_bytes=len(payload),
            **(given | more),  # type: ignore[arg-type]
        )

    def put(self, message_id: str, payload: bytes = b"cells", **more: object) -> Entry:
        """Put a message and have it stored."""
        entry = self.entry(message_id, payload, **more)
        assert self.ledger.admit(entry.size_bytes) is None
        assert self.ledger.put(entry, 0.0)[0] is PutVerdict.NEW
        self.ledger.stored(entry)
        return entry

    def reserve(self, engine: str = "e1", now: float = 0.0) -> Reservation:
        self.ledger.promote(now)
        reservation = self.ledger.reserve("plates", engine, now)
        assert reservation is not None
        return reservation

    def take_all(self, now: float = 0.0) -> list[str]:
        taken = []
        self.ledger.promote(now)
        while (reservation := self.ledger.reserve("plates", "e1", now)) is not None:
            taken.append(reservation.entry.message_id)
        return taken

    def process(self, message_id: str, wall: float = 0.0) -> None:
        """Put a message and have it processed."""
        entry = self.put(message_id)
        self.ledger.finish(self.reserve())
        self.ledger.settled(entry, wall)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_are_given_out_by_priority_and_then_by_arrival(desk: Desk) -> None:
    for message_id, priority in (("a", 0), ("b", 5), ("c", 5), ("d", -1), ("e", MAX_PRIORITY), ("f", MIN_PRIORITY)):
        desk.put(message_id, priority=priority)
    assert desk.take_all() == ["e", "b", "c", "a", "d", "f"]


def test_a_message_that_comes_back_stands_where_it_stood(desk: Desk) -> None:
    for message_id in "abc":
        desk.put(message_id)
    first = desk.reserve()
    desk.ledger.release(first, 0.0, 0.0)
    assert desk.take_all() == ["a", "b", "c"]


def test_an_ordered_stream_has_one_message_out_at_a_time() -> None:
    desk = Desk(policy=RetryPolicy(is_ordered=True))
    for message_id in "abc":
        desk.put(message_id)
    first = desk.reserve()
    assert desk.take_all() == [] and desk.ledger.next_size("plates") is None
    desk.ledger.finish(first)
    second = desk.reserve("e2")
    assert second.entry.message_id == "b"
    desk.ledger.release_all("e2")
    assert desk.reserve("e3").entry.message_id == "b"


def test_in_an_ordered_stream_a_message_that_is_tried_again_is_not_overtaken() -> None:
    desk = Desk(policy=RetryPolicy(max_attempts=2, is_ordered=True))
    for message_id in "ab":
        desk.put(message_id)
    desk.ledger.fail(desk.reserve(), ERROR, 0.0, 0.5)
    assert desk.take_all(0.1) == [] and desk.ledger.next_size("plates") is None
    again = desk.reserve(now=60.0)
    assert again.entry.message_id == "a"
    desk.ledger.fail(again, ERROR, 60.0, 0.5)
    assert desk.take_all(60.0) == ["b"], "the one before it is a dead letter"


def test_in_an_ordered_stream_nothing_overtakes_a_message_that_is_still_being_stored() -> None:
    desk = Desk(policy=RetryPolicy(is_ordered=True))
    large, refused, small = desk.entry("large"), desk.entry("refused"), desk.entry("small")
    for entry in (large, refused, small):
        desk.ledger.admit(entry.size_bytes)
        desk.ledger.put(entry, 0.0)
    desk.ledger.stored(small)
    assert desk.ledger.next_size("plates") is None
    desk.ledger.stored(large)
    desk.ledger.finish(desk.reserve())
    assert desk.ledger.next_size("plates") is None
    desk.ledger.abandon(refused)
    assert desk.reserve().entry is small


def test_a_stream_that_becomes_ordered_keeps_the_order_of_what_is_under_way() -> None:
    desk = Desk()
    large = desk.entry("large")
    desk.ledger.admit(large.size_bytes)
    desk.ledger.put(large, 0.0)
    desk.put("small")
    desk.ledger.set_policy("plates", RetryPolicy(is_ordered=True))
    assert desk.take_all() == []
    desk.ledger.stored(large)
    assert desk.reserve().entry is large


def test_in_an_ordered_stream_larger_priorities_still_go_first() -> None:
    desk = Desk(policy=RetryPolicy(is_ordered=True))
    desk.put("a")
    desk.ledger.fail(desk.reserve(), ERROR, 0.0, 0.5)
    desk.put("urgent", priority=1)
    assert desk.reserve(now=0.1).entry.message_id == "urgent"


def test_streams_do_not_see_each_other(desk: Desk) -> None:
    desk.put("a")
    assert desk.ledger.reserve("wells", "e1", 0.0) is None
    assert (desk.ledger.depth("plates"), desk.ledger.depth("wells")) == (1, 0)


def test_the_size_of_the_next_message_is_known_before_it_is_reserved(desk: Desk) -> None:
    assert desk.ledger.next_size("plates") is None
    desk.put("a", b"12345")
    desk.put("b", b"1", priority=1)
    assert desk.ledger.next_size("plates") == 1
    desk.reserve()
    assert desk.ledger.next_size("plates") == 5


def test_a_message_that_is_not_stored_yet_is_not_given_out(desk: Desk) -> None:
    entry = desk.entry("a")
    desk.ledger.admit(entry.size_bytes)
    desk.ledger.put(entry, 0.0)
    assert desk.ledger.reserve("plates", "e1", 0.0) is None
    assert desk.ledger.stored(entry).verdict is Verdict.READY
    assert desk.take_all() == ["a"]


# ── reservations ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_expired_reservation_makes_the_message_ready_again(desk: Desk) -> None:
    entry = desk.put("a")
    desk.reserve(now=0.0)
    assert desk.ledger.expire(59.9) == []
    assert [decision.verdict for decision in desk.ledger.expire(60.0)] == [Verdict.READY]
    assert desk.reserve(now=61.0).entry is entry
    assert entry.attempts == 0


def test_an_outcome_after_the_expiry_is_counted_and_changes_nothing(desk: Desk) -> None:
    entry = desk.put("a")
    late = desk.reserve("slow", now=0.0)
    desk.ledger.expire(100.0)
    current = desk.reserve("quick", now=100.0)
    assert desk.ledger.finish(late).verdict is Verdict.LATE
    assert desk.ledger.fail(late, ERROR, 100.0, 0.5).verdict is Verdict.LATE
    assert desk.ledger.release(late, 100.0, 0.5).verdict is Verdict.LATE
    assert desk.ledger.put_off(late, 100.0, 0.5).verdict is Verdict.LATE
    assert desk.ledger.bury(late, FATAL).verdict is Verdict.LATE
    assert (entry.attempts, entry.times_put_off, entry.state) == (0, 0, State.RESERVED)
    assert desk.ledger.figures("plates", 0.0).late_total == 5
    assert desk.ledger.finish(current).verdict is Verdict.SETTLING


def test_the_message_that_is_reserved_is_the_one_whose_size_was_told(desk: Desk) -> None:
    desk.put("large", bytes(1_000))
    desk.ledger.fail(desk.reserve(), ERROR, 0.0, 0.5)
    small = desk.put("small")
    assert desk.ledger.next_size("plates") == small.size_bytes
    reservation = desk.ledger.reserve("plates", "e1", 60.0)
    assert reservation is not None and reservation.entry is small


def test_the_end_of_a_connection_gives_everything_back_as_suspects_free_of_charge(desk: Desk) -> None:
    held = [desk.put("a"), desk.put("b")]
    other = desk.put("c")
    desk.reserve("e1")
    desk.reserve("e1")
    desk.reserve("e2")
    decisions = desk.ledger.release_all("e1")
    assert decisions == [Decision(Verdict.READY, entry, True) for entry in held]
    assert [(entry.is_suspect, entry.attempts, entry.crashes) for entry in held] == [(True, 0, 0)] * 2
    assert (other.state, other.is_suspect) == (State.RESERVED, False)
    assert desk.ledger.release_all("e1") == []


def test_a_reservation_says_which_attempt_it_is(desk: Desk) -> None:
    desk.put("a", attempts=1)
    assert desk.reserve().attempt == 2


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_message_is_ready_again_after_a_growing_delay(desk: Desk) -> None:
    entry = desk.put("a")
    assert desk.ledger.fail(desk.reserve(), ERROR, 100.0, jitter=0.5) == Decision(Verdict.READY, entry, True)
    assert entry.not_before == pytest.approx(100.15)
    assert desk.take_all(now=100.1) == []
    assert desk.ledger.depth("plates") == 0
    again = desk.reserve(now=100.2)
    desk.ledger.fail(again, ERROR, 100.2, jitter=0.5)
    assert entry.not_before == pytest.approx(100.5)


def test_the_delay_is_between_half_and_the_whole_of_the_back_off_and_has_an_end() -> None:
    desk = Desk(policy=RetryPolicy(1_000, 3, 60.0))
    entry = desk.put("a", attempts=900)
    desk.ledger.fail(desk.reserve(now=0.0), ERROR, 0.0, jitter=0.0)
    assert entry.not_before == BACK_OFF_MAX_S / 2
    desk.ledger.fail(desk.reserve(now=100.0), ERROR, 100.0, jitter=0.999)
    assert 100 + BACK_OFF_MAX_S * 0.99 < entry.not_before < 100 + BACK_OFF_MAX_S


def test_used_up_attempts_make_a_dead_letter_with_the_last_failure(desk: Desk) -> None:
    entry = desk.put("a")
    verdicts = []
    for attempt in range(3):
        decision = desk.ledger.fail(desk.reserve(now=attempt * 100.0), ERROR, attempt * 100.0, 0.5)
        verdicts.append(decision.verdict)
    assert verdicts == [Verdict.READY, Verdict.READY, Verdict.DEAD]
    assert (decision.failure, entry.state) == (ERROR, State.DEAD)
    assert desk.take_all(now=1e6) == []


def test_a_failure_that_is_not_retryable_makes_a_dead_letter_at_once(desk: Desk) -> None:
    desk.put("a")
    decision = desk.ledger.fail(desk.reserve(), FATAL, 0.0, 0.5)
    assert (decision.verdict, decision.failure) == (Verdict.DEAD, FATAL)


def test_a_message_that_is_given_back_waits_as_long_as_was_asked(desk: Desk) -> None:
    desk.put("a")
    assert not desk.ledger.release(desk.reserve(), 10.0, 0.5).has_changed
    assert desk.ledger.promote(10.4) == set()
    assert desk.ledger.promote(10.5) == {"plates"}
    assert desk.take_all() == ["a"]


def test_what_hosts_have_no_room_for_is_put_off_longer_each_time_and_never_makes_a_dead_letter(desk: Desk) -> None:
    entry = desk.put("a")
    now, pauses_s = 0.0, []
    for _ in range(12):
        decision = desk.ledger.put_off(desk.reserve(now=now), now, 0.99)
        assert (decision.verdict, decision.has_changed, entry.attempts) == (Verdict.READY, False, 0)
        pauses_s.append(entry.not_before - now)
        now = entry.not_before
    assert pauses_s[:3] == pytest.approx([0.1, 0.2, 0.4], rel=0.01)
    assert pauses_s[-1] == pytest.approx(BACK_OFF_MAX_S, rel=0.01)


def test_what_was_put_off_is_recalled_one_by_one_where_it_would_have_been_next(desk: Desk) -> None:
    for message_id in "abc":
        desk.put(message_id)
    for _ in "ab":
        desk.ledger.put_off(desk.reserve(), 0.0, 0.99)
    desk.put("urgent", b"now", priority=1)
    assert desk.ledger.put_off_size("plates") is None
    assert desk.reserve().entry.message_id == "urgent"
    assert desk.ledger.put_off_size("plates") == len(b"cells")
    desk.ledger.recall("plates")
    assert desk.ledger.put_off_size("plates") is None
    assert desk.take_all() == ["a", "c"]
    desk.ledger.recall("plates")
    assert desk.take_all() == ["b"]


def test_what_failed_is_not_recalled_although_it_was_put_off_before(desk: Desk) -> None:
    desk.put("a")
    desk.ledger.put_off(desk.reserve(), 0.0, 0.99)
    desk.ledger.fail(desk.reserve(now=1.0), ERROR, 1.0, 0.5)
    assert desk.ledger.put_off_size("plates") is None
    desk.ledger.recall("plates")
    assert desk.ledger.depth("plates") == 0


def test_used_up_crashes_make_a_dead_letter(desk: Desk) -> None:
    entry = desk.put("a")
    for _ in range(2):
        desk.reserve()
        desk.ledger.release_all("e1")
        (decision,) = desk.ledger.charge("plates", ["a"], 0.0, crashes=1)
        assert decision.verdict is Verdict.READY
    (decision,) = desk.ledger.charge("plates", ["a"], 0.0, crashes=1)
    assert decision.verdict is Verdict.DEAD and decision.failure is not None
    assert (decision.failure.error_type, entry.attempts, entry.is_suspect) == ("EngineCrashed", 0, True)


# ── time-outs and crashes that controllers report ────────────────────────────────────────────────────────────────────


def test_a_time_out_counts_an_attempt_of_a_waiting_message(desk: Desk) -> None:
    entry = desk.put("a")
    assert desk.ledger.charge("plates", ["a"], 0.0, attempts=1) == [Decision(Verdict.READY, entry, True)]
    assert entry.attempts == 1


def test_a_time_out_that_uses_up_the_attempts_makes_a_dead_letter_of_a_waiting_message(desk: Desk) -> None:
    desk.put("a", attempts=2)
    (decision,) = desk.ledger.charge("plates", ["a"], 0.0, attempts=1)
    assert decision.verdict is Verdict.DEAD and decision.failure is not None
    assert decision.failure.error_type == "TimedOut"
    assert desk.take_all() == []


def test_a_time_out_of_a_reserved_message_takes_effect_when_its_connection_ends(desk: Desk) -> None:
    desk.put("a", attempts=2)
    desk.reserve("e1")
    assert [each.verdict for each in desk.ledger.charge("plates", ["a"], 0.0, attempts=1)] == [Verdict.RESERVED]
    assert [each.verdict for each in desk.ledger.release_all("e1")] == [Verdict.DEAD]


def test_a_time_out_counts_for_a_message_that_arrives_only_later(desk: Desk) -> None:
    assert desk.ledger.charge("plates", ["a"], 0.0, attempts=1) == []
    assert desk.put("a").attempts == 1
    assert desk.put("b").attempts == 0


def test_a_message_that_arrives_after_its_last_time_out_is_a_dead_letter(desk: Desk) -> None:
    desk.ledger.charge("plates", ["a"], 0.0, attempts=1)
    entry = desk.entry("a", attempts=2)
    desk.ledger.admit(entry.size_bytes)
    verdict, failure = desk.ledger.put(entry, 0.0)
    assert verdict is PutVerdict.NEW and failure is not None
    assert desk.ledger.stored(entry, is_dead=True).verdict is Verdict.DEAD
    assert desk.ledger.figures("plates", 0.0).dead == 1


def test_a_time_out_while_the_message_is_being_stored_counts_too(desk: Desk) -> None:
    entry = desk.entry("a", attempts=2)
    desk.ledger.admit(entry.size_bytes)
    desk.ledger.put(entry, 0.0)
    desk.ledger.charge("plates", ["a"], 0.0, attempts=1)
    assert desk.ledger.stored(entry).verdict is Verdict.DEAD


def test_a_time_out_is_remembered_for_a_bounded_time(desk: Desk) -> None:
    desk.ledger.charge("plates", ["a"], 0.0, attempts=1)
    entry = desk.entry("a")
    desk.ledger.admit(entry.size_bytes)
    desk.ledger.put(entry, 3 * 3600.0)
    assert entry.attempts == 0


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_copy_of_a_message_is_recognised_in_every_state(desk: Desk) -> None:
    def second() -> PutVerdict:
        return desk.ledger.put(desk.entry("a"), 0.0)[0]

    entry = desk.entry("a")
    desk.ledger.admit(entry.size_bytes)
    desk.ledger.put(entry, 0.0)
    assert second() is PutVerdict.STORING
    desk.ledger.stored(entry)
    assert second() is PutVerdict.KNOWN
    reservation = desk.reserve()
    assert second() is PutVerdict.KNOWN
    desk.ledger.finish(reservation)
    assert second() is PutVerdict.KNOWN
    desk.ledger.settled(entry, 0.0)
    assert second() is PutVerdict.KNOWN


def test_a_second_copy_of_a_dead_letter_is_recognised(desk: Desk) -> None:
    desk.put("a")
    desk.ledger.bury(desk.reserve(), FATAL)
    assert desk.ledger.put(desk.entry("a"), 0.0)[0] is PutVerdict.KNOWN


def test_other_bytes_under_the_same_id_are_a_conflict(desk: Desk) -> None:
    desk.put("a", b"one")
    desk.process("b")
    assert desk.ledger.put(desk.entry("a", b"two"), 0.0)[0] is PutVerdict.CONFLICT
    assert desk.ledger.put(desk.entry("a", b"more"), 0.0)[0] is PutVerdict.CONFLICT
    assert desk.ledger.put(desk.entry("b", b"other"), 0.0)[0] is PutVerdict.CONFLICT


def test_the_same_id_in_another_stream_is_another_message(desk: Desk) -> None:
    desk.put("a", b"one")
    assert desk.put("a", b"two", stream="wells").state is State.READY


def test_a_finished_message_is_remembered_for_a_day(desk: Desk) -> None:
    desk.process("a", wall=1_000.0)
    assert desk.ledger.is_finished("plates", "a", 1_000.0 + DAY_S - 1)
    entry = desk.entry("a", put_at=1_000.0 + DAY_S - 1)
    assert desk.ledger.put(entry, 0.0)[0] is PutVerdict.KNOWN
    assert desk.put("a", put_at=1_000.0 + 3 * DAY_S).state is State.READY


def test_a_finished_message_of_an_earlier_run_is_remembered(desk: Desk) -> None:
    desk.ledger.restore_finished(Finished("plates", "a", digest_of(b"cells"), 1_000.0))
    assert desk.ledger.put(desk.entry("a", put_at=2_000.0), 0.0)[0] is PutVerdict.KNOWN


def test_an_id_is_free_again_when_its_message_could_not_be_stored(desk: Desk) -> None:
    entry = desk.entry("a")
    desk.ledger.admit(entry.size_bytes)
    desk.ledger.put(entry, 0.0)
    desk.ledger.abandon(entry)
    assert desk.ledger.budget.messages == 0
    assert desk.put("a", b"other").state is State.READY


# ── given up by the source ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attempts, is_given_up, failure", [(0, True, ERROR), (0, True, None), (3, False, ERROR)])
def test_a_message_that_its_source_gave_up_is_a_dead_letter(
    desk: Desk, attempts: int, is_given_up: bool, failure: Failure | None
) -> None:
    entry = desk.entry("a", attempts=attempts)
    desk.ledger.admit(entry.size_bytes)
    verdict, reason = desk.ledger.put(entry, 0.0, is_given_up=is_given_up, failure=failure)
    assert verdict is PutVerdict.NEW and reason is not None
    assert failure is None or reason is failure
    desk.ledger.stored(entry, is_dead=True)
    assert entry.state is State.DEAD


def test_an_earlier_failure_alone_makes_no_dead_letter(desk: Desk) -> None:
    entry = desk.entry("a", attempts=1)
    desk.ledger.admit(entry.size_bytes)
    assert desk.ledger.put(entry, 0.0, failure=ERROR) == (PutVerdict.NEW, None)


# ── budget ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_backlog_refuses_and_takes_again_when_something_has_left() -> None:
    desk = Desk(LedgerLimits(max_bytes=2 * (100 + ENTRY_OVERHEAD_BYTES)))
    first = desk.put("a", bytes(100))
    desk.put("b", bytes(100))
    refusal = desk.ledger.admit(100)
    assert refusal is not None and refusal.retry_after_s > 0
    desk.ledger.finish(desk.reserve())
    assert desk.ledger.admit(100) is not None
    desk.ledger.settled(first, 0.0)
    assert desk.ledger.admit(100) is None


def test_the_number_of_messages_is_bounded_and_arriving_ones_count() -> None:
    ledger = Ledger(LedgerLimits(max_messages=2))
    assert [ledger.admit(0) is None for _ in range(3)] == [True, True, False]
    ledger.withdraw(0)
    assert ledger.admit(0) is None


def test_dead_letters_that_fill_their_budget_stop_the_intake_and_are_kept() -> None:
    desk = Desk(LedgerLimits(dead_letter_bytes=1_000))
    desk.put("a", bytes(2_000))
    desk.ledger.bury(desk.reserve(), FATAL)
    refusal = desk.ledger.admit(1)
    assert refusal is not None and "Dead letters" in refusal.text
    assert desk.ledger.figures("plates", 0.0).dead == 1


def test_metadata_has_a_budget_of_its_own_because_it_stays_in_memory() -> None:
    desk = Desk(LedgerLimits(section_bytes=1_000))
    desk.put("a", section=bytes(1_001))
    refusal = desk.ledger.admit(1)
    assert refusal is not None and "metadata" in refusal.text


def test_what_an_earlier_run_has_left_is_never_refused() -> None:
    ledger = Ledger(LedgerLimits(max_messages=1))
    for sequence in (4, 9):
        ledger.restore(Entry("plates", f"m{sequence}", sequence, 10), is_dead=False)
    ledger.restore(Entry("plates", "m11", 11, 10), is_dead=True)
    assert ledger.draw_sequence() == 12
    assert ledger.depth("plates") == 2
    assert ledger.figures("plates", 0.0).dead == 1
    assert ledger.admit(0) is not None


# ── figures and streams ──────────────────────────────────────────────────────────────────────────────────────────────


def test_figures_tell_what_waits_what_is_held_and_what_is_dead(desk: Desk) -> None:
    for number, message_id in enumerate("abcde"):
        desk.put(message_id, bytes(10), put_at=100.0 + number)
    desk.ledger.bury(desk.reserve(), FATAL)
    desk.ledger.fail(desk.reserve(), ERROR, 0.0, 0.5)
    finished = desk.reserve()
    desk.ledger.finish(finished)
    desk.ledger.settled(finished.entry, 0.0)
    desk.reserve()
    figures = desk.ledger.figures("plates", wall=111.0)
    assert (figures.ready, figures.reserved, figures.dead, figures.waiting_bytes) == (2, 1, 1, 30)
    assert (figures.oldest_age_s, figures.stored_total, figures.done_total) == (10.0, 5, 1)


def test_figures_of_an_unknown_stream_are_zero(desk: Desk) -> None:
    figures = desk.ledger.figures("nobody", 0.0)
    assert (figures.ready, figures.reserved, figures.dead, figures.oldest_age_s) == (0, 0, 0, 0.0)


def test_a_dropped_stream_gives_everything_back(desk: Desk) -> None:
    desk.process("z")
    for message_id in "abcd":
        desk.put(message_id)
    desk.put("other", stream="wells")
    storing = desk.entry("s")
    desk.ledger.admit(storing.size_bytes)
    desk.ledger.put(storing, 0.0)
    held = desk.reserve()
    desk.ledger.fail(desk.reserve(), ERROR, 0.0, 0.5)
    desk.ledger.bury(desk.reserve(), FATAL)
    assert desk.ledger.drop_stream("plates") == 5
    assert desk.ledger.budget.messages == 1 and desk.ledger.budget.dead_bytes == 0
    assert desk.ledger.finish(held).verdict is Verdict.LATE
    assert desk.ledger.stored(storing).verdict is Verdict.LATE
    assert desk.ledger.promote(1e9) == set()
    assert desk.put("z", b"anew").state is State.READY
    assert desk.ledger.drop_stream("nobody") == 0


def test_many_small_messages_are_held_and_given_out_in_order() -> None:
    desk = Desk()
    count = 50_000
    for number in range(count):
        entry = Entry("plates", f"{number:08x}", desk.ledger.draw_sequence(), 10, priority=number % 7)
        desk.ledger.admit(10)
        desk.ledger.put(entry, 0.0)
        desk.ledger.stored(entry)
    last = (7, 0)
    for _ in range(count):
        reservation = desk.reserve()
        entry = reservation.entry
        assert (-entry.priority, entry.sequence) > (-last[0], last[1])
        last = (entry.priority, entry.sequence)
        desk.ledger.finish(reservation)
        desk.ledger.settled(entry, 0.0)
    assert desk.ledger.budget.used_bytes == 0
