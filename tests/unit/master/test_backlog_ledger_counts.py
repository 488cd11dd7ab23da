"""The ledger: what is charged to messages, what is remembered of them, and the room that they take."""

from __future__ import annotations

import pytest

from benches.ledger import DAY_S, ERROR, FATAL, Desk
from harmonicio.core.message import Failure
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import (
    ENTRY_OVERHEAD_BYTES,
    Charge,
    Decision,
    Entry,
    Finished,
    PutVerdict,
    State,
    Verdict,
)
from harmonicio.master.backlog.ledger import Ledger


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ── time-outs and crashes that controllers report ────────────────────────────────────────────────────────────────────


def test_a_time_out_counts_an_attempt_of_a_waiting_message(desk: Desk) -> None:
    entry = desk.put("a")
    assert desk.ledger.charge("plates", ["a"], Charge(attempts=1), 0.0) == [Decision(Verdict.READY, entry, True)]
    assert entry.attempts == 1


def test_a_time_out_that_uses_up_the_attempts_makes_a_dead_letter_of_a_waiting_message(desk: Desk) -> None:
    desk.put("a", attempts=2)
    (decision,) = desk.ledger.charge("plates", ["a"], Charge(attempts=1), 0.0)
    assert decision.verdict is Verdict.DEAD and decision.failure is not None
    assert decision.failure.error_type == "TimedOut"
    assert desk.take_all() == []


def test_a_time_out_of_a_reserved_message_takes_effect_when_its_connection_ends(desk: Desk) -> None:
    desk.put("a", attempts=2)
    desk.reserve("e1")
    assert [each.verdict for each in desk.ledger.charge("plates", ["a"], Charge(attempts=1), 0.0)] == [Verdict.RESERVED]
    assert [each.verdict for each in desk.ledger.release_all("e1")] == [Verdict.DEAD]


def test_a_time_out_counts_for_a_message_that_arrives_only_later(desk: Desk) -> None:
    assert desk.ledger.charge("plates", ["a"], Charge(attempts=1), 0.0) == []
    assert desk.put("a").attempts == 1
    assert desk.put("b").attempts == 0


def test_a_message_that_arrives_after_its_last_time_out_is_a_dead_letter(desk: Desk) -> None:
    desk.ledger.charge("plates", ["a"], Charge(attempts=1), 0.0)
    entry = desk.entry("a", attempts=2)
    desk.ledger.admit(entry.size_bytes)
    verdict, failure = desk.ledger.put(entry, 0.0)
    assert verdict is PutVerdict.NEW and failure is not None
    assert desk.ledger.stored(entry, FATAL).verdict is Verdict.DEAD
    assert desk.ledger.books.figures("plates", 0.0).dead == 1


def test_a_time_out_while_the_message_is_being_stored_counts_too(desk: Desk) -> None:
    entry = desk.entry("a", attempts=2)
    desk.ledger.admit(entry.size_bytes)
    desk.ledger.put(entry, 0.0)
    desk.ledger.charge("plates", ["a"], Charge(attempts=1), 0.0)
    assert desk.ledger.stored(entry).verdict is Verdict.DEAD


def test_what_is_charged_counts_again_for_the_copy_that_follows_one_that_could_not_be_stored(desk: Desk) -> None:
    desk.ledger.charge("plates", ["a"], Charge(crashes=1), 0.0)
    for crashes in (1, 2):
        entry = desk.entry("a")
        desk.ledger.admit(entry.size_bytes)
        desk.ledger.put(entry, 0.0)
        assert entry.crashes == crashes
        desk.ledger.charge("plates", ["a"], Charge(crashes=1), 0.0)
        assert entry.crashes == crashes + 1
        desk.ledger.abandon(entry)
    entry = desk.entry("a")
    desk.ledger.admit(entry.size_bytes)
    _, failure = desk.ledger.put(entry, 0.0)
    assert (entry.crashes, failure is not None) == (3, True)


def test_what_was_charged_counts_once_for_a_message_that_is_stored(desk: Desk) -> None:
    desk.ledger.charge("plates", ["a"], Charge(crashes=1), 0.0)
    entry = desk.put("a")
    desk.ledger.books.shed(entry)
    desk.ledger.shed(entry, 0.0)
    assert desk.put("a").crashes == 0


def test_a_time_out_is_remembered_for_a_bounded_time(desk: Desk) -> None:
    desk.ledger.charge("plates", ["a"], Charge(attempts=1), 0.0)
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
    desk.process("a", now=1_000.0)
    last = 1_000.0 + DAY_S - 1
    assert desk.ledger.is_finished("plates", "a", last)
    assert desk.ledger.put(desk.entry("a"), last)[0] is PutVerdict.KNOWN
    assert desk.put("a", now=1_000.0 + 3 * DAY_S).state is State.READY


def test_a_finished_message_of_an_earlier_run_is_remembered(desk: Desk) -> None:
    desk.ledger.restore_finished(Finished("plates", "a", digest_of(b"cells"), 1_000.0), 50.0, age_s=DAY_S / 2)
    assert desk.ledger.put(desk.entry("a"), 50.0)[0] is PutVerdict.KNOWN
    assert desk.put("a", now=50.0 + 2 * DAY_S).state is State.READY


def test_an_id_is_free_again_when_its_message_could_not_be_stored(desk: Desk) -> None:
    entry = desk.entry("a")
    desk.ledger.admit(entry.size_bytes)
    desk.ledger.put(entry, 0.0)
    desk.ledger.abandon(entry)
    assert desk.ledger.books.budget.messages == 0
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
    desk.ledger.stored(entry, FATAL)
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
    assert desk.ledger.books.figures("plates", 0.0).dead == 1


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
    assert ledger.books.depth("plates") == 2
    assert ledger.books.figures("plates", 0.0).dead == 1
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
    figures = desk.ledger.books.figures("plates", wall=111.0)
    assert (figures.ready, figures.reserved, figures.dead, figures.waiting_bytes) == (2, 1, 1, 30)
    assert (figures.oldest_age_s, figures.stored_total, figures.done_total) == (10.0, 5, 1)


def test_figures_of_an_unknown_stream_are_zero(desk: Desk) -> None:
    figures = desk.ledger.books.figures("nobody", 0.0)
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
    assert desk.ledger.drop_stream("plates", desk.ledger.draw_sequence()) == 5
    assert desk.ledger.books.budget.messages == 1 and desk.ledger.books.budget.dead_bytes == 0
    assert desk.ledger.finish(held).verdict is Verdict.LATE
    assert desk.ledger.stored(storing).verdict is Verdict.LATE
    assert desk.ledger.promote(1e9) == set()
    assert desk.put("z", b"anew").state is State.READY
    assert desk.ledger.drop_stream("nobody", 1_000) == 0


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
    assert desk.ledger.books.budget.used_bytes == 0


def test_ids_are_remembered_for_a_day_from_the_end_of_their_messages_and_the_latest_half_of_what_is_kept() -> None:
    desk = Desk(LedgerLimits(max_finished_ids=100))
    for number in range(1_000):
        desk.process(f"m{number}", now=DAY_S - 1.0)
    late = 2 * DAY_S - 2.0
    for number in range(950, 1_000):
        assert desk.ledger.is_finished("plates", f"m{number}", late), "it was put two days ago, and has ended one ago"
    assert not desk.ledger.is_finished("plates", "m0", late)
