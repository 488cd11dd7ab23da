"""What dispatch gives to the master, what becomes of messages when connections end, and the budget."""

from __future__ import annotations

import pytest

from benches.dispatch import FAILED, FAILED_FOR_GOOD, Bench, Nobody
from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector.backlog_pause import MASTER_PAUSE_S
from harmonicio.stream_connector.delivery import Delivery, DeliveryState
from harmonicio.stream_connector.lanes import MASTER_SILENT_S, MASTER_WRITES_BYTES_PER_S, Parcel
from harmonicio.wire.frames import Flag
from harmonicio.wire.outcomes import DONE, STORED

# ── to the master ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_goes_to_the_backlog_only_after_its_patience() -> None:
    bench = Bench(patience_s=2.0)
    bench.lane()
    master = bench.lane(is_backlog=True, messages=10)
    parcel = bench.offer()
    assert bench.wait(1.9) == []
    assert bench.wait(0.1) == [master]
    bench.answer(master, 0, STORED)
    (settled,) = bench.dispatch.take_settled()
    assert list(settled.parcels) == [parcel]
    assert settled.is_backlog


def test_half_a_budget_that_waits_shortens_the_patience() -> None:
    bench = Bench(budget_bytes=10_000, patience_s=2.0)
    bench.lane()
    master = bench.lane(is_backlog=True, messages=10)
    first = bench.offer(4_000)
    assert bench.wait(0.1) == []
    bench.offer(4_000)
    assert bench.written(master) == [first]
    assert bench.dispatch.waiting == 1, "less than half waits now"


def test_a_connection_to_the_backlog_is_wanted_only_when_something_goes_there() -> None:
    bench = Bench(patience_s=2.0)
    bench.lane()
    bench.offer()
    assert not bench.dispatch.wants_backlog(bench.now)
    assert bench.dispatch.wants_backlog(bench.now + 2.0)
    bench.lane(is_backlog=True)
    assert not bench.dispatch.wants_backlog(bench.now + 2.0)


def test_a_failed_message_goes_to_the_master_with_one_attempt_more() -> None:
    bench = Bench()
    engine = bench.lane(messages=10)
    parcel = bench.offer()
    bench.answer(engine, 0, FAILED)
    assert bench.dispatch.take_settled() == []
    assert bench.dispatch.wants_backlog(bench.now), "without any patience"
    master = bench.lane(is_backlog=True, messages=10)
    assert bench.written(master) == [parcel]
    assert (parcel.attempts, parcel.failure, parcel.flags) == (1, FAILED.failure, 0)


def test_a_message_that_failed_for_good_is_dropped_only_when_the_master_has_it_as_a_dead_letter() -> None:
    bench = Bench()
    engine, master = bench.lane(messages=10), bench.lane(is_backlog=True, messages=10)
    parcel = bench.offer()
    bench.answer(engine, 0, FAILED_FOR_GOOD)
    assert parcel.flags == Flag.DEAD
    assert bench.dispatch.used_bytes == parcel.cost_bytes
    bench.answer(master, 0, STORED)
    assert bench.dispatch.used_bytes == 0


def test_a_master_that_is_full_is_left_alone_for_a_while_and_engines_may_take_the_message() -> None:
    bench = Bench(patience_s=0.0)
    master = bench.lane(is_backlog=True, messages=10)
    parcel = bench.offer()
    bench.answer(master, 0, Outcome(OutcomeKind.REJECTED, reason=RejectReason.BACKLOG_FULL))
    assert bench.dispatch.waiting == 1
    assert bench.dispatch.next_due_s(bench.now + 0.1) == pytest.approx(MASTER_PAUSE_S - 0.1)
    engine = bench.lane(messages=1)
    assert bench.written(engine) == [parcel]


def test_what_only_the_master_may_have_is_not_overtaken_by_what_also_an_engine_may_have() -> None:
    bench = Bench(patience_s=0.0)
    engine, master = bench.lane(messages=1), bench.lane(is_backlog=True, messages=10, size=5_000)
    failed, small = bench.offer(10_000), bench.offer()
    assert bench.written(master) == [small]
    bench.answer(engine, 0, FAILED)
    other = bench.offer()
    bench.wait(0.1)
    assert not bench.written(master), "the large one is admitted when nothing else is under way"
    bench.answer(master, 0, STORED)
    assert bench.written(master) == [failed]
    assert other.delivery.state == "waiting"


def test_closing_makes_impatient() -> None:
    bench = Bench(patience_s=60.0)
    bench.lane()
    master = bench.lane(is_backlog=True, messages=10)
    bench.offer()
    bench.dispatch.hurry()
    assert bench.wait(0.05) == [master]


# ── when connections end ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_an_engine_may_have_begun_goes_to_the_master_as_a_suspect_and_the_rest_goes_on() -> None:
    bench = Bench()
    first = bench.lane(messages=10)
    begun, unsent = bench.offer(), bench.offer()
    first.outbox.popleft()
    first.begun = 1
    bench.dispatch.lane_closed(first, bench.now)
    second, master = bench.lane(messages=10), bench.lane(is_backlog=True, messages=10)
    assert bench.written(second) == [unsent]
    assert bench.written(master) == [begun]
    assert (begun.flags, unsent.flags) == (Flag.SUSPECT, 0)
    assert bench.dispatch.resent == 1


def test_what_the_master_may_have_stored_is_sent_to_the_master_again() -> None:
    bench = Bench(patience_s=0.0)
    first = bench.lane(is_backlog=True, messages=10)
    parcel = bench.offer()
    bench.written(first)
    bench.dispatch.lane_closed(first, bench.now)
    engine = bench.lane(messages=10)
    second = bench.lane(is_backlog=True, messages=10)
    bench.wait(1.0)
    assert not engine.outbox
    assert bench.written(second) == [parcel]
    assert parcel.flags == 0


def test_order_is_kept_when_messages_come_back() -> None:
    bench = Bench()
    first = bench.lane(messages=3)
    parcels = [bench.offer() for _ in range(5)]
    bench.dispatch.lane_closed(first, bench.now)
    second = bench.lane(messages=5)
    bench.credit(second, 5)
    assert bench.written(second) == parcels


@pytest.mark.parametrize(("is_backlog", "reason"), [(True, RejectReason.BACKLOG_FULL), (False, RejectReason.NO_CREDIT)])
@pytest.mark.parametrize(
    "ranges", [[(0, 4)], [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]], ids=["one answer", "each alone"]
)
def test_order_is_kept_when_messages_are_rejected(
    is_backlog: bool, reason: RejectReason, ranges: list[tuple[int, int]]
) -> None:
    bench = Bench(patience_s=0.0)
    lane = bench.lane(is_backlog=is_backlog, messages=100)
    parcels = [bench.offer() for _ in range(5)]
    assert bench.written(lane) == parcels
    for first, last in ranges:
        bench.dispatch.outcomes_received(lane, first, last, Outcome(OutcomeKind.REJECTED, reason=reason), bench.now)
    bench.wait(MASTER_PAUSE_S)
    assert bench.written(lane) == parcels


def test_a_message_that_cannot_be_read_any_more_is_rejected() -> None:
    bench = Bench()
    engine = bench.lane(messages=1)
    parcel = bench.offer()
    bench.written(engine)
    parcel.trouble = "The file became shorter."
    bench.dispatch.lane_closed(engine, bench.now)
    (settled,) = bench.dispatch.take_settled()
    assert settled.outcome == Outcome(
        OutcomeKind.REJECTED, reason=RejectReason.STORAGE, text="The file became shorter."
    )


def test_answering_twice_breaks_the_protocol_and_loses_nothing() -> None:
    bench = Bench()
    engine = bench.lane(messages=10)
    for _ in range(4):
        bench.offer()
    bench.answer(engine, 2, DONE)
    with pytest.raises(RemoteProtocolError):
        bench.dispatch.outcomes_received(engine, 0, 2, DONE, bench.now)
    assert sum(len(settled.parcels) for settled in bench.dispatch.take_settled()) == 3
    bench.dispatch.lane_closed(engine, bench.now)
    assert bench.dispatch.waiting == 1


def test_withdrawing_names_everything_that_is_not_safe() -> None:
    bench = Bench()
    engine = bench.lane(messages=2)
    parcels = [bench.offer() for _ in range(4)]
    bench.answer(engine, 1, DONE)
    withdrawn = bench.dispatch.withdraw_all()
    assert {id(each) for each in withdrawn} == {id(parcels[at]) for at in (0, 2, 3)}
    assert bench.dispatch.used_bytes == bench.dispatch.waiting_bytes == 0


# ── the budget ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_budget_counts_headers_and_at_least_512_bytes_and_admits_one_message_of_any_size() -> None:
    bench = Bench(budget_bytes=1024)
    assert bench.dispatch.has_room(5_000)
    bench.offer(0)
    assert bench.dispatch.used_bytes == 512
    assert bench.dispatch.has_room(512)
    assert not bench.dispatch.has_room(513)
    assert Parcel(Delivery(Nobody(), "m", 600), None, section=bytes(400)).cost_bytes == 1000


def test_a_safe_message_gives_its_room_back() -> None:
    bench = Bench()
    engine = bench.lane(messages=1)
    parcel = bench.offer(5000)
    bench.answer(engine, 0, DONE)
    assert bench.dispatch.used_bytes == 0
    assert parcel.delivery.state is DeliveryState.IN_FLIGHT, "the connector says what it became"


FULL = Outcome(OutcomeKind.REJECTED, reason=RejectReason.BACKLOG_FULL)


def test_a_large_message_that_a_full_backlog_refused_lets_smaller_ones_pass_but_none_as_large() -> None:
    bench = Bench(patience_s=0.0)
    master = bench.lane(is_backlog=True, messages=10)
    large = bench.offer(5000)
    assert bench.written(master) == [large]
    bench.answer(master, 0, FULL)
    same, small = bench.offer(5000), bench.offer(10)
    assert bench.written(master) == [small]
    bench.answer(master, 1, STORED)
    bench.wait(MASTER_PAUSE_S)
    assert bench.written(master) == [large, same], "both come back in their order"


def test_one_that_is_too_large_for_the_backlog_now_still_goes_to_an_engine_first() -> None:
    bench = Bench(patience_s=0.0)
    master = bench.lane(is_backlog=True, messages=10)
    large = bench.offer(5000)
    bench.answer(master, 0, FULL)
    bench.offer(10)
    engine = bench.lane(messages=1)
    assert bench.written(engine) == [large]


def test_in_an_ordered_stream_nothing_passes_a_message_that_a_full_backlog_refused() -> None:
    bench = Bench(patience_s=0.0)
    bench.dispatch.pause.keeps_order = True
    master = bench.lane(is_backlog=True, messages=10)
    large = bench.offer(5000)
    assert bench.written(master) == [large]
    bench.answer(master, 0, FULL)
    small = bench.offer(10)
    assert bench.written(master) == []
    bench.wait(MASTER_PAUSE_S)
    assert bench.written(master) == [large, small]


def test_a_master_that_says_nothing_for_a_minute_is_given_up_and_gets_the_message_again() -> None:
    bench = Bench(patience_s=0.0)
    master = bench.lane(is_backlog=True, messages=10)
    parcel = bench.offer()
    assert bench.written(master) == [parcel]
    bench.wait(MASTER_SILENT_S)
    assert bench.dispatch.overdue(bench.now) == []
    bench.wait(0.1)
    assert bench.dispatch.overdue(bench.now) == [master]


def test_a_master_that_has_much_to_write_may_say_nothing_for_longer() -> None:
    bench = Bench(budget_bytes=10**12, patience_s=0.0)
    master = bench.lane(is_backlog=True, messages=10, size=10**12)
    large = bench.offer(100 * MASTER_WRITES_BYTES_PER_S)
    assert bench.written(master) == [large]
    large.sent_at = bench.now
    bench.wait(MASTER_SILENT_S + 99.9)
    assert bench.dispatch.overdue(bench.now) == []
    bench.wait(0.2)
    assert bench.dispatch.overdue(bench.now) == [master]
