"""Dispatch: the rules of delivery, one sentence each."""

from __future__ import annotations

import pytest

from benches.dispatch import Bench, Nobody
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import keeping_timeout_s
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.dispatch import (
    FEW_MESSAGES,
    MAX_REJECTIONS,
    SEEK_AFTER_S,
    SEEK_BEYOND_IDLE_S,
)
from harmonicio.stream_connector.held_back import HOLD_FIRST_S, HOLD_MAX_S
from harmonicio.stream_connector.lanes import FIRST_MESSAGES, GRACE_S, LOOP_GAP_S, TOGETHER_BYTES, Parcel
from harmonicio.wire.outcomes import DONE, STORED

#: Why an engine may not take a message now.
REASONS = [RejectReason.NO_CREDIT, RejectReason.CHECKSUM, RejectReason.STORAGE, RejectReason.NOT_KEPT]

# ── to engines ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_goes_at_once_to_an_engine_that_can_take_it_unless_others_wait() -> None:
    bench = Bench()
    engine = bench.lane(messages=2)
    parcels = [Parcel(Delivery(Nobody(), f"m-{number}", 10), None) for number in range(3)]
    assert bench.dispatch.offer(parcels[0], bench.now) is engine
    bench.offer(size=10**6 + 1)
    assert bench.dispatch.offer(parcels[1], bench.now) is None, "the larger one was there before"
    assert bench.dispatch.waiting == 2
    assert bench.dispatch.offer(parcels[2], bench.now) is None
    bench.credit(engine, 4, 10**7)
    assert [parcel.size_bytes for parcel in bench.written(engine)] == [10, 10**6 + 1, 10, 10]
    assert parcels[0].offered_at < parcels[1].offered_at < parcels[2].offered_at, "no two have the same time"


def test_larger_messages_in_a_loop_gather_until_they_are_worth_a_call() -> None:
    bench = Bench()
    engine = bench.lane(messages=100, size=2**30)
    for _ in range(10):
        bench.offer(size=100)
    bench.written(engine)
    third = TOGETHER_BYTES // 3
    assert [engine.can_wait(bench.offer(size=third)) for _ in range(4)] == [True, True, True, False]
    bench.written(engine)
    assert not engine.can_wait(bench.offer(size=TOGETHER_BYTES + 1)), "it is large"


def test_small_messages_in_a_loop_gather_until_they_are_as_many_as_the_receiver_has_to_do() -> None:
    bench = Bench()
    engine = bench.lane(messages=100)
    first = bench.offer(size=100)
    bench.written(engine)
    assert not engine.can_wait(first), "the receiver has nothing else to do"
    assert engine.can_wait(bench.offer(size=100))
    second = bench.offer(size=100)
    assert not engine.can_wait(second), "two wait, and one was sent"
    bench.written(engine)
    assert [engine.can_wait(bench.offer(size=100)) for _ in range(4)] == [True, True, True, False]
    bench.written(engine)
    bench.wait(LOOP_GAP_S)
    assert not engine.can_wait(bench.offer(size=100)), "its source is in no hurry"
    bench.wait(LOOP_GAP_S)
    waited = Parcel(Delivery(Nobody(), "m", 10), None)
    waited.is_in_loop = True
    assert bench.dispatch.offer(waited, bench.now) is engine
    assert engine.can_wait(waited), "its source had to wait for room, and will go on"


def test_messages_wait_for_credit_and_go_in_the_order_in_which_they_were_offered() -> None:
    bench = Bench()
    engine = bench.lane()
    parcels = [bench.offer() for _ in range(3)]
    assert bench.dispatch.waiting == 3
    assert bench.credit(engine, 2) == [engine]
    assert bench.written(engine) == parcels[:2]
    assert [each.delivery.state for each in parcels] == ["in_flight", "in_flight", "waiting"]


def test_what_has_a_higher_priority_goes_first() -> None:
    bench = Bench()
    engine = bench.lane()
    low, usual, urgent, next_usual = (bench.offer(priority=priority) for priority in (-5, 0, 9, 0))
    bench.credit(engine, 4)
    assert bench.written(engine) == [urgent, usual, next_usual, low]


def test_a_message_of_low_priority_loses_its_patience_in_time_however_many_go_before_it() -> None:
    bench = Bench(patience_s=1.0)
    engine, master = bench.lane(messages=1), bench.lane(is_backlog=True, messages=10)
    running, low = bench.offer(), bench.offer(priority=-1)
    bench.wait(0.9)
    usual = bench.offer()
    bench.wait(0.2)
    assert (bench.written(engine), bench.written(master)) == ([running], [low])
    assert usual.delivery.state == "waiting"


def test_a_message_of_low_priority_loses_its_patience_although_engines_answer_quickly() -> None:
    bench = Bench()
    engine, master = bench.lane(messages=1), bench.lane(is_backlog=True, messages=10)
    bench.offer(priority=5)
    low = bench.offer()
    for number in range(200):
        bench.offer(priority=5)
        bench.wait(0.005)
        bench.answer(engine, number, DONE)
        bench.credit(engine, number + 2)
    assert bench.written(master) == [low]


def test_a_rejected_message_comes_back_before_those_of_its_priority() -> None:
    bench = Bench()
    engine = bench.lane(messages=1)
    rejected, urgent, usual = bench.offer(), bench.offer(priority=1), bench.offer()
    bench.answer(engine, 0, Outcome(OutcomeKind.REJECTED, reason=RejectReason.NO_CREDIT))
    bench.written(engine)
    bench.credit(engine, 4)
    assert bench.written(engine) == [urgent, rejected, usual]


def test_the_engine_with_the_least_to_do_is_next() -> None:
    bench = Bench()
    engines = [bench.lane(messages=10) for _ in range(3)]
    for _ in range(6):
        bench.offer()
    assert [len(bench.written(engine)) for engine in engines] == [2, 2, 2]
    bench.answer(engines[1], 0, DONE)
    third = bench.offer()
    assert bench.written(engines[1]) == [third]


def test_a_message_beyond_the_credits_bytes_goes_alone() -> None:
    bench = Bench()
    engine = bench.lane(messages=10, size=500)
    first, second = bench.offer(400), bench.offer(5000)
    assert bench.written(engine) == [first]
    bench.answer(engine, 0, DONE)
    assert bench.written(engine) == [second]


def test_a_message_larger_than_the_stream_takes_is_rejected_without_being_sent() -> None:
    bench = Bench()
    engine = bench.lane(messages=10, limit=100)
    parcel = bench.offer(101)
    (settled,) = bench.dispatch.take_settled()
    assert list(settled.parcels) == [parcel]
    assert settled.outcome.reason is RejectReason.TOO_LARGE
    assert not engine.outbox
    assert bench.dispatch.used_bytes == 0


def test_engines_are_wanted_when_the_window_is_full_for_more_than_a_moment() -> None:
    bench = Bench()
    bench.offer()
    assert bench.dispatch.wants_engines(bench.now), "there is none at all"
    engine = bench.lane()
    assert not bench.dispatch.wants_engines(bench.now)
    assert not bench.dispatch.wants_engines(bench.now + SEEK_AFTER_S), "it has nothing to do and will give credit soon"
    assert bench.dispatch.wants_engines(bench.now + SEEK_BEYOND_IDLE_S)
    bench.credit(engine, 1)
    bench.offer()
    assert not bench.dispatch.wants_engines(bench.now)
    assert bench.dispatch.next_due_s(bench.now) == pytest.approx(SEEK_AFTER_S)
    assert bench.dispatch.wants_engines(bench.now + SEEK_AFTER_S)


def test_engines_are_wanted_at_once_when_each_has_more_than_a_few_messages_to_do() -> None:
    bench = Bench()
    engines = [bench.lane(messages=100) for _ in range(2)]
    for _ in range(2 * FEW_MESSAGES):
        bench.offer()
    assert not bench.dispatch.wants_engines(bench.now)
    bench.offer()
    assert bench.dispatch.wants_engines(bench.now)
    bench.answer(engines[0], 0, DONE)
    assert not bench.dispatch.wants_engines(bench.now)


def test_as_many_engines_are_lacking_as_messages_wait_or_as_would_have_a_few_each() -> None:
    bench = Bench(patience_s=60.0)
    bench.lane(messages=5 * FEW_MESSAGES)
    for _ in range(5 * FEW_MESSAGES):
        bench.offer()
    assert bench.dispatch.engines_lacking(bench.now) == 4
    for _ in range(9):
        bench.offer()
    assert bench.dispatch.engines_lacking(bench.now) == 4, "they wait for a moment only"
    assert bench.dispatch.engines_lacking(bench.now + SEEK_AFTER_S) == 9


def test_credit_that_quick_messages_have_earned_is_not_used_up_at_once_while_there_are_other_engines() -> None:
    bench = Bench(budget_bytes=10**9, patience_s=60.0)
    quick = bench.lane(messages=10_000, size=10**9)
    other = bench.lane(messages=1)
    for _ in range(500):
        bench.offer()
    assert [len(lane.in_flight) for lane in (quick, other)] == [FIRST_MESSAGES, 1]
    for sequence in range(10):
        bench.answer(quick, sequence, DONE)
    assert len(quick.in_flight) == FIRST_MESSAGES + 2 * 10, "it answers quickly: it gets more"
    bench.wait(1.0)
    bench.answer(quick, 10, DONE)
    assert len(quick.in_flight) == FIRST_MESSAGES + 2 * 10 - 1, "it has become slow"


def test_the_only_engine_that_can_be_had_gets_what_it_has_credit_for() -> None:
    bench = Bench(budget_bytes=10**9, patience_s=60.0)
    bench.dispatch.engines_from = bench.now + 1.0
    engine = bench.lane(messages=10_000, size=10**9)
    for _ in range(500):
        bench.offer()
    assert len(engine.in_flight) == 500


def test_a_draining_engine_gets_nothing_new() -> None:
    bench = Bench()
    engine = bench.lane(messages=10)
    bench.offer()
    engine.is_draining = True
    bench.offer()
    assert len(engine.in_flight) == 1
    assert bench.dispatch.waiting == 1


@pytest.mark.parametrize("reason", REASONS)
def test_a_message_that_an_engine_could_not_take_goes_to_another(reason: RejectReason) -> None:
    bench = Bench()
    first = bench.lane(messages=1)
    parcel = bench.offer()
    second = bench.lane(messages=1)
    bench.answer(first, 0, Outcome(OutcomeKind.REJECTED, reason=reason))
    assert bench.written(second) == [parcel]
    assert bench.dispatch.resent == 1
    assert not parcel.is_for_master


def test_engines_that_did_not_take_a_message_are_asked_last() -> None:
    bench = Bench()
    first, second, third = (bench.lane(messages=10) for _ in range(3))
    parcel = bench.offer()
    for lane in (first, second):
        assert bench.written(lane) == [parcel]
        bench.answer(lane, 0, Outcome.rejected(RejectReason.STORAGE, "full"))
        bench.wait(HOLD_MAX_S)
    assert bench.written(third) == [parcel]


@pytest.mark.parametrize("reason", REASONS)
def test_a_message_that_engines_reject_again_and_again_goes_to_the_master(reason: RejectReason) -> None:
    bench = Bench(patience_s=60.0)
    engine, master = bench.lane(messages=100), bench.lane(is_backlog=True, messages=100)
    parcel = bench.offer()
    for sequence in range(MAX_REJECTIONS):
        assert bench.written(engine) == [parcel]
        bench.answer(engine, sequence, Outcome(OutcomeKind.REJECTED, reason=reason))
        bench.wait(HOLD_MAX_S)
    assert not bench.written(engine)
    assert bench.written(master) == [parcel]


def test_a_message_that_is_rejected_again_and_again_is_held_back_longer_each_time() -> None:
    bench = Bench(patience_s=0.0)
    master = bench.lane(is_backlog=True, messages=100)
    parcel = bench.offer()
    pauses = []
    for sequence in range(12):
        assert bench.written(master) == [parcel]
        bench.answer(master, sequence, Outcome(OutcomeKind.REJECTED, reason=RejectReason.CHECKSUM))
        if not master.outbox:
            assert bench.dispatch.waiting == 1
            pause_s = bench.dispatch.next_due_s(bench.now)
            assert pause_s is not None
            pauses.append(pause_s)
            bench.wait(pause_s)
    assert pauses[0] == pytest.approx(HOLD_FIRST_S), "the second time: another receiver had its try"
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(HOLD_MAX_S)
    bench.written(master)
    bench.answer(master, 12, STORED)
    assert [each for settled in bench.dispatch.take_settled() for each in settled.parcels] == [parcel]
    assert bench.dispatch.used_bytes == bench.dispatch.waiting_bytes == 0


def test_a_message_that_is_held_back_delays_no_other_and_is_not_forgotten_when_the_connector_closes() -> None:
    bench = Bench(patience_s=60.0)
    engine = bench.lane(messages=100)
    bad = bench.offer()
    for sequence in range(2):
        bench.written(engine)
        bench.answer(engine, sequence, Outcome(OutcomeKind.REJECTED, reason=RejectReason.CHECKSUM))
    good = bench.offer()
    assert bench.written(engine) == [good]
    assert set(map(id, bench.dispatch.withdraw_all())) == {id(bad), id(good)}
    assert bench.dispatch.waiting == 0


def test_an_id_conflict_is_final() -> None:
    bench = Bench()
    engine = bench.lane(messages=1)
    bench.offer()
    bench.answer(engine, 0, Outcome(OutcomeKind.REJECTED, reason=RejectReason.ID_CONFLICT))
    assert len(bench.dispatch.take_settled()) == 1
    assert bench.dispatch.waiting == 0


def test_an_engine_that_is_silent_for_longer_than_a_handler_may_take_is_overdue() -> None:
    bench = Bench()
    bench.dispatch.handler_timeout_s = 5.0
    engine = bench.lane(messages=2)
    bench.offer()
    bench.wait(5.0)
    bench.offer()
    beyond_s = keeping_timeout_s(5.0) + GRACE_S
    assert bench.dispatch.overdue(bench.now - 1e-3 + beyond_s) == []
    assert bench.dispatch.overdue(bench.now + beyond_s + 0.1) == [engine]
    bench.answer(engine, 0, DONE)
    assert bench.dispatch.overdue(bench.now + beyond_s + 0.1) == []


def test_an_engine_whose_message_takes_nearly_all_its_time_in_the_handler_and_to_be_kept_is_not_given_up() -> None:
    bench = Bench()
    bench.dispatch.handler_timeout_s = 600.0
    bench.lane(messages=2)
    bench.offer()
    assert bench.dispatch.overdue(bench.now + 0.9 * 600.0 + 0.9 * keeping_timeout_s(600.0)) == []


def test_a_healthy_engine_is_not_given_up_for_what_it_holds_behind_a_long_message() -> None:
    bench = Bench()
    bench.dispatch.handler_timeout_s = 5.0
    engine = bench.lane(messages=2)
    bench.offer()
    bench.offer()
    bench.wait(5.0)
    bench.answer(engine, 0, DONE)
    assert bench.dispatch.overdue(bench.now + 5.0) == [], "the second one has been worked on only since then"
    assert bench.dispatch.overdue(bench.now + 5.0 + keeping_timeout_s(5.0) + GRACE_S + 0.1) == [engine]


def test_an_engine_is_not_given_up_while_a_large_message_is_still_being_sent() -> None:
    bench = Bench()
    bench.dispatch.handler_timeout_s = 5.0
    engine = bench.lane(messages=2)
    large = bench.offer(50_000_000)
    assert bench.dispatch.overdue(bench.now + 10_000) == []
    large.sent_at = bench.now + 1_000  # As the connection says when the last byte has left.
    assert bench.dispatch.overdue(bench.now + 1_005) == []
    assert bench.dispatch.overdue(bench.now + 1_005 + keeping_timeout_s(5.0) + GRACE_S + 0.1) == [engine]


def test_what_is_offered_at_the_same_moment_keeps_its_order_when_it_comes_back() -> None:
    bench = Bench(patience_s=0.0)
    parcels = [Parcel(Delivery(Nobody(), f"m-{number}", 10), None) for number in range(5)]
    for parcel in parcels:
        bench.dispatch.offer(parcel, bench.now)
    bench.now += 1.0
    master = bench.lane(is_backlog=True, messages=5)
    assert bench.written(master) == parcels
    bench.dispatch.lane_closed(master, bench.now)
    bench.now += 1.0
    assert bench.written(bench.lane(is_backlog=True, messages=5)) == parcels
