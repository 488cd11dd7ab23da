"""Messages are given out and answered many at a time; each is treated as if it had come alone."""

from __future__ import annotations

from benches.backlog import DONE, FATAL, Desk
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason


def test_messages_are_given_out_together_as_long_as_somebody_can_have_them(desk: Desk) -> None:
    for message_id in "abcd":
        desk.put(message_id, b"cells" * (1 + "abcd".index(message_id)))
    engines = iter(["e1#1", "e2#1", "e1#1"])
    asked = []

    def choose(size_bytes: int) -> str | None:
        asked.append(size_bytes)
        return next(engines, None)

    given = desk.backlog.reserve("plates", choose, 0.0)
    assert [(each.entry.message_id, each.holder) for each in given] == [("a", "e1#1"), ("b", "e2#1"), ("c", "e1#1")]
    assert (asked, desk.backlog.depth("plates")) == ([5, 10, 15, 20], 1)
    assert [each.entry.message_id for each in desk.backlog.reserve("plates", lambda _: "e1#1", 0.0)] == ["d"]
    assert desk.backlog.reserve("plates", lambda _: "e1#1", 0.0) == []


def test_no_more_are_given_out_at_once_than_were_asked_for(desk: Desk) -> None:
    for message_id in "abc":
        desk.put(message_id)
    assert len(desk.backlog.reserve("plates", lambda _: "e1#1", 0.0, most=2)) == 2


def test_what_was_put_off_can_be_recalled_before_a_message_behind_it_is_given_out(desk: Desk) -> None:
    desk.put("large", b"cells" * 9, priority=5)
    desk.backlog.settle([desk.reserve("e1#1")], Outcome.rejected(RejectReason.STORAGE, "The disk is full."))
    desk.put("behind", priority=1)
    desk.put("before", priority=9)
    assert [each.entry.message_id for each in desk.backlog.reserve("plates", lambda _: "e2#1", 0.0)] == ["before"]
    desk.backlog.recall("plates")
    given = desk.backlog.reserve("plates", lambda _: "e2#1", 0.0)
    assert [each.entry.message_id for each in given] == ["large", "behind"]


def test_one_answer_to_many_messages_counts_for_each_that_is_still_held(desk: Desk) -> None:
    for message_id in "abc":
        desk.put(message_id)
        desk.subscribe(message_id)
    a, b, c = desk.backlog.reserve("plates", lambda _: "e1#1", 0.0)
    desk.backlog.settle([a], DONE)
    desk.backlog.settle([a, b, c], DONE)
    figures = desk.backlog.figures("plates")
    assert (figures.done_total, figures.late_total, figures.reserved) == (3, 1, 0)
    assert desk.finals == [("a", DONE), ("b", DONE), ("c", DONE)]


def test_many_messages_that_fail_by_one_answer_are_dead_letters_each(desk: Desk) -> None:
    for message_id in "ab":
        desk.put(message_id)
    held = desk.backlog.reserve("plates", lambda _: "e1#1", 0.0)
    desk.backlog.settle(held, Outcome(OutcomeKind.FAILED, failure=FATAL))
    assert [desk.state(message_id) for message_id in "ab"] == ["dead", "dead"]


def test_those_of_a_batch_that_were_given_up_meanwhile_are_not_sent(desk: Desk) -> None:
    desk.put("a")
    desk.put("b")
    a, b = desk.reserve("e1#1"), desk.reserve("e2#1")
    desk.backlog.engine_gone("e1#1")
    assert desk.backlog.sending([a, b]) == [b]
