"""What cannot be read when its turn comes, as the dispatch sees it."""

from __future__ import annotations

import pytest

from benches.dispatch import Bench
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector.held_back import HOLD_FIRST_S, HOLD_MAX_S, READ_TRIES_PER_S
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.wire.outcomes import DONE, STORED


def test_what_cannot_be_read_is_held_back_and_what_is_behind_it_goes_on_under_the_same_numbers() -> None:
    bench = Bench()
    engine = bench.lane(messages=3)
    first, away, behind = bench.offer(), bench.offer(), bench.offer()
    engine.outbox.popleft()
    engine.begun = 1
    away.is_away = True
    bench.dispatch.unreadable(engine, bench.now)
    bench.dispatch.assign(bench.now)
    assert bench.written(engine) == [behind]
    assert engine.in_flight == {0: first, 1: behind}
    bench.dispatch.outcomes_received(engine, 0, 1, DONE, bench.now)
    bench.wait(HOLD_FIRST_S)
    assert bench.written(engine) == [away]
    assert (away.flags, away.is_for_master, bench.dispatch.resent) == (0, False, 0)


def test_pauses_grow_to_a_bound_while_it_cannot_be_read() -> None:
    bench = Bench()
    engine = bench.lane(messages=1)
    away = bench.offer()
    for _ in range(20):
        away.is_away = True
        bench.dispatch.unreadable(engine, bench.now)
        assert bench.dispatch.assign(bench.now) == []
        due_s = bench.dispatch.next_due_s(bench.now)
        assert due_s is not None
        assert bench.wait(due_s + 1e-6) == [engine]
    assert 0.9 * HOLD_MAX_S < due_s <= HOLD_MAX_S


def test_what_can_never_be_read_comes_to_its_end_and_the_connection_stays() -> None:
    bench = Bench()
    engine = bench.lane(messages=2)
    changed, other = bench.offer(), bench.offer()
    changed.trouble = "It has changed."
    bench.dispatch.unreadable(engine, bench.now)
    bench.dispatch.assign(bench.now)
    (settled,) = bench.dispatch.take_settled()
    assert list(settled.parcels) == [changed]
    assert settled.outcome == Outcome.rejected(RejectReason.STORAGE, "It has changed.")
    assert bench.written(engine) == [other]
    assert bench.dispatch.used_bytes == other.cost_bytes


def test_in_an_ordered_stream_nothing_overtakes_what_cannot_be_read() -> None:
    bench = Bench(patience_s=0.0)
    bench.dispatch.pause.keeps_order = True
    master = bench.lane(is_backlog=True, messages=2)
    away, behind = bench.offer(), bench.offer()
    away.is_away = True
    bench.dispatch.unreadable(master, bench.now)
    assert bench.dispatch.assign(bench.now) == []
    bench.wait(HOLD_FIRST_S)
    assert bench.written(master) == [away, behind]
    bench.answer(master, 0, STORED)
    assert [each.outcome.kind for each in bench.dispatch.take_settled()] == [OutcomeKind.STORED]


def test_a_connection_that_ends_meanwhile_has_nothing_left_to_take_back() -> None:
    bench = Bench()
    engine = bench.lane(messages=1)
    away = bench.offer()
    away.is_away = True
    bench.dispatch.lane_closed(engine, bench.now)
    bench.dispatch.unreadable(engine, bench.now)
    assert bench.dispatch.waiting == 1
    assert bench.dispatch.waiting_bytes == away.cost_bytes


def fail(bench: Bench, lane: Lane) -> Parcel:
    """What this lane would write next cannot be read."""
    parcel = lane.outbox[0]
    parcel.is_away = True
    bench.dispatch.unreadable(lane, bench.now)
    bench.dispatch.assign(bench.now)
    return parcel


def test_nothing_can_be_read_for_as_long_as_each_has_failed_wherever_they_are() -> None:
    bench = Bench()
    engine = bench.lane(messages=3)
    for _ in range(3):
        bench.offer()
    fail(bench, engine)
    fail(bench, engine)
    assert bench.dispatch.unreadable_s(3, bench.now) == 0.0, "the third has not been tried"
    fail(bench, engine)
    bench.wait(60)
    assert engine.outbox, "they are about to be tried once more"
    assert bench.dispatch.unreadable_s(3, bench.now) == pytest.approx(60)


def test_what_is_being_read_is_not_counted_although_it_could_not_be_read_before() -> None:
    bench = Bench()
    engine = bench.lane(messages=1)
    bench.offer()
    away = fail(bench, engine)
    bench.wait(60)
    away.is_readable = True
    assert bench.dispatch.unreadable_s(1, bench.now) == 0.0
    bench.written(engine)
    away.is_away = True
    bench.dispatch.lane_closed(engine, bench.now)
    assert bench.dispatch.unreadable_s(1, bench.now) == pytest.approx(60), "it failed in the middle"


def test_what_has_come_to_rest_is_not_counted_any_more() -> None:
    bench = Bench()
    engine = bench.lane(messages=2)
    bench.offer(), bench.offer()
    fail(bench, engine)
    fail(bench, engine)
    bench.wait(60)
    bench.written(engine)
    bench.answer(engine, 0, DONE)
    assert bench.dispatch.unreadable_s(1, bench.now) == pytest.approx(60)
    bench.answer(engine, 1, DONE)
    assert bench.dispatch.unreadable_s(0, bench.now) == 0.0


def test_what_was_read_after_all_makes_no_crowd_for_those_that_cannot_be_read_later() -> None:
    bench = Bench()
    engine = bench.lane(messages=2 * READ_TRIES_PER_S)
    for number in range(READ_TRIES_PER_S):
        bench.offer()
        fail(bench, engine)
        bench.wait(60)
        (parcel,) = bench.written(engine)
        parcel.is_readable, parcel.absences = True, 0  # As reading it does.
        bench.answer(engine, number, DONE)
    bench.offer()
    fail(bench, engine)
    due_s = bench.dispatch.next_due_s(bench.now)
    assert due_s is not None
    assert due_s <= HOLD_FIRST_S


def test_in_an_ordered_stream_all_wait_for_what_cannot_be_read() -> None:
    bench = Bench(patience_s=0.0)
    bench.dispatch.pause.keeps_order = True
    master = bench.lane(is_backlog=True, messages=1)
    for _ in range(5):
        bench.offer()
    fail(bench, master)
    bench.wait(60)
    fail(bench, master)
    assert bench.dispatch.unreadable_s(5, bench.now) == pytest.approx(60)


def test_the_more_cannot_be_read_the_longer_each_waits() -> None:
    bench = Bench(budget_bytes=10**9)
    engine = bench.lane(messages=1)
    count = 10 * READ_TRIES_PER_S
    for _ in range(count):
        bench.offer()
    for _ in range(count):
        fail(bench, engine)
    tries, bench.now = 0, bench.now + 60
    until = bench.now + 60
    while bench.now < until:
        bench.dispatch.assign(bench.now)
        if engine.outbox:
            fail(bench, engine)
            tries += 1
        else:
            bench.now += (bench.dispatch.next_due_s(bench.now) or 0.0) + 1e-9
    assert tries < 1.2 * 60 * READ_TRIES_PER_S
