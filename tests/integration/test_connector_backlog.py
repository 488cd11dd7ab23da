"""The stream connector and the backlog: the second route, its results, and what failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from harmonicio.core.errors import (
    HandlerFailed,
    MessageRejected,
    OutcomeExpired,
    OutcomeTimeout,
)
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector import DeliveryState
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.outcomes import DONE, STORED

RETRYABLE = Failure("ValueError", "bad image", "Traceback: line 3")
FINAL = Failure("ValueError", "bad image", "Traceback: line 3", retryable=False)


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def test_without_credit_messages_go_to_the_backlog_after_the_patience(cluster: BareCluster) -> None:
    cluster.engine(window=0)
    with cluster.connect(patience_s=0.05) as connector:
        deliveries = [connector.send(b"image") for _ in range(20)]
        connector.flush("safe", timeout_s=10)
        assert {each.route for each in deliveries} == {"backlog"}
        assert {each.state for each in deliveries} == {DeliveryState.STORED}
        connector.flush("processed", timeout_s=10)
        assert {each.state for each in deliveries} == {DeliveryState.DONE}
        figures = connector.figures()
    assert (figures.via_backlog, figures.processed, figures.waiting_bytes) == (20, 20, 0)
    assert len(cluster.backlog.messages) == 20


def test_a_full_window_for_a_moment_is_no_reason_for_the_backlog(cluster: BareCluster) -> None:
    """For longer than messages have patience, and for less than the half second that engines may take."""

    def take_its_time(_: IncomingMessage) -> Outcome:
        time.sleep(0.005)
        return DONE

    cluster.engine(take_its_time, window=1)
    with cluster.connect() as connector:
        for _ in range(40):
            connector.send(bytes(1000))
        connector.flush("processed", timeout_s=20)
        assert connector.figures().via_backlog == 0


def test_without_engines_everything_goes_to_the_backlog_and_results_come_from_there(cluster: BareCluster) -> None:
    cluster.backlog.final = lambda message_id: Outcome(OutcomeKind.DONE, result={"id": message_id})
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        assert delivery.result(10) == {"id": delivery.message_id}
    assert len(cluster.backlog.messages) == 1


def test_only_outcomes_that_somebody_wants_are_asked_for(cluster: BareCluster) -> None:
    with cluster.connect() as connector:
        deliveries = [connector.send(b"image") for _ in range(10)]
        connector.flush("safe", timeout_s=10)
        assert cluster.backlog.asked == []
        deliveries[3].result(10)
        assert cluster.backlog.asked == [deliveries[3].message_id]
        connector.flush("processed", timeout_s=10)
        assert sorted(cluster.backlog.asked) == sorted(each.message_id for each in deliveries)


def test_a_message_that_is_sent_twice_is_one_message_and_other_bytes_under_its_id_are_refused(
    cluster: BareCluster,
) -> None:
    with cluster.connect() as connector:
        first = connector.send(b"image", message_id="plate 1")
        assert connector.send(b"image", message_id="plate 1") is first
        with pytest.raises(MessageRejected, match="'plate 1' was used before, with other bytes"):
            connector.send(b"other", message_id="plate 1")
        connector.flush("safe", timeout_s=10)
        assert connector.send(b"image", message_id="plate 1").result(10) is None
        figures = connector.figures()
        assert (figures.sent, figures.safe, figures.processed) == (1, 1, 1)
        del first
        with pytest.raises(OutcomeExpired):
            connector.send(b"image", message_id="plate 1").result(10)
    assert len(cluster.backlog.messages) == 1


def test_both_deliveries_of_one_id_come_to_the_same_end_where_the_connector_knows_no_ids(cluster: BareCluster) -> None:
    with cluster.connect(keeps_outcomes=False) as connector:
        twins = [connector.send(b"image", message_id="plate 1") for _ in range(2)]
        connector.flush("safe", timeout_s=10)
        assert [each.result(10) for each in twins] == [None, None]
        figures = connector.figures()
        assert (figures.safe, figures.processed) == (2, 2)


def test_an_engine_that_is_released_takes_what_waits(cluster: BareCluster) -> None:
    may_answer = threading.Event()
    engine = cluster.engine(lambda _: DONE if may_answer.wait(20) else None, window=2)
    with cluster.connect(patience_s=60.0) as connector:
        deliveries = [connector.send(b"image") for _ in range(10)]
        wait_until(lambda: len(engine.seen) == 1)
        may_answer.set()
        connector.flush("processed", timeout_s=10)
    assert {each.route for each in deliveries} == {"engine"}


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_message_is_given_to_the_master_with_one_attempt_more(cluster: BareCluster) -> None:
    cluster.engine(lambda _: Outcome(OutcomeKind.FAILED, failure=RETRYABLE))
    with cluster.connect() as connector:
        delivery = connector.send(b"image", metadata={"well": "B03"}, message_id="plate 1")
        assert delivery.result(10) is None
    (message,) = cluster.backlog.seen
    assert (message.id, message.metadata, message.attempts) == ("plate 1", {"well": "B03"}, 1)
    assert message.failure == RETRYABLE
    assert not message.is_dead


def test_a_message_that_failed_for_good_is_a_dead_letter_and_its_failure_is_known(cluster: BareCluster) -> None:
    cluster.engine(lambda _: Outcome(OutcomeKind.FAILED, failure=FINAL))
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        with pytest.raises(HandlerFailed, match="bad image") as caught:
            delivery.result(10)
        assert delivery.is_safe
    assert (caught.value.error_type, caught.value.traceback) == ("ValueError", "Traceback: line 3")
    (message,) = cluster.backlog.seen
    assert message.is_dead
    assert message.failure == FINAL
    assert cluster.backlog.asked == []


def test_a_failed_message_stays_unsafe_until_the_master_has_it(cluster: BareCluster) -> None:
    may_store = threading.Event()
    cluster.engine(lambda _: Outcome(OutcomeKind.FAILED, failure=RETRYABLE))
    cluster.backlog.answer = lambda _: STORED if may_store.wait(20) else None
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        wait_until(lambda: cluster.backlog.seen)
        assert not delivery.is_safe
        assert not delivery.released
        may_store.set()
        connector.flush("safe", timeout_s=10)
        assert delivery.is_safe


def test_failures_that_nobody_awaited_are_logged_and_raised_by_flush_once(
    cluster: BareCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.engine(lambda _: Outcome(OutcomeKind.FAILED, failure=FINAL))
    with cluster.connect() as connector:
        awaited = connector.send(b"image")
        with pytest.raises(HandlerFailed):
            awaited.result(10)
        with caplog.at_level(logging.ERROR):
            others = [connector.send(b"image") for _ in range(3)]
            with pytest.raises(HandlerFailed, match="3 messages failed"):
                connector.flush("processed", timeout_s=10)
        assert all(each.message_id in caplog.text for each in others)
        assert awaited.message_id not in caplog.text
        connector.flush("processed", timeout_s=10)


def test_closing_tells_of_a_message_that_nobody_took(cluster: BareCluster) -> None:
    cluster.engine(lambda _: Outcome(OutcomeKind.REJECTED, reason=RejectReason.ID_CONFLICT, text="taken"))
    with pytest.raises(MessageRejected, match="taken"), cluster.connect() as connector:
        connector.send(b"image")


def test_an_outcome_that_nobody_knows_any_more_is_never_success(cluster: BareCluster) -> None:
    cluster.backlog.final = lambda _: None
    with cluster.connect() as connector:
        with pytest.raises(OutcomeExpired):
            connector.send(b"image").result(10)
        connector.send(b"image")
        with pytest.raises(OutcomeExpired):
            connector.flush("processed", timeout_s=10)


def test_stored_messages_beyond_what_is_remembered_are_never_reported_as_processed(
    cluster: BareCluster,
) -> None:
    with cluster.connect() as connector:
        connector._exchange._results._max_remembered = 5
        for _ in range(8):
            connector.send(b"image")
        connector.flush("safe", timeout_s=10)
        with pytest.raises(OutcomeExpired, match="3 stored messages"):
            connector.flush("processed", timeout_s=10)
        connector.flush("processed", timeout_s=10)


# ── the connection to the master ─────────────────────────────────────────────────────────────────────────────────────


def test_questions_are_asked_again_after_the_connection_to_the_master_broke(cluster: BareCluster) -> None:
    is_known = threading.Event()

    def final(_: str) -> Outcome:
        if not is_known.is_set():
            raise LookupError
        return DONE

    cluster.backlog.final = final
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        with pytest.raises(OutcomeTimeout):
            delivery.result(0.2)
        is_known.set()
        cluster.backlog.cut()
        assert delivery.result(10) is None
    assert cluster.backlog.asked == [delivery.message_id] * 2


def test_what_was_on_its_way_to_the_master_is_sent_there_again(cluster: BareCluster) -> None:
    is_back = threading.Event()

    def answer(_: IncomingMessage) -> Outcome | None:
        return STORED if is_back.is_set() else None

    cluster.backlog.answer = answer
    with cluster.connect() as connector:
        deliveries = [connector.send(b"image") for _ in range(5)]
        wait_until(lambda: len(cluster.backlog.seen) == 5)
        is_back.set()
        cluster.backlog.cut()
        connector.flush("safe", timeout_s=10)
        assert connector.figures().resent == 5
    ids = [each.message_id for each in deliveries]
    assert [message.id for message in cluster.backlog.seen] == ids * 2
    assert not any(message.is_suspect for message in cluster.backlog.seen), "no engine had them"


def test_a_full_backlog_is_asked_again_after_a_pause(cluster: BareCluster) -> None:
    answers = iter([Outcome(OutcomeKind.REJECTED, reason=RejectReason.BACKLOG_FULL), STORED])
    cluster.backlog.answer = lambda _: next(answers)
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        connector.flush("safe", timeout_s=10)
        assert delivery.route == "backlog"
        assert connector.figures().resent == 1


def test_the_same_id_sent_twice_has_the_same_end(cluster: BareCluster) -> None:
    with cluster.connect() as connector:
        twins = [connector.send(b"image", message_id="one") for _ in range(2)]
        connector.flush("safe", timeout_s=10)
        assert [each.result(10) for each in twins] == [None, None]
