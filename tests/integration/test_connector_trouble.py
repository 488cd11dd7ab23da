"""The stream connector when the master is away, or the source gives up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from harmonicio.core.errors import (
    MasterUnavailable,
    NotAllowed,
    NotFound,
    OutcomeTimeout,
    UndeliveredError,
)
from harmonicio.stream_connector import trouble
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.waiting import wait_until

AWAY = MasterUnavailable("The master at http://127.0.0.1:1 does not answer.")


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


# ── the master ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_wait_for_a_master_that_comes_back(cluster: BareCluster) -> None:
    cluster.engine()
    cluster.master.error = AWAY
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        with pytest.raises(OutcomeTimeout):
            delivery.result(0.3)
        cluster.master.error = None
        assert delivery.result(10) == 5


def test_live_connections_go_on_while_the_master_is_away(cluster: BareCluster) -> None:
    cluster.engine()
    with cluster.connect(patience_s=60.0) as connector:
        connector.send(b"image").result(10)
        cluster.master.error = AWAY
        cluster.backlog.close()
        assert [connector.send(b"image").result(10) for _ in range(50)] == [5] * 50
        cluster.master.error = None


def test_after_a_restart_of_the_master_connections_stay_and_get_new_leases(cluster: BareCluster) -> None:
    cluster.master.term_s = 0.6
    engine = cluster.engine()
    with cluster.connect(patience_s=60.0) as connector:
        connector.send(b"image").result(10)
        cluster.master.forget()
        deadline = time.monotonic() + 10
        while not cluster.master.held and time.monotonic() < deadline:
            assert connector.send(b"image").result(10) == 5
        assert list(cluster.master.held) == ["l-1"]
        assert len(engine.sessions) == 1, "the same connection all the time"


def test_a_master_that_is_not_there_is_named_in_a_warning(
    cluster: BareCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trouble, "WARN_AFTER_S", 0.3)
    cluster.engine()
    cluster.master.error = AWAY
    with caplog.at_level(logging.WARNING), cluster.connect() as connector:
        delivery = connector.send(b"image")
        wait_until(lambda: "Trying again at http://127.0.0.1:1" in caplog.text)
        cluster.master.error = None
        delivery.result(10)
        wait_until(lambda: "answers again" in caplog.text)


def test_a_stream_that_is_deleted_ends_the_waiting(cluster: BareCluster) -> None:
    cluster.master.error = AWAY
    connector = cluster.connect()
    delivery = connector.send(b"image")
    cluster.master.error = NotFound("There is no stream 'images'.")
    with pytest.raises(NotFound):
        delivery.result(10)
    with pytest.raises(NotFound):
        connector.send(b"image")
    with pytest.raises(UndeliveredError, match="There is no stream"):
        connector.close()


def test_a_ticket_for_the_backlog_that_is_refused_is_replaced(cluster: BareCluster) -> None:
    cluster.backlog.refusal = NotAllowed("This ticket is too old.")
    with cluster.connect() as connector:
        delivery = connector.send(b"image")
        wait_until(lambda: connector.figures().lease_requests >= 3)
        cluster.backlog.refusal = None
        connector.flush("safe", timeout_s=10)
        assert delivery.route == "backlog"


# ── the source ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_close_names_the_messages_that_are_not_safe(cluster: BareCluster) -> None:
    cluster.master.error = AWAY
    connector = cluster.connect()
    deliveries = [connector.send(b"image") for _ in range(3)]
    with pytest.raises(UndeliveredError) as caught:
        connector.close(timeout_s=0.3)
    assert caught.value.message_ids == tuple(each.message_id for each in deliveries)
    assert all(each.released and not each.is_safe for each in deliveries)
    with pytest.raises(UndeliveredError):
        deliveries[0].result(1)
    connector.close()


def test_close_sends_to_the_backlog_what_waits_patiently(cluster: BareCluster) -> None:
    cluster.engine(window=0)
    connector = cluster.connect(patience_s=60.0)
    delivery = connector.send(b"image")
    connector.close(timeout_s=10)
    assert delivery.route == "backlog"


def test_an_error_in_the_source_is_raised_after_what_was_sent_is_safe(cluster: BareCluster) -> None:
    cluster.engine()
    with pytest.raises(KeyError), cluster.connect() as connector:
        delivery = connector.send(b"image")
        raise KeyError("an error of the source")
    assert delivery.is_safe


def test_an_interrupted_source_hears_which_messages_are_not_safe(cluster: BareCluster) -> None:
    cluster.engine(lambda _: None)
    with pytest.raises(KeyboardInterrupt) as caught, cluster.connect() as connector:
        connector.send(b"image")
        raise KeyboardInterrupt
    assert "1 messages of stream 'images' were not safe" in caught.value.__notes__[0]


def test_closing_wakes_whoever_waits(cluster: BareCluster) -> None:
    cluster.engine(lambda _: None)
    connector = cluster.connect(byte_budget_bytes=1000, patience_s=60.0)
    delivery = connector.send(bytes(900))
    caught: list[BaseException] = []

    def attempt(call: object) -> None:
        try:
            call()  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001  the test looks at it
            caught.append(error)

    calls = (lambda: connector.send(bytes(900)), lambda: delivery.result(30))
    threads = [threading.Thread(target=attempt, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    wait_until(lambda: connector._exchange.pump._waiters == 2)
    with pytest.raises(UndeliveredError):
        connector.close(timeout_s=0.1)
    for thread in threads:
        thread.join(5)
    assert sorted(type(error).__name__ for error in caught) == ["InvalidInput", "UndeliveredError"]


def test_an_idle_connector_does_not_burn_the_processor(cluster: BareCluster) -> None:
    cluster.engine(window=0)
    cluster.backlog.window = 0
    with cluster.connect() as connector:
        connector.send(b"image")
        time.sleep(0.3)
        before = time.process_time()
        time.sleep(0.7)
        used_s = time.process_time() - before
        cluster.backlog.window = 10
        for session in cluster.backlog.sessions:
            session.pause()
    assert used_s < 0.2
