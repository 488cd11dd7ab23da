"""An engine that is quick gets the next message, too, and small ones that leave together go to one."""

from __future__ import annotations

from benches.dispatch import Bench
from harmonicio.stream_connector.lanes import (
    LOOP_GAP_S,
    PACE_S,
    PROMPT_MESSAGES,
    PROMPT_S,
    QUICK_PACE,
    SOON_MESSAGES,
    SOON_S,
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


def awake(bench: Bench, lane: Lane) -> None:
    """Have an engine answer at once, with ever more under way."""
    for number in range(2 * SOON_MESSAGES):
        while len(lane.in_flight) <= min(number, SOON_MESSAGES):
            bench.now += SOON_S / 100
            bench.offer()
        answer(bench, lane, but=len(lane.in_flight) - 1)


def test_an_engine_that_answers_soon_gets_the_next_messages_although_others_have_nothing_to_do() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    awake(bench, lane)
    others = [bench.lane(messages=10**6, size=10**9) for _ in range(2)]
    answer(bench, lane, but=0)
    for _ in range(SOON_MESSAGES + 4):
        bench.now += SOON_S / 100
        bench.offer()
    assert [len(each.in_flight) for each in (lane, *others)] == [SOON_MESSAGES, 2, 2]


def test_an_engine_that_has_not_answered_for_a_while_gets_no_more_than_the_others() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    awake(bench, lane)
    answer(bench, lane, but=0)
    other = bench.lane(messages=10**6, size=10**9)
    bench.offer()
    bench.wait(SOON_S)
    bench.offer()
    assert [len(each.in_flight) for each in (lane, other)] == [1, 1]


def test_an_engine_that_took_longer_gets_half_as_many_more() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    awake(bench, lane)
    other = bench.lane(messages=10**6, size=10**9)
    bench.wait(SOON_S)
    answer(bench, lane, but=0)
    for _ in range(SOON_MESSAGES):
        bench.now += SOON_S / 100
        bench.offer()
    assert [len(each.in_flight) for each in (lane, other)] == [SOON_MESSAGES // 2] * 2


def test_an_engine_that_has_rested_gets_no_more_than_the_others() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    awake(bench, lane)
    answer(bench, lane, but=0)
    other = bench.lane(messages=10**6, size=10**9)
    bench.wait(PACE_S)
    for _ in range(8):
        bench.now += SOON_S / 100
        bench.offer()
    assert [len(each.in_flight) for each in (lane, other)] == [4, 4]


def test_who_is_awake_goes_on_when_others_have_had_what_was_too_much() -> None:
    bench = Bench(budget_bytes=10**9)
    lane = bench.lane(messages=10**6, size=10**9)
    awake(bench, lane)
    answer(bench, lane, but=0)
    others = [bench.lane(messages=10**6, size=10**9) for _ in range(2)]
    for _ in range(SOON_MESSAGES + 2):
        bench.now += SOON_S / 1000
        bench.offer()
    answer(bench, lane, but=SOON_MESSAGES - 4)
    for _ in range(4):
        bench.offer()
    assert [len(each.in_flight) for each in (lane, *others)] == [SOON_MESSAGES, 1, 1]
