"""An engine that is quick gets the next message, too, and small ones that leave together go to one."""

from __future__ import annotations

import pytest

from benches.dispatch import FAILED, Bench
from harmonicio.stream_connector.lanes import (
    AHEAD_PER_S,
    AWAKE_S,
    FIRST_MESSAGES,
    LARGE_BYTES,
    LOOP_GAP_S,
    PROMPT_MESSAGES,
    PROMPT_S,
    QUICK_PACE,
    Lane,
)
from harmonicio.wire.outcomes import DONE


def offered(bench: Bench, count: int) -> None:
    """Offer messages as a source does that sends in a loop."""
    for _ in range(count):
        bench.now += LOOP_GAP_S / 10
        bench.offer()


def answer(bench: Bench, lane: Lane, *, but: int) -> None:
    """Answer what an engine has, but for the last few messages."""
    lane.outbox.clear()
    first, last = lane.credit.answered, lane.credit.sent - 1 - but
    if last >= first:
        bench.dispatch.outcomes_received(lane, first, last, DONE, bench.now)


def test_what_gathers_goes_on_with_an_engine_that_is_quick() -> None:
    bench = Bench(budget_bytes=10**9)
    lanes = [bench.lane(messages=10**6, size=10**9) for _ in range(2)]
    while not all(lane.is_quick for lane in lanes):
        offered(bench, 64)
        for lane in lanes:
            answer(bench, lane, but=8)
    offered(bench, 8)
    assert sorted(len(lane.in_flight) for lane in lanes) == [8, 16]


def test_an_engine_that_answers_slowly_gets_no_more_than_the_others() -> None:
    bench = Bench(budget_bytes=10**9)
    lanes = [bench.lane(messages=10**6, size=10**9) for _ in range(4)]
    offered(bench, 80)
    assert [len(lane.in_flight) for lane in lanes] == [20] * 4


def test_an_engine_is_quick_until_it_rests() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    for _ in range(QUICK_PACE // 32 - 1):
        offered(bench, 32)
        answer(bench, lane, but=1)
    offered(bench, 31)
    answer(bench, lane, but=1)
    assert not lane.is_quick
    offered(bench, 8)
    answer(bench, lane, but=1)
    assert lane.is_quick
    answer(bench, lane, but=0)
    assert not lane.is_quick


def test_an_engine_that_answers_at_once_is_not_woken_for_each() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    offered(bench, 1)
    answer(bench, lane, but=0)
    assert lane.is_prompt
    assert [lane.can_wait(bench.offer()) for _ in range(PROMPT_MESSAGES)] == [True] * (PROMPT_MESSAGES - 1) + [False]


def test_an_engine_that_takes_longer_gets_the_first_one_as_soon_as_it_rests() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    bench.offer()
    bench.wait(PROMPT_S)
    bench.offer()
    answer(bench, lane, but=0)
    assert not lane.is_prompt
    following = bench.offer()
    assert following.is_in_loop
    assert not lane.can_wait(following)


#: Credit is for so much time of handlers …
WINDOW_S = 0.1
#: … and with so much of it an engine that is awake may have 16 messages unanswered.
CREDIT = int(4 * AHEAD_PER_S * WINDOW_S) + 100


def engines(messages: int = CREDIT, size: int = 10**9) -> tuple[Bench, Lane, Lane, Lane]:
    """Return three engines with this credit, of which the last has had a message."""
    bench = Bench(budget_bytes=10**10)
    bench.dispatch.window_s = WINDOW_S
    *others, latest = [bench.lane() for _ in range(3)]
    bench.credit(latest, messages, size)
    bench.offer()
    for lane in others:
        bench.credit(lane, messages, size)
    return bench, *others, latest


def offer(bench: Bench, count: int, size: int = 1000) -> None:
    """Offer messages in a small part of the time for which an engine is awake."""
    for _ in range(count):
        bench.now += AWAKE_S / 200
        bench.offer(size)


def in_flight(*lanes: Lane) -> list[int]:
    return [len(lane.in_flight) for lane in lanes]


def test_an_engine_that_is_awake_gets_the_next_messages_although_others_have_nothing_to_do() -> None:
    bench, *lanes, latest = engines()
    bench.answer(latest, 0, DONE)
    offer(bench, 18)
    assert in_flight(latest, *lanes) == [16, 1, 1]


def test_an_engine_that_is_awake_goes_on_when_others_have_had_what_was_too_much() -> None:
    bench, *lanes, latest = engines()
    bench.answer(latest, 0, DONE)
    offer(bench, 18)
    answer(bench, latest, but=12)
    offer(bench, 4)
    assert in_flight(latest, *lanes) == [16, 1, 1]


def test_an_engine_whose_handler_takes_longer_than_it_takes_to_wake_another_gets_no_more_than_others() -> None:
    bench, *lanes, latest = engines(messages=int(AHEAD_PER_S * WINDOW_S))
    bench.answer(latest, 0, DONE)
    offer(bench, 6)
    assert in_flight(latest, *lanes) == [2, 2, 2]


@pytest.mark.parametrize("window_s", [0.0, 1e-300, AWAKE_S / 2, 5 * WINDOW_S])
def test_an_engine_that_has_much_credit_because_its_stream_says_so_gets_no_more_than_others(window_s: float) -> None:
    bench, *lanes, latest = engines()
    bench.dispatch.window_s = window_s
    bench.answer(latest, 0, DONE)
    offer(bench, 6)
    assert in_flight(latest, *lanes) == [2, 2, 2]


def test_an_engine_that_answered_late_gets_no_more_than_others() -> None:
    bench, *lanes, latest = engines()
    bench.now += 1.01 * AWAKE_S
    bench.answer(latest, 0, DONE)
    offer(bench, 6)
    assert in_flight(latest, *lanes) == [2, 2, 2]


def test_an_engine_that_has_not_answered_for_a_while_gets_no_more_than_others() -> None:
    bench, *lanes, latest = engines()
    bench.answer(latest, 0, DONE)
    bench.now += AWAKE_S
    offer(bench, 6)
    assert in_flight(latest, *lanes) == [2, 2, 2]


def test_an_engine_that_answers_soon_and_has_done_nothing_gets_no_more_than_others() -> None:
    bench, *lanes, latest = engines()
    bench.answer(latest, 0, FAILED)
    offer(bench, 6)
    assert in_flight(latest, *lanes) == [2, 2, 2]


def test_an_engine_that_is_awake_gets_no_more_than_it_has_credit_for() -> None:
    bench, *lanes, latest = engines(size=4000)  # One of a thousand bytes has been sent.
    bench.answer(latest, 0, DONE)
    offer(bench, 9)
    assert in_flight(latest, *lanes) == [3, 3, 3]


def test_an_engine_that_is_awake_gets_no_more_at_first_than_any_other_does() -> None:
    bench, *lanes, latest = engines(messages=5 * CREDIT)
    bench.answer(latest, 0, DONE)
    offer(bench, 70)
    assert in_flight(latest, *lanes) == [FIRST_MESSAGES, 3, 3]


def test_a_large_message_goes_to_an_engine_that_is_awake_only_when_what_it_has_is_no_longer_on_its_way() -> None:
    bench, *lanes, latest = engines()
    bench.answer(latest, 0, DONE)
    offer(bench, 3, LARGE_BYTES)
    assert in_flight(latest, *lanes) == [1, 1, 1]
    for lane in (latest, *lanes):
        for parcel in bench.written(lane):
            parcel.sent_at = bench.now
    offer(bench, 1, LARGE_BYTES)
    assert in_flight(latest, *lanes) == [2, 1, 1]


def test_a_small_message_behind_a_large_one_does_not_let_the_next_large_one_follow() -> None:
    bench, *lanes, latest = engines()
    bench.answer(latest, 0, DONE)
    for size in (LARGE_BYTES, 1000) * 6:
        offer(bench, 1, size)
    large = [sum(parcel.size_bytes == LARGE_BYTES for parcel in lane.outbox) for lane in (latest, *lanes)]
    assert max(large) <= 3 and sum(large) == 6


def test_an_engine_that_has_gone_gets_nothing_although_it_was_awake() -> None:
    bench, *lanes, latest = engines()
    bench.answer(latest, 0, DONE)
    bench.dispatch.lane_closed(latest, bench.now)
    offer(bench, 2)
    assert in_flight(latest, *lanes) == [0, 1, 1]
