"""Suspects: one runs alone, keeps its place, and starves nobody."""

from __future__ import annotations

from harmonicio.engine.loop import ALONE_GRACE_S, SUSPECT_GRACE_S, SUSPECT_MEANS, SUSPECTS_REST, EngineLoop
from harmonicio.engine.peer import Peer


def loop_of(concurrency: int, taken: int = 0) -> EngineLoop:
    loop = EngineLoop(concurrency, 0.1, 64 * 1024**2)
    for _ in range(taken):
        assert loop.take_slot()
    return loop


def test_a_suspect_takes_an_idle_engine_for_itself() -> None:
    loop = loop_of(8)
    assert loop.take_all_slots(1.0)
    assert not loop.take_slot()
    assert not loop.take_all_slots(1.0)
    for waiter in "abcdefghij":
        loop.wait_for_slot(waiter, 1.1, is_backlog=False)
    assert loop.free_slot(1.2) == list("abcdefgh"), "all slots are given out again"
    assert (loop.free_slots, loop.is_kept_for_suspect) == (0, False)


def test_a_suspect_waits_until_all_slots_are_free_and_what_came_after_it_waits_too() -> None:
    loop = loop_of(3, taken=2)
    assert not loop.take_all_slots(1.0)
    loop.wait_for_all_slots("suspect", 1.0)
    assert not loop.take_slot(), "the third slot is free, and kept for the suspect"
    loop.wait_for_slot("after", 1.1, is_backlog=True)
    assert loop.free_slot(1.2) == []
    assert loop.free_slot(1.2) == ["suspect"]
    assert loop.free_slot(1.3) == ["after"]


def test_what_came_before_a_suspect_goes_first() -> None:
    loop = loop_of(1, taken=1)
    loop.wait_for_slot("before", 0.5, is_backlog=False)
    loop.wait_for_all_slots("suspect", 1.0)
    loop.wait_for_slot("after", 1.5, is_backlog=False)
    loop.wait_for_all_slots("another suspect", 2.0)
    freed = [each for _ in range(5) for each in loop.free_slot(1.4)]
    assert freed == ["before", "suspect", "after", "another suspect"]


def test_nobody_gets_credit_while_a_suspect_waits_or_runs_and_everybody_after_it() -> None:
    loop = loop_of(2, taken=1)
    loop.wait_for_all_slots("suspect", 1.0)
    source, master = Peer("source"), Peer("master", is_backlog=True)
    loop.join(source, 1.0)
    loop.join(master, 1.0)
    assert loop.grants(1.0) == ([], 1.0 + ALONE_GRACE_S)
    assert loop.free_slot(2.0) == ["suspect"]
    assert loop.grants(2.0) == ([], 2.0 + ALONE_GRACE_S)
    assert loop.grants(9.0) == ([], None)
    assert loop.free_slot(9.0) == []
    assert set(loop.grants(9.0)[0]) == {source, master}


def test_who_waits_behind_a_suspect_for_a_moment_is_sent_elsewhere_and_the_next_suspect_stays() -> None:
    loop = loop_of(1, taken=1)
    loop.wait_for_all_slots("suspect", 1.0)
    loop.wait_for_slot("source's", 1.1, is_backlog=False)
    loop.wait_for_slot("stored", 1.1, is_backlog=True)
    loop.wait_for_all_slots("another suspect", 1.1)
    assert loop.turn_away(1.2) == []
    assert not loop.is_clogged(1.2, is_backlog=True)
    assert loop.turn_away(1.0 + ALONE_GRACE_S) == ["another suspect", "stored", "source's"]
    assert loop.is_clogged(1.3, is_backlog=True)
    assert loop.free_slot(5.0) == ["suspect"]
    assert not loop.is_clogged(5.1, is_backlog=True), "a suspect that takes a moment costs nobody anything"
    loop.wait_for_all_slots("a third", 5.1)
    assert loop.turn_away(5.0 + ALONE_GRACE_S) == ["a third"]
    assert loop.free_slot(6.0) == []
    assert loop.take_slot()


def test_the_time_that_others_wait_is_not_begun_anew_by_each_handler_that_returns() -> None:
    loop = loop_of(3, taken=3)
    loop.wait_for_all_slots("suspect", 1.0)
    loop.wait_for_slot("stored", 1.0, is_backlog=True)
    assert loop.free_slot(1.2) == ["stored"]
    loop.wait_for_slot("later", 1.2, is_backlog=True)
    assert loop.free_slot(1.2) == []
    assert loop.turn_away(1.0 + ALONE_GRACE_S) == ["later"]


def test_a_suspect_that_waits_for_a_handler_that_does_not_end_is_sent_elsewhere_itself() -> None:
    loop = loop_of(8, taken=1)
    source = Peer("source")
    loop.join(source, 1.0)
    loop.wait_for_all_slots("suspect", 1.0)
    assert loop.turn_away(1.0 + ALONE_GRACE_S) == []
    assert loop.grants(1.0 + ALONE_GRACE_S) == ([], 1.0 + SUSPECT_GRACE_S)
    assert loop.turn_away(1.0 + SUSPECT_GRACE_S) == ["suspect"]
    assert loop.take_slot(), "the other slots are of use again"
    assert loop.grants(1.0 + SUSPECT_GRACE_S)[0] == [source]
    assert not loop.is_clogged(9.0, is_backlog=True)


def test_after_a_suspect_that_waited_in_vain_no_other_keeps_the_slots_from_work_for_a_while() -> None:
    loop = loop_of(8, taken=1)
    loop.wait_for_all_slots("suspect", 1.0)
    assert loop.turn_away(2.0) == ["suspect"]
    until = 2.0 + SUSPECTS_REST * 1.0
    assert loop.is_clogged(until - 0.1, is_backlog=True, is_suspect=True)
    assert not loop.is_clogged(until - 0.1, is_backlog=True), "all others may wait"
    assert not loop.is_clogged(until, is_backlog=True, is_suspect=True)
    loop.free_slot(5.0)
    assert loop.take_all_slots(5.0), "an engine that has come to rest takes it at once"


def test_a_suspect_waits_for_longer_where_handlers_take_long() -> None:
    loop = loop_of(2, taken=1)
    loop.measured(1, 10.0)
    loop.wait_for_all_slots("suspect", 1.0)
    assert loop.turn_away(1.0 + 10.0 * SUSPECT_MEANS - 0.1) == []
    assert loop.free_slot(31.0) == ["suspect"]
    assert loop.turn_away(99.0) == [], "one that runs is not sent away"
