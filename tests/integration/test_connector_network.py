"""Networks that fail between a connector and who takes its messages: nothing is lost, each has one effect.

A fault proxy stands before every engine and before the backlog. What a receiver has seen is what handlers would: the
effect of a message is counted once by its id, as the feature row does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from benches.detour import Detour
from benches.fault_proxy import FROZEN, SWALLOWED, FaultProxy, Faults, Way
from harmonicio.core import stream
from harmonicio.core.message import Outcome, RejectReason
from harmonicio.stream_connector import StreamConnector, lanes, peers
from harmonicio.testing.bare_receivers import BareCluster, Receiver, done
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.frames import Flag


class Net:
    """A bare cluster with proxies in between."""

    def __init__(self, cluster: BareCluster) -> None:
        self.cluster = cluster
        self._detour = Detour(cluster.master)

    def before(self, receiver: Receiver) -> FaultProxy:
        return self._detour.proxy(receiver.address)

    def connect(self, **options: object) -> StreamConnector:
        return StreamConnector("images", client=self._detour, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        for proxy in self._detour.proxies.values():
            proxy.close()


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """Peers are given up after half a second, where it would be half a minute and more."""
    monkeypatch.setattr(peers, "SLOW_AFTER_S", 0.5)
    monkeypatch.setattr(lanes, "GRACE_S", 0.2)
    monkeypatch.setattr(stream, "KEEPING_AT_LEAST_S", 0.0)
    monkeypatch.setattr(lanes, "MASTER_SILENT_S", 0.5)
    with BareCluster() as cluster:
        cluster.master.timeout_s = 0.3
        running = Net(cluster)
        yield running
        running.close()


def effects(*receivers: Receiver) -> dict[str, bytes]:
    """What is there once, however often it was executed; the same id never has two contents."""
    there: dict[str, bytes] = {}
    for message_id, payload in (each for receiver in receivers for each in receiver.messages):
        assert there.setdefault(message_id, payload) == payload
    return there


# ── to an engine ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_when_the_answer_is_lost_after_the_work_was_done_the_message_is_sent_again_under_its_id(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    engine = net.cluster.engine()
    with net.connect(patience_s=60.0) as connector:
        connector.send(b"first").result(10)
        net.before(engine).impair(SWALLOWED, Way.DOWN)
        delivery = connector.send(b"image")
        wait_until(lambda: len(engine.messages) == 2)
        with caplog.at_level(logging.WARNING):
            connector.flush("safe", timeout_s=20)
    assert delivery.route == "backlog"
    assert (delivery.message_id, b"image") in engine.messages
    assert net.cluster.backlog.messages == [(delivery.message_id, b"image")]
    assert net.cluster.backlog.seen[0].flags & Flag.SUSPECT
    assert "did not answer a message in time. Its messages are sent again." in caplog.text


@pytest.mark.parametrize("faults", [FROZEN, SWALLOWED], ids=["frozen", "swallowed"])
@pytest.mark.parametrize("size", [10, 8_000_000])
def test_a_half_open_connection_to_an_engine_loses_nothing(net: Net, faults: Faults, size: int) -> None:
    engine = net.cluster.engine()
    with net.connect(patience_s=60.0) as connector:
        connector.send(b"first").result(10)
        net.before(engine).impair(faults, Way.UP)
        delivery = connector.send(bytes(size))
        connector.flush("safe", timeout_s=20)
    assert delivery.is_safe
    assert effects(net.cluster.backlog) == {delivery.message_id: bytes(size)}
    assert len(engine.messages) == 1, "no part of a message reaches a handler"


def test_a_reset_in_the_middle_of_a_message_reaches_no_handler_and_the_message_is_sent_again(net: Net) -> None:
    engine = net.cluster.engine()
    net.before(engine).impair(Faults(reset_at=1_000_000), Way.UP)
    with net.connect() as connector:
        deliveries = [connector.send(bytes([number]) * 300_000) for number in range(20)]
        connector.flush("safe", timeout_s=20)
    there = effects(engine, net.cluster.backlog)
    assert there == {each.message_id: bytes([number]) * 300_000 for number, each in enumerate(deliveries)}
    assert net.before(engine).hits["reset_at"] == 1


def test_a_flipped_bit_is_seen_by_the_checksum_and_the_message_is_sent_again(net: Net) -> None:
    def check(message: IncomingMessage) -> Outcome:
        if message.is_intact:
            return done(message)
        assert engine.messages.pop()[1] != payload, "it was not given to a handler"
        return Outcome.rejected(RejectReason.CHECKSUM, "It is damaged.")

    payload = bytes(100_000)
    engine = net.cluster.engine(check)
    net.before(engine).impair(Faults(flip_at=50_000), Way.UP)
    with net.connect(checksum="always") as connector:
        delivery = connector.send(payload)
        assert delivery.result(10) == len(payload)
        assert connector.figures().resent == 1
    assert net.before(engine).hits["flip"] == 1
    assert engine.messages == [(delivery.message_id, payload)]


def test_a_connection_that_crawls_is_given_up_and_the_message_goes_another_way(net: Net) -> None:
    engine = net.cluster.engine()
    with net.connect(patience_s=60.0) as connector:
        connector.send(b"first").result(10)
        net.before(engine).impair(Faults(bytes_per_s=1), Way.UP)
        delivery = connector.send(b"image")
        connector.flush("safe", timeout_s=20)
    assert delivery.route == "backlog"
    assert len(engine.messages) == 1


def test_delays_and_jitter_only_delay(net: Net) -> None:
    engine = net.cluster.engine()
    net.before(engine).impair(Faults(delay_s=0.02, jitter_s=0.05))
    with net.connect(patience_s=60.0) as connector:
        for _ in range(100):
            connector.send(bytes(5_000))
        connector.flush("processed", timeout_s=30)
        assert connector.figures().resent == 0
    assert len(effects(engine)) == 100


@pytest.mark.parametrize("end", ["cut", "reset"])
def test_connections_that_end_again_and_again_lose_nothing(net: Net, end: str) -> None:
    engines = [net.cluster.engine() for _ in range(2)]
    sent: dict[str, bytes] = {}
    with net.connect() as connector:
        for number in range(30):
            for part in range(10):
                payload = bytes([number, part]) * 10_000
                sent[connector.send(payload).message_id] = payload
            getattr(net.before((*engines, net.cluster.backlog)[number % 3]), end)()
        connector.flush("safe", timeout_s=30)
    assert effects(*engines, net.cluster.backlog) == sent


# ── to the master ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", list(Way))
def test_a_master_that_is_silent_one_way_is_dialled_anew_and_gets_the_message_again(
    net: Net, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    with net.connect() as connector:
        connector.send(b"first")
        connector.flush("safe", timeout_s=10)
        proxy = net.before(net.cluster.backlog)
        proxy.impair(FROZEN, way)
        delivery = connector.send(b"image")
        wait_until(lambda: "did not answer a message in time" in caplog.text)
        proxy.heal()
        connector.flush("safe", timeout_s=20)
    assert delivery.is_safe
    assert dict(net.cluster.backlog.messages)[delivery.message_id] == b"image"


def test_engines_go_on_while_the_master_is_cut_off_and_what_only_it_may_have_waits(net: Net) -> None:
    engine = net.cluster.engine()
    with net.connect(patience_s=60.0) as connector:
        connector.send(b"first").result(10)
        proxy = net.before(net.cluster.backlog)
        proxy.is_refusing = True
        assert [connector.send(b"image").result(10) for _ in range(20)] == [5] * 20
        engine.answer = lambda _: None
        delivery = connector.send(b"suspect")
        wait_until(lambda: len(engine.messages) == 22)
        net.before(engine).reset()
        wait_until(lambda: proxy.accepted, what="the connector to try the backlog")
        assert not delivery.is_safe
        proxy.is_refusing = False
        connector.flush("safe", timeout_s=20)
    assert delivery.route == "backlog"
