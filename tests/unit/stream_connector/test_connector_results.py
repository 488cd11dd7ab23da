"""Stored messages until their final outcome is known."""

from __future__ import annotations

from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.results import MAX_QUESTION, Results


class Nobody:
    """A delivery's owner that is never asked."""

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        raise AssertionError("Nobody waits here.")


def stored(results: Results, *ids: str, is_awaited: bool = False) -> list[Delivery]:
    deliveries = [Delivery(Nobody(), message_id, 1) for message_id in ids]
    for delivery in deliveries:
        delivery.is_awaited = is_awaited
        results.stored(delivery)
    return deliveries


def test_nothing_is_asked_before_somebody_wants_it() -> None:
    results = Results()
    first, _ = stored(results, "a", "b")
    assert not results.needs_connection
    results.want(first)
    assert results.take_question() == ["a"]
    assert results.take_question() == []
    results.want(first)
    assert results.take_question() == [], "it has been asked already"


def test_who_waits_already_is_asked_for_as_soon_as_the_master_has_it() -> None:
    results = Results()
    stored(results, "a", is_awaited=True)
    assert results.take_question() == ["a"]


def test_everything_is_wanted_once_somebody_wants_all() -> None:
    results = Results()
    stored(results, "a", "b")
    results.want_all()
    stored(results, "c")
    assert results.take_question() == ["a", "b", "c"]


def test_what_was_asked_is_asked_again_after_the_connection_was_lost() -> None:
    results = Results()
    for delivery in stored(results, "a", "b", "c"):
        results.want(delivery)
    results.take_question()
    results.final("b")
    results.connection_lost()
    assert results.has_questions
    assert results.take_question() == ["a", "c"]


def test_a_final_outcome_concerns_every_delivery_of_that_id() -> None:
    results = Results()
    twins = stored(results, "a", "a", "a")
    assert results.final("a") == twins
    assert results.final("a") == []
    assert len(results) == 0


def test_a_delivery_that_is_asked_for_after_its_twin_was_stored_is_told_once() -> None:
    results = Results()
    twins = stored(results, "a", "a")
    for delivery in (*twins, *reversed(twins)):
        results.want(delivery)
    assert len(results) == 2
    assert results.take_question() == ["a"]
    assert results.final("a") == twins
    assert len(results) == 0


def test_the_same_id_many_times_is_remembered_within_the_bound_as_well() -> None:
    results = Results(max_remembered=3)
    stored(results, *["a"] * 5)
    assert (len(results), results.forgotten) == (3, 2)


def test_what_is_too_much_to_remember_is_counted_and_can_still_be_asked_for() -> None:
    results = Results(max_remembered=2)
    *_, last = stored(results, "a", "b", "c")
    assert (len(results), results.forgotten) == (2, 1)
    results.want(last)
    assert results.take_question() == ["c"]
    assert results.final("c") == [last]


def test_questions_have_a_largest_size() -> None:
    results = Results()
    stored(results, *(str(number) for number in range(MAX_QUESTION + 5)))
    results.want_all()
    assert [len(results.take_question()) for _ in range(3)] == [MAX_QUESTION, 5, 0]


def test_what_is_remembered_is_bounded_although_every_outcome_is_wanted() -> None:
    results = Results(max_remembered=2)
    results.want_all()
    stored(results, "a", "b", "c")
    assert (len(results), results.forgotten) == (2, 1)
    assert results.take_question() == ["a", "b"]
