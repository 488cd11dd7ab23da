"""A connector with a spool: what its source could not send is sent by the next one, under the same ids."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import Conflict, MasterUnavailable, MessageRejected, NotFound, UndeliveredError
from harmonicio.core.message import Outcome, RejectReason
from harmonicio.stream_connector.delivery import Delivery, DeliveryState
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.events import IncomingMessage

AWAY = MasterUnavailable("The master at http://127.0.0.1:1 does not answer.")

SOURCE = """
import sys, time
from pathlib import Path
from harmonicio.stream_connector import StreamConnector

connector = StreamConnector("images", master="http://127.0.0.1:1", token="t", spool=sys.argv[1])
for number in range(5):
    print(connector.send(bytes([number]) * 3_000_000, metadata={"well": number}, priority=number).message_id)
print(connector.send_file(sys.argv[2], message_id="from a file").message_id, flush=True)
time.sleep(60)
"""


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def spooled(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*.segment"))


def test_a_source_that_is_killed_finds_its_messages_again_under_their_ids(
    cluster: BareCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "plate").write_bytes(b"\7" * 2_000_000)
    command = [sys.executable, "-c", SOURCE, str(tmp_path / "spool"), str(tmp_path / "plate")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as source:
        assert source.stdout is not None
        ids = [source.stdout.readline().strip() for _ in range(6)]
        source.send_signal(signal.SIGKILL)
    assert all(ids)
    engine = cluster.engine()
    with caplog.at_level(logging.WARNING), cluster.connect(spool=tmp_path / "spool") as connector:
        connector.send(b"new").result(10)
        connector.flush("processed", timeout_s=10)
        assert connector.figures().spooled == 0
    assert "6 messages that were not safe are in the spool" in caplog.text
    payloads = dict(engine.messages)
    assert [payloads[each] for each in ids] == [bytes([n]) * 3_000_000 for n in range(5)] + [b"\7" * 2_000_000]
    assert [each.priority for each in engine.seen] == [4, 3, 2, 1, 0, 0, 0]
    assert [each.metadata for each in engine.seen[:5]] == [{"well": number} for number in range(4, -1, -1)]
    assert spooled(tmp_path) == []


def test_close_leaves_in_the_spool_what_is_not_safe_and_says_so(
    cluster: BareCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.master.error = AWAY
    connector = cluster.connect(spool=tmp_path)
    first, second = connector.send(b"first"), connector.send(b"second", message_id="mine")
    assert connector.close(timeout_s=0.1) == 2
    assert f"2 messages of stream 'images' are not safe; they stay in the spool {tmp_path / 'images'}" in caplog.text
    with pytest.raises(UndeliveredError, match="stays in the spool"):
        first.result()
    cluster.master.error = None
    with cluster.connect(spool=tmp_path) as again:
        again.flush("safe", timeout_s=10)
    assert cluster.backlog.messages == [(first.message_id, b"first"), (second.message_id, b"second")]


def test_the_spool_takes_what_the_memory_does_not_and_send_waits_when_it_is_full_too(
    cluster: BareCluster, tmp_path: Path
) -> None:
    cluster.master.error = AWAY
    with cluster.connect(spool=tmp_path, byte_budget_bytes=200_000, spool_max_bytes=2_000_000) as connector:
        sent = []

        def send() -> None:
            sent.extend(connector.send(bytes([number]) * 50_000) for number in range(60))

        sending = threading.Thread(target=send)
        sending.start()
        wait_until(lambda: connector.figures().sent >= 38)
        sending.join(0.3)
        assert sending.is_alive()
        assert 38 <= connector.figures().sent <= 40, "the budget alone would have taken four"
        assert connector._exchange._dispatch.used_bytes <= 200_000
        cluster.master.error = None
        sending.join(20)
        connector.flush("safe", timeout_s=20)
    assert dict(cluster.backlog.messages) == {
        each.message_id: bytes([number]) * 50_000 for number, each in enumerate(sent)
    }
    assert spooled(tmp_path) == []


def test_a_source_that_resends_after_a_restart_does_not_send_twice(cluster: BareCluster, tmp_path: Path) -> None:
    cluster.master.error = AWAY
    connector = cluster.connect(spool=tmp_path)
    connector.send(b"image", message_id="plate-1")
    connector.close(timeout_s=0)
    cluster.master.error = None
    with cluster.connect(spool=tmp_path) as again:
        again.send(b"image", message_id="plate-1")
        with pytest.raises(MessageRejected, match="used before, with other bytes") as caught:
            again.send(b"other", message_id="plate-1")
        assert caught.value.reason == RejectReason.ID_CONFLICT
    assert cluster.backlog.messages == [("plate-1", b"image")]


def test_what_cannot_be_sent_is_put_aside_only_if_nobody_else_has_it(
    cluster: BareCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: IncomingMessage) -> Outcome:
        return Outcome.rejected(RejectReason.TOO_LARGE, "It is too large.")

    cluster.engine(refuse)
    with cluster.connect(spool=tmp_path) as connector, pytest.raises(MessageRejected, match="too large"):
        connector.send(b"image").result(10)
    assert spooled(tmp_path) == []
    cluster.master.error = AWAY
    connector = cluster.connect(spool=tmp_path)
    delivery = connector.send(b"image")
    connector.close(timeout_s=0)
    cluster.master.error = None
    with pytest.raises(MessageRejected, match="too large"), cluster.connect(spool=tmp_path) as again:
        again.flush("safe", timeout_s=10)
    assert spooled(tmp_path) == ["images/aside/0000000001.segment"] or len(spooled(tmp_path)) == 1
    (said,) = (tmp_path / "images" / "aside").glob("*.txt")
    assert f"message {delivery.message_id!r} could not be sent: It is too large." in said.read_text()


def test_threads_that_wait_for_the_spool_and_for_memory_do_not_wait_for_each_other(
    cluster: BareCluster, tmp_path: Path
) -> None:
    engine = cluster.engine()
    sent = 0

    def send() -> None:
        for _ in range(10):
            connector.send(bytes(60_000))

    with cluster.connect(spool=tmp_path, spool_max_bytes=100_000) as connector:
        threads = [threading.Thread(target=send, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        sent = connector.figures().sent
        connector.close(timeout_s=5)
    assert sent == 30
    assert len(engine.messages) == 30


def test_a_message_that_send_refuses_does_not_stay_in_the_spool(cluster: BareCluster, tmp_path: Path) -> None:
    cluster.master.error = AWAY
    connector = cluster.connect(spool=tmp_path)
    connector.send(b"first")
    cluster.master.error = NotFound("There is no stream 'images'.")
    wait_until(lambda: connector._exchange._refusal is not None)
    with pytest.raises(NotFound):
        connector.send(b"second")
    assert connector.close(timeout_s=0.1) == 1


def test_two_connectors_do_not_share_a_spool(cluster: BareCluster, tmp_path: Path) -> None:
    with cluster.connect(spool=tmp_path), pytest.raises(Conflict, match="Another connector uses"):
        cluster.connect(spool=tmp_path).send(b"image")
    with cluster.connect(spool=tmp_path) as after:
        after.send(b"image")


def test_who_sends_again_what_is_in_the_spool_hears_what_became_of_it_also_after_it_was_processed(
    cluster: BareCluster, tmp_path: Path
) -> None:
    cluster.master.error = AWAY
    before = cluster.connect(spool=tmp_path)
    before.send(b"plate", message_id="plate 1")
    before.close(timeout_s=0)
    cluster.master.error = None
    engine = cluster.engine()
    with cluster.connect(spool=tmp_path) as connector:
        connector.flush("processed", timeout_s=10)
        gc.collect()
        with pytest.raises(MessageRejected):
            connector.send(b"other", message_id="plate 1")
        delivery = connector.send(b"plate", message_id="plate 1")
        delivery.result(10)
        assert delivery.state is DeliveryState.DONE
        again = connector.send(b"plate", message_id="plate 1")
        assert again is delivery
    assert len(engine.messages) == 1


class Interrupted(dict[str, Delivery]):
    """Ctrl-C just when something was noted."""

    def __setitem__(self, message_id: str, delivery: Delivery) -> None:
        super().__setitem__(message_id, delivery)
        raise KeyboardInterrupt


def test_an_id_whose_sending_was_interrupted_can_be_sent_again(cluster: BareCluster) -> None:
    cluster.engine()
    with cluster.connect() as connector:
        outgoing = connector._outgoing
        noted, outgoing._sending = outgoing._sending, Interrupted()
        with pytest.raises(KeyboardInterrupt):
            connector.send(b"plate", message_id="plate 1")
        assert not outgoing._sending, "another thread would wait for ever"
        outgoing._sending = noted
        connector.send(b"other", message_id="plate 1").result(10)
