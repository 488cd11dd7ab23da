"""The stream connector when engines vanish, fall silent, break the protocol or come later."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from harmonicio.control.messages import LeaseList, LeaseRenewal
from harmonicio.core.errors import (
    Conflict,
    HarmonicIOError,
    MasterUnavailable,
    MessageRejected,
    NotFound,
)
from harmonicio.core.lease import Address
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector.dispatch import FEW_MESSAGES
from harmonicio.testing.bare_receivers import BareCluster, done
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import tcp
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.outcomes import DONE, OutcomeBatch
from harmonicio.wire.sections import credit_frame

AWAY = MasterUnavailable("The master at http://127.0.0.1:1 does not answer.")


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def test_what_was_in_flight_when_an_engine_vanished_goes_to_the_backlog_as_suspects(cluster: BareCluster) -> None:
    engine = cluster.engine(lambda _: None)
    with cluster.connect() as connector:
        deliveries = [connector.send(os.urandom(200_000)) for _ in range(5)]
        wait_until(lambda: len(engine.messages) == 5)
        engine.close()
        connector.flush("safe", timeout_s=10)
        assert {each.route for each in deliveries} == {"backlog"}
        assert connector.figures().resent == 5
    assert sorted(cluster.backlog.messages) == sorted(engine.messages)
    assert all(message.is_suspect for message in cluster.backlog.seen)


def test_messages_that_an_engine_gives_back_before_it_breaks_the_protocol_go_to_another_at_once(
    cluster: BareCluster,
) -> None:
    broken = cluster.engine(lambda _: None)
    with cluster.connect(patience_s=60.0) as connector:
        deliveries = [connector.send(b"x" * 1000) for _ in range(2 * FEW_MESSAGES)]
        wait_until(lambda: len(broken.seen) == len(deliveries))
        cluster.engine(done)
        wait_until(lambda: connector.figures().engines == 2)
        answers = OutcomeBatch()
        for sequence in range(len(deliveries)):
            answers.add(sequence, Outcome(OutcomeKind.REJECTED, reason=RejectReason.DRAINING))
        answers.add(len(deliveries), DONE)  # Which has never been sent.
        broken.sessions[0].link.send(answers.take_frame())
        connector.flush("processed", timeout_s=10)
    assert {each.route for each in deliveries} == {"engine"}


def test_an_engine_that_breaks_the_protocol_is_given_nothing_more(cluster: BareCluster) -> None:
    broken = cluster.engine(lambda _: None, window=1)
    with cluster.connect(patience_s=60.0) as connector:
        deliveries = [connector.send(b"x" * 1000) for _ in range(6)]
        wait_until(lambda: len(broken.seen) == 1)
        good = cluster.engine(done, window=1)
        first, never_sent = OutcomeBatch(), OutcomeBatch()
        first.add(0, DONE)
        never_sent.add(len(deliveries), DONE)
        broken.window = 0  # When it is dialled again.
        frames = (first.take_frame(), credit_frame(20, 2**40), never_sent.take_frame())
        broken.sessions[0].link.send(b"".join(frames))
        connector.flush("processed", timeout_s=10)
    assert (len(broken.seen), len(good.seen)) == (1, 5)


def test_an_engine_that_vanishes_in_the_middle_of_large_messages_loses_none(cluster: BareCluster) -> None:
    engine = cluster.engine()
    payloads = [os.urandom(20_000_000) for _ in range(6)]
    with cluster.connect(patience_s=2.0) as connector:
        deliveries = [connector.send(payload) for payload in payloads]
        wait_until(lambda: engine.port.received_bytes > 30_000_000)
        threading.Thread(target=engine.close).start()
        connector.flush("safe", timeout_s=30)
        assert all(each.is_safe for each in deliveries)
    assert {payload for _, payload in engine.messages + cluster.backlog.messages} == set(payloads)
    wait_until(lambda: engine.port.connections == 0)


def test_what_had_not_begun_when_an_engine_vanished_is_no_suspect(cluster: BareCluster) -> None:
    may_read = threading.Event()
    first = cluster.engine(lambda _: None, window=100)
    with cluster.connect(patience_s=30.0) as connector:
        held = connector.send(b"small")
        wait_until(lambda: first.seen)
        first.answer = lambda _: may_read.wait(20) and None
        large = [connector.send(os.urandom(30_000_000)) for _ in range(4)]
        wait_until(lambda: len(first.seen) == 2)
        first.answer = done
        first.cut()
        may_read.set()
        connector.flush("safe", timeout_s=20)
        assert held.route == large[0].route == "backlog"
        assert large[-1].route == "engine"
    assert all(message.is_suspect for message in cluster.backlog.seen)
    assert not any(message.is_suspect for message in first.seen)


def test_the_lease_of_a_lost_connection_is_given_back_and_the_engine_is_found_again(cluster: BareCluster) -> None:
    engine = cluster.engine()
    with cluster.connect(patience_s=60.0) as connector:
        assert connector.send(b"image").result(10) == 5
        engine.cut()
        wait_until(lambda: cluster.master.released == ["l-0"])
        assert connector.send(b"again").result(10) == 5
        assert cluster.master.held == {"l-1": 0}


def test_a_draining_engine_answers_what_it_has_and_gets_nothing_new(cluster: BareCluster) -> None:
    may_answer = threading.Event()
    first = cluster.engine(lambda message: done(message) if may_answer.wait(20) else None)
    with cluster.connect(patience_s=60.0) as connector:
        old = connector.send(b"old")
        wait_until(lambda: first.seen)
        second = cluster.engine()
        first.drain()
        wait_until(lambda: first.sessions and connector._exchange._dispatch.engines[0].is_draining)
        new = connector.send(b"newer")
        assert new.result(10) == 5
        may_answer.set()
        assert old.result(10) == 3
    assert [message.id for message in second.seen] == [new.message_id]


def test_an_engine_without_credit_to_give_rejects_and_another_takes_the_message(cluster: BareCluster) -> None:
    cluster.engine(lambda _: Outcome(OutcomeKind.REJECTED, reason=RejectReason.DRAINING))
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        connector.flush("safe", timeout_s=10)
        assert delivery.route == "backlog"
    assert not cluster.backlog.seen[0].is_suspect


def test_an_engine_that_is_silent_for_too_long_is_given_up(
    cluster: BareCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonicio.stream_connector.lanes.GRACE_S", 0.1)
    monkeypatch.setattr("harmonicio.core.stream.KEEPING_AT_LEAST_S", 0.0)
    cluster.master.timeout_s = 0.2
    engine = cluster.engine(lambda _: None)
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        connector.flush("safe", timeout_s=10)
        assert delivery.route == "backlog"
    assert len(engine.seen) == 1
    assert cluster.backlog.seen[0].is_suspect


def test_an_idle_engine_is_given_back_and_leased_again_when_needed(cluster: BareCluster) -> None:
    cluster.master.term_s = 0.3
    engine = cluster.engine()
    with cluster.connect(patience_s=60.0) as connector:
        assert connector.send(b"image").result(10) == 5
        wait_until(lambda: cluster.master.released and engine.port.connections == 0)
        assert connector.figures().engines == 0
        assert connector.send(b"again").result(10) == 5
        assert cluster.master.renewals > 0


class SilentHost:
    """Takes connections and never says anything, as a host that hangs."""

    def __init__(self) -> None:
        self._socket = tcp.listen("127.0.0.1", 0)
        self.address = Address(*self._socket.getsockname())

    def close(self) -> None:
        self._socket.close()


def test_a_host_that_does_not_answer_delays_neither_other_engines_nor_the_end(cluster: BareCluster) -> None:
    for _ in range(3):
        cluster.engines.append(SilentHost())  # type: ignore[arg-type]
    cluster.engine()
    began_s = time.monotonic()
    with cluster.connect(patience_s=60.0) as connector:
        assert connector.send(b"image").result(4) == 5
        assert time.monotonic() - began_s < 4
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 2
    assert cluster.master.held == {}, "the leases that are still dialled are given back, too"


def test_a_host_that_does_not_answer_does_not_delay_the_backlog(cluster: BareCluster) -> None:
    cluster.engines.append(SilentHost())  # type: ignore[arg-type]
    began_s = time.monotonic()
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        connector.flush("safe", timeout_s=4)
        assert delivery.route == "backlog"
        assert time.monotonic() - began_s < 4


@pytest.mark.parametrize("error", [NotFound("There is no such lease."), Conflict("The lease has ended.")])
def test_a_lease_that_the_master_does_not_know_ends_and_nothing_else(
    cluster: BareCluster, monkeypatch: pytest.MonkeyPatch, error: HarmonicIOError
) -> None:
    def refuse(held: LeaseList) -> LeaseRenewal:
        cluster.master.forget()
        raise error

    cluster.master.term_s = 0.6
    engine = cluster.engine()
    monkeypatch.setattr(cluster.master, "renew_leases", refuse)
    with cluster.connect(patience_s=60.0) as connector:
        connector.send(b"image").result(10)
        wait_until(lambda: "l-1" in cluster.master.held)
        assert connector.send(b"image").result(10) == 5
        assert len(engine.sessions) == 1, "the same connection all the time"


def test_the_end_of_a_lease_that_is_not_held_any_more_is_no_trouble(
    cluster: BareCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renewals: list[LeaseList] = []

    def renew(held: LeaseList) -> LeaseRenewal:
        renewals.append(held)
        return LeaseRenewal(held.leases, ("l-of-long-ago",))

    cluster.master.term_s = 0.3
    cluster.engine()
    monkeypatch.setattr(cluster.master, "renew_leases", renew)
    with cluster.connect(patience_s=60.0) as connector:
        wait_until(lambda: len(renewals) > 2 or connector.send(b"image").result(10) != 5)
    assert "failed" not in caplog.text


def test_engines_that_come_later_are_found(cluster: BareCluster) -> None:
    with cluster.connect(patience_s=60.0) as connector:
        delivery = connector.send(b"image")
        engine = cluster.engine()
        assert delivery.result(10) == 5
        assert len(engine.seen) == 1


def test_outcomes_in_any_order_settle_their_own_messages(cluster: BareCluster) -> None:
    held: list[IncomingMessage] = []
    engine = cluster.engine(lambda message: held.append(message))
    with cluster.connect() as connector:
        deliveries = [connector.send(b"image") for _ in range(10)]
        wait_until(lambda: len(held) == 10)
        (session,) = engine.sessions
        for message in reversed(held):
            session.say(message.sequence, Outcome(OutcomeKind.DONE, result=message.sequence))
        session.pause()
        assert [each.result(10) for each in deliveries] == list(range(10))


def test_two_messages_in_flight_with_the_same_id_have_their_own_outcomes(cluster: BareCluster) -> None:
    held: list[IncomingMessage] = []
    engine = cluster.engine(lambda message: held.append(message))
    with cluster.connect(keeps_outcomes=False) as connector:
        first, second, third = (connector.send(payload, message_id="plate 1") for payload in (b"a", b"b", b"c"))
        wait_until(lambda: len(held) == 3)
        (session,) = engine.sessions
        conflict = Outcome(OutcomeKind.REJECTED, reason=RejectReason.ID_CONFLICT, text="The id has other bytes.")
        session.say(held[2].sequence, conflict)
        session.say(held[1].sequence, Outcome(OutcomeKind.DONE, result="second"))
        session.say(held[0].sequence, Outcome(OutcomeKind.DONE, result="first"))
        session.pause()
        assert (first.result(10), second.result(10)) == ("first", "second")
        with pytest.raises(MessageRejected, match="other bytes"):
            third.result(10)


def test_an_engine_that_breaks_the_protocol_loses_its_connection_but_no_message(cluster: BareCluster) -> None:
    engine = cluster.engine(lambda _: None)
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        wait_until(lambda: engine.seen)
        (session,) = engine.sessions
        session.say(7, DONE)
        session.pause()
        connector.flush("safe", timeout_s=10)
        assert delivery.route == "backlog"


def test_an_engine_that_is_gone_by_the_masters_word_is_given_up_at_once() -> None:
    with BareCluster(term_s=0.3) as cluster:
        silent = cluster.engine(lambda _: None)
        with cluster.connect() as connector:
            delivery = connector.send(b"image")
            wait_until(lambda: silent.seen, 5)
            cluster.master.engine_is_gone(silent)
            connector.flush("safe", timeout_s=5)
            assert (delivery.route, connector.figures().engines) == ("backlog", 0)
        assert [message.is_suspect for message in cluster.backlog.seen] == [True]


def test_an_engine_whose_lease_has_ended_but_that_is_not_gone_is_left_in_peace() -> None:
    with BareCluster(term_s=0.3) as cluster:
        cluster.engine()
        with cluster.connect() as connector:
            connector.send(b"image").result(5)
            cluster.master.forget()
            wait_until(lambda: cluster.master.renewals >= 2, 5)
            assert connector.figures().engines == 1
            assert connector.figures().resent == 0
