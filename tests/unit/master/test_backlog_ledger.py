"""The ledger: which messages wait, who holds them, and what becomes of them."""

from __future__ import annotations

import pytest

from benches.ledger import ERROR, FATAL, Desk
from harmonicio.core.message import MAX_PRIORITY, MIN_PRIORITY
from harmonicio.master.backlog.entry import (
    Charge,
    Decision,
    RetryPolicy,
    State,
    Verdict,
)
from harmonicio.master.backlog.ledger import BACK_OFF_MAX_S


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
    assert desk.take_all() == [] and desk.ledger.books.next_size("plates") is None
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
    assert desk.take_all(0.1) == [] and desk.ledger.books.next_size("plates") is None
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
    assert desk.ledger.books.next_size("plates") is None
    desk.ledger.stored(large)
    desk.ledger.finish(desk.reserve())
    assert desk.ledger.books.next_size("plates") is None
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
    assert (desk.ledger.books.depth("plates"), desk.ledger.books.depth("wells")) == (1, 0)


def test_the_size_of_the_next_message_is_known_before_it_is_reserved(desk: Desk) -> None:
    assert desk.ledger.books.next_size("plates") is None
    desk.put("a", b"12345")
    desk.put("b", b"1", priority=1)
    assert desk.ledger.books.next_size("plates") == 1
    desk.reserve()
    assert desk.ledger.books.next_size("plates") == 5


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
    assert desk.ledger.books.figures("plates", 0.0).late_total == 5
    assert desk.ledger.finish(current).verdict is Verdict.SETTLING


def test_the_message_that_is_reserved_is_the_one_whose_size_was_told(desk: Desk) -> None:
    desk.put("large", bytes(1_000))
    desk.ledger.fail(desk.reserve(), ERROR, 0.0, 0.5)
    small = desk.put("small")
    assert desk.ledger.books.next_size("plates") == small.size_bytes
    reservation = desk.ledger.reserve("plates", "e1", 60.0)
    assert reservation is not None and reservation.entry is small


def test_the_end_of_a_connection_gives_everything_back_as_suspects_free_of_charge(desk: Desk) -> None:
    held = [desk.put("a"), desk.put("b")]
    other = desk.put("c")
    for _ in held:
        desk.ledger.sending(desk.reserve("e1"))
    desk.reserve("e2")
    decisions = desk.ledger.release_all("e1")
    assert decisions == [Decision(Verdict.READY, entry, True) for entry in held]
    assert [(entry.is_suspect, entry.attempts, entry.crashes) for entry in held] == [(True, 0, 0)] * 2
    assert (other.state, other.is_suspect) == (State.RESERVED, False)
    assert desk.ledger.release_all("e1") == []


def test_what_was_not_sent_when_a_connection_ends_is_no_suspect(desk: Desk) -> None:
    sent, begun, assigned = (desk.put(each) for each in "abc")
    first, second = desk.reserve("e1"), desk.reserve("e1")
    desk.reserve("e1")
    assert desk.ledger.sending(first) and desk.ledger.sending(second)
    desk.ledger.sent(first, 0.0)
    decisions = desk.ledger.release_all("e1")
    assert decisions == [
        Decision(Verdict.READY, entry, has_changed)
        for entry, has_changed in ((sent, True), (begun, True), (assigned, False))
    ]
    assert [entry.is_suspect for entry in (sent, begun, assigned)] == [True, True, False]


def test_a_reservation_says_which_attempt_it_is(desk: Desk) -> None:
    desk.put("a", attempts=1)
    assert desk.reserve().attempt == 2


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_message_is_ready_again_after_a_growing_delay(desk: Desk) -> None:
    entry = desk.put("a")
    assert desk.ledger.fail(desk.reserve(), ERROR, 100.0, jitter=0.5) == Decision(Verdict.READY, entry, True)
    assert entry.not_before == pytest.approx(100.15)
    assert desk.take_all(now=100.1) == []
    assert desk.ledger.books.depth("plates") == 0
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
    assert desk.ledger.books.put_off_size("plates") is None
    assert desk.reserve().entry.message_id == "urgent"
    assert desk.ledger.books.put_off_size("plates") == len(b"cells")
    desk.ledger.recall("plates")
    assert desk.ledger.books.put_off_size("plates") is None
    assert desk.take_all() == ["a", "c"]
    desk.ledger.recall("plates")
    assert desk.take_all() == ["b"]


def test_what_failed_is_not_recalled_although_it_was_put_off_before(desk: Desk) -> None:
    desk.put("a")
    desk.ledger.put_off(desk.reserve(), 0.0, 0.99)
    desk.ledger.fail(desk.reserve(now=1.0), ERROR, 1.0, 0.5)
    assert desk.ledger.books.put_off_size("plates") is None
    desk.ledger.recall("plates")
    assert desk.ledger.books.depth("plates") == 0


def test_used_up_crashes_make_a_dead_letter(desk: Desk) -> None:
    entry = desk.put("a")
    for _ in range(2):
        desk.ledger.sending(desk.reserve())
        desk.ledger.release_all("e1")
        (decision,) = desk.ledger.charge("plates", ["a"], Charge(crashes=1), 0.0)
        assert decision.verdict is Verdict.READY
    (decision,) = desk.ledger.charge("plates", ["a"], Charge(crashes=1), 0.0)
    assert decision.verdict is Verdict.DEAD and decision.failure is not None
    assert (decision.failure.error_type, entry.attempts, entry.is_suspect) == ("EngineCrashed", 0, True)
