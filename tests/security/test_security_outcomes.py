"""What engines tell a source of messages that it has not sent them: nothing of it is believed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harmonicio.core.errors import OutcomeTimeout
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.testing.bare_receivers import BareCluster, Receiver, done
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.events import Result
from harmonicio.wire.sections import outcomes_frame, results_frame

pytestmark = pytest.mark.row("S27")

DONE = OutcomeKind.DONE


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def say(engine: Receiver, frame: bytes) -> None:
    """Have an engine say something on its first connection, and take nothing on those that follow."""
    engine.window = 0
    engine.sessions[0].link.send(frame)


def is_cut_off(engine: Receiver) -> None:
    wait_until(lambda: engine.sessions[0].link.channel.is_closed, 10, what="the source to close the connection")


@pytest.mark.parametrize(
    ("first", "last"), [(1, 1), (0, 1), (0, 1_000_000), (7, 7)], ids=["the other's", "both", "all", "never given"]
)
def test_an_engine_that_answers_for_a_message_of_another_is_cut_off_and_that_message_goes_on(
    cluster: BareCluster, first: int, last: int
) -> None:
    may_answer = threading.Event()
    liar = cluster.engine(lambda _: None, window=1)
    with cluster.connect(patience_s=60.0) as connector:
        taken = connector.send(b"taken")
        wait_until(lambda: liar.seen)
        honest = cluster.engine(lambda message: done(message) if may_answer.wait(20) else None, window=1)
        held = connector.send(b"held by another")
        wait_until(lambda: honest.seen)
        say(liar, outcomes_frame([(first, last, DONE, b"")]))
        is_cut_off(liar)
        assert not taken.is_safe, "what it does hold does not count in such an answer"
        assert not held.is_safe
        may_answer.set()
        assert held.result(10) == len(b"held by another")
        connector.flush("processed", timeout_s=10)
        assert taken.route == "backlog", "as a suspect, like everything that a lost engine held"


def test_an_engine_that_answers_for_what_has_not_left_is_cut_off(cluster: BareCluster) -> None:
    """The kernel takes no more, so that small messages wait behind a large one; the engine guesses their numbers."""
    may_read = threading.Event()

    def reads_no_more() -> None:
        may_read.wait(20)

    liar = cluster.engine(lambda _: None, window=100)
    with cluster.connect(patience_s=60.0) as connector:
        connector.send(b"first")
        wait_until(lambda: liar.seen)
        liar.answer = lambda _: reads_no_more()
        connector.send(b"second")
        wait_until(lambda: len(liar.seen) == 2)
        large = [connector.send(bytes(30_000_000)) for _ in range(2)]
        waiting = connector.send(b"waits behind them")
        say(liar, outcomes_frame([(4, 4, DONE, b"")]))
        honest = cluster.engine()
        assert waiting.result(10) == len(b"waits behind them")
        assert [content for _, content in honest.messages].count(b"waits behind them") == 1
        may_read.set()
        connector.flush("processed", timeout_s=20)
        assert all(each.is_safe for each in large)
    assert b"waits behind them" not in [content for _, content in liar.messages]


def test_an_answer_that_comes_twice_counts_once(cluster: BareCluster) -> None:
    liar = cluster.engine(lambda _: None, window=2)
    with cluster.connect(patience_s=0.5) as connector:
        one, other = connector.send(b"one"), connector.send(b"other")
        wait_until(lambda: len(liar.seen) == 2)
        answer = outcomes_frame([(0, 0, DONE, b"")])
        say(liar, answer + answer)
        is_cut_off(liar)
        connector.flush("processed", timeout_s=10)
        assert (one.route, other.route) == ("engine", "backlog")
        assert connector.figures().processed == 2


@pytest.mark.parametrize(
    "outcome",
    [Outcome(DONE), Outcome(OutcomeKind.REJECTED, reason=RejectReason.TOO_LARGE), None],
    ids=["done", "rejected", "forgotten"],
)
def test_no_engine_tells_the_end_of_a_message_that_the_master_has(
    cluster: BareCluster, outcome: Outcome | None
) -> None:
    def not_yet(_: str) -> Outcome | None:
        raise LookupError

    liar = cluster.engine(lambda _: None, window=1)
    cluster.backlog.final = not_yet
    with cluster.connect(patience_s=0.05) as connector:
        connector.send(b"taken")
        wait_until(lambda: liar.seen)
        stored = connector.send(b"stored")
        wait_until(lambda: stored.is_safe)
        with pytest.raises(OutcomeTimeout):
            stored.result(0.1)
        say(liar, results_frame([Result(stored.message_id, outcome)]))
        is_cut_off(liar)
        with pytest.raises(OutcomeTimeout):
            stored.result(0.1)
        cluster.backlog.final = lambda _: Outcome(DONE, result="the master's word")
        cluster.backlog.cut()
        assert stored.result(10) == "the master's word"


def test_no_engine_says_that_the_master_has_stored_a_message(cluster: BareCluster) -> None:
    liar = cluster.engine(lambda _: None, window=1)
    with cluster.connect(patience_s=60.0) as connector:
        delivery = connector.send(b"taken")
        wait_until(lambda: liar.seen)
        say(liar, outcomes_frame([(0, 0, OutcomeKind.STORED, b"")]))
        is_cut_off(liar)
        wait_until(lambda: delivery.is_safe)
        assert [content for _, content in cluster.backlog.messages] == [b"taken"], "the master does have it"
