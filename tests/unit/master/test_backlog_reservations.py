"""A reservation ends by an outcome, or when its engine completes nothing more; what comes later changes nothing."""

from __future__ import annotations

import pytest

from benches.backlog import DONE, Desk
from harmonicio.master.backlog.answer_log import LATE_LOG_INTERVAL_S


@pytest.mark.row("S27")
def test_a_late_outcome_is_counted_logged_and_has_no_effect(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.put("a")
    late = desk.reserve("e1")
    desk.backlog.engine_gone("e1")
    current = desk.reserve("e2")
    for _ in range(5):
        desk.backlog.settle([late], DONE)
    assert (desk.state("a"), desk.backlog.figures("plates").late_total) == ("reserved", 5)
    (line,) = [record.getMessage() for record in caplog.records if "given up" in record.getMessage()]
    assert "`done` from e1 for message 'a' of stream 'plates'" in line
    desk.clock.advance(LATE_LOG_INTERVAL_S)
    desk.backlog.settle([late], DONE)
    assert "change nothing: 5;" in caplog.records[-1].getMessage()
    desk.backlog.settle([current], DONE)
    assert desk.state("a") == "done"


def test_a_reservation_expires_by_the_time_out_of_its_stream(desk: Desk) -> None:
    desk.put("a")
    desk.reserve()
    desk.clock.advance(89.0)
    desk.backlog.tick()
    assert desk.backlog.depth("plates") == 0
    desk.clock.advance(2.0)
    desk.backlog.tick()
    assert desk.backlog.depth("plates") == 1


def test_an_answer_of_an_engine_renews_what_else_it_holds(desk: Desk) -> None:
    desk.put("a")
    desk.put("b")
    first, ahead = desk.reserve("e1"), desk.reserve("e1")
    desk.clock.advance(80.0)
    desk.backlog.settle([first], DONE)
    desk.clock.advance(80.0)
    desk.backlog.tick()
    assert desk.state("b") == "reserved"
    desk.backlog.settle([ahead], DONE)
    assert (desk.state("b"), desk.backlog.figures("plates").late_total) == ("done", 0)


def test_whatever_an_engine_completes_renews_what_it_holds(desk: Desk) -> None:
    desk.put("a")
    ahead = desk.reserve("e1#7")
    desk.clock.advance(80.0)
    desk.backlog.engines_progressed(["e1"])
    desk.clock.advance(80.0)
    desk.backlog.tick()
    assert desk.state("a") == "reserved"
    desk.clock.advance(11.0)
    desk.backlog.tick()
    assert desk.state("a") == "waiting"
    desk.backlog.settle([ahead], DONE)
    assert desk.backlog.figures("plates").late_total == 1


def test_an_answer_renews_nothing_of_other_engines_nor_what_is_held_later(desk: Desk) -> None:
    for message_id in "abc":
        desk.put(message_id)
    first = desk.reserve("e1")
    desk.reserve("frozen")
    desk.clock.advance(50.0)
    desk.backlog.settle([first], DONE)
    desk.clock.advance(20.0)
    desk.reserve("e1")
    desk.clock.advance(20.5)
    desk.backlog.tick()
    assert (desk.state("b"), desk.state("c")) == ("waiting", "reserved")
    desk.clock.advance(69.0)
    desk.backlog.tick()
    assert desk.state("c") == "reserved"
    desk.clock.advance(1.0)
    desk.backlog.tick()
    assert desk.state("c") == "waiting"
