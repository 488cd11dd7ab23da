"""The stream connector sends peer to peer: to engines that the tests play over real sockets."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from harmonicio.core.errors import InvalidInput, MessageRejected, NotAllowed, NotFound
from harmonicio.core.message import Outcome, RejectReason
from harmonicio.core.message import OutcomeKind as Kind
from harmonicio.stream_connector import DeliveryState, StreamConnector
from harmonicio.testing.bare_receivers import BareCluster, done
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.frames import MAX_INLINE_BYTES
from harmonicio.wire.outcomes import DONE


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def test_messages_go_to_the_engine_and_results_come_back(cluster: BareCluster) -> None:
    engine = cluster.engine()
    payloads = [b"", b"x", *map(os.urandom, (16_384, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 3_000_000))]
    with cluster.connect() as connector:
        deliveries = [connector.send(payload, metadata={"n": n}) for n, payload in enumerate(payloads)]
        assert [each.result(10) for each in deliveries] == [len(payload) for payload in payloads]
        assert {each.route for each in deliveries} == {"engine"}
        assert all(each.is_safe and each.released for each in deliveries)
    assert [payload for _, payload in engine.messages] == payloads
    assert [message.metadata for message in engine.seen] == [{"n": n} for n in range(6)]
    assert cluster.master.released == ["l-0"]
    assert cluster.master.is_closed


def test_ids_priorities_and_metadata_are_as_they_were_when_the_message_was_sent(cluster: BareCluster) -> None:
    engine = cluster.engine()
    metadata = {"well": "B03"}
    with cluster.connect() as connector:
        connector.send(b"1", metadata=metadata, priority=-7, message_id="plate 1/B03")
        metadata["well"] = "changed"
        connector.send(b"2", message_id="0123456789abcdef0123456789abcdef")
        connector.flush("processed", timeout_s=10)
    seen = {message.id: message for message in engine.seen}
    assert set(seen) == {"plate 1/B03", "0123456789abcdef0123456789abcdef"}
    first = seen["plate 1/B03"]
    assert (first.priority, first.metadata) == (-7, {"well": "B03"})


def test_fifty_thousand_small_messages_arrive_once_and_in_order(cluster: BareCluster) -> None:
    engine = cluster.engine(lambda _: DONE, window=2_000)
    with cluster.connect(patience_s=60.0) as connector:
        for number in range(50_000):
            connector.send(b"%d" % number)
        connector.flush("processed", timeout_s=60)
        assert connector.figures().via_engine == 50_000
    assert [int(payload) for _, payload in engine.messages] == list(range(50_000))


def test_messages_are_spread_over_engines(cluster: BareCluster) -> None:
    def work(message: IncomingMessage) -> Outcome:
        time.sleep(0.002)
        return done(message)

    engines = [cluster.engine(work, window=1) for _ in range(4)]
    with cluster.connect(patience_s=60.0) as connector:
        for _ in range(200):
            connector.send(bytes(1000))
        connector.flush("safe", timeout_s=20)
    assert sum(len(engine.messages) for engine in engines) == 200
    assert min(len(engine.messages) for engine in engines) > 0


def test_slow_messages_after_quick_ones_are_spread_over_engines(cluster: BareCluster) -> None:
    def work(message: IncomingMessage) -> Outcome:
        if message.size_bytes:
            time.sleep(0.02)
        return done(message)

    engines = [cluster.engine(work, window=2_000) for _ in range(4)]
    with cluster.connect(patience_s=60.0) as connector:
        wait_until(lambda: [connector.send(b"") for _ in range(500)] and connector.figures().engines == 4, 10)
        connector.flush("processed", timeout_s=20)
        for _ in range(80):
            connector.send(b"slow")
        connector.flush("processed", timeout_s=20)
    assert [len([each for each in engine.seen if each.size_bytes]) for engine in engines] == [20] * 4


def test_payloads_of_fifty_megabytes_leave_in_many_writes_and_arrive_whole(cluster: BareCluster) -> None:
    engines = [cluster.engine(window=2) for _ in range(2)]
    payloads = [os.urandom(50_000_000) for _ in range(4)]
    with cluster.connect(patience_s=60.0) as connector:
        deliveries = [connector.send(payload) for payload in payloads]
        assert [each.result(60) for each in deliveries] == [50_000_000] * 4
    assert {payload for engine in engines for _, payload in engine.messages} == set(payloads)


@pytest.mark.parametrize("mode", ["always", "auto", "never"])
def test_checksums_follow_payloads_when_they_are_wanted(cluster: BareCluster, mode: str, tmp_path: Path) -> None:
    engine = cluster.engine()
    path = tmp_path / "large"
    path.write_bytes(os.urandom(5_000_001))
    with cluster.connect(checksum=mode) as connector:
        for payload in (b"", b"x", os.urandom(20_000), os.urandom(200_000), os.urandom(2_000_000)):
            connector.send(payload)
        connector.send_file(path)
        connector.flush("processed", timeout_s=20)
    assert [message.has_checksum for message in engine.seen] == [mode == "always"] * 6
    assert all(message.is_intact for message in engine.seen)
    assert engine.messages[-1][1] == path.read_bytes()


def test_many_threads_send_and_wait_at_the_same_time(cluster: BareCluster) -> None:
    for _ in range(2):
        cluster.engine(window=8)

    def source(number: int) -> int:
        results = 0
        for turn in range(60):
            size = (number * 31 + turn * 977) % 30_000
            results += connector.send(bytes(size)).result(30) == size
        return results

    with cluster.connect() as connector, ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(source, range(8))) == 480
        assert connector.figures().sent == connector.figures().processed == 480


def test_outcomes_arrive_although_nobody_waits_for_them(cluster: BareCluster) -> None:
    cluster.engine()
    with cluster.connect() as connector:
        assert connector.send(b"first").result(10) == 5
        deliveries = [connector.send(b"image") for _ in range(50)]
        wait_until(lambda: all(each.state is DeliveryState.DONE for each in deliveries), 5)


# ── what may be sent ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_writable_buffers_are_copied_and_read_only_ones_are_borrowed(cluster: BareCluster) -> None:
    may_answer = threading.Event()

    def answer(message: IncomingMessage) -> Outcome:
        may_answer.wait(20)
        return done(message)

    engine = cluster.engine(answer)
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    with cluster.connect() as connector:
        first = connector.send(array)
        array[:] = 0
        borrowed = connector.send(array, borrow=True)
        assert not borrowed.released
        may_answer.set()
        first.result(10)
        borrowed.result(10)
        assert borrowed.released
    assert engine.messages[0][1] == np.arange(12, dtype=np.uint16).tobytes()
    assert engine.messages[1][1] == bytes(24)


def test_what_cannot_be_sent_is_said_at_once(cluster: BareCluster) -> None:
    cluster.engine()
    with cluster.connect() as connector:
        for problem, call in {
            "not contiguous": lambda: connector.send(np.arange(12).reshape(3, 4).T),
            "A str cannot be sent": lambda: connector.send("text"),
            "cannot be sent": lambda: connector.send(b"", metadata={"a": object()}),
            "metadata has": lambda: connector.send(b"", metadata={"a": bytes(70_000)}),
            "priority": lambda: connector.send(b"", priority=40_000),
            "not a message id": lambda: connector.send(b"", message_id="two\nlines"),
            "cannot be sent: No such file": lambda: connector.send_file("/nowhere/image.tif"),
            "cannot be sent: It is a folder": lambda: connector.send_file("/"),
        }.items():
            with pytest.raises(InvalidInput, match=problem):
                call()
        assert connector.figures().sent == 0


def test_a_message_that_is_too_large_is_rejected_and_others_go_on(cluster: BareCluster) -> None:
    engine = cluster.engine(max_message_bytes=100)
    with cluster.connect() as connector:
        delivery = connector.send(bytes(101))
        with pytest.raises(MessageRejected, match="101 bytes") as caught:
            delivery.result(10)
        assert caught.value.reason == "too_large"
        assert connector.send(bytes(100)).result(10) == 100
    assert len(engine.seen) == 1


def test_an_id_conflict_is_final_and_damage_is_not(cluster: BareCluster) -> None:
    answers = iter([RejectReason.CHECKSUM, RejectReason.ID_CONFLICT])
    cluster.engine(lambda _: Outcome(Kind.REJECTED, reason=next(answers)))
    with cluster.connect() as connector, pytest.raises(MessageRejected) as caught:
        connector.send(b"image").result(10)
    assert caught.value.reason == "id_conflict"


def test_what_was_rejected_is_sent_when_the_source_sends_it_again_under_its_id(cluster: BareCluster) -> None:
    answers = iter([RejectReason.TOO_LARGE, RejectReason.ID_CONFLICT])

    def answer(_: IncomingMessage) -> Outcome:
        reason = next(answers, None)
        return DONE if reason is None else Outcome(Kind.REJECTED, reason=reason)

    engine = cluster.engine(answer)
    with cluster.connect() as connector:
        connector.send(b"image", message_id="plate 1")
        with pytest.raises(MessageRejected, match="too_large"):
            connector.flush("safe", timeout_s=10)
        with pytest.raises(MessageRejected, match="id_conflict"):
            connector.send(b"image", message_id="plate 1").result(10)
        connector.send(b"mended", message_id="plate 1").result(10)
    assert [payload for _, payload in engine.messages] == [b"image", b"image", b"mended"]


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_send_many_sends_each_and_shows_how_far_it_is(cluster: BareCluster, capsys: pytest.CaptureFixture[str]) -> None:
    engine = cluster.engine()
    with cluster.connect() as connector:
        deliveries = list(connector.send_many([b"a", b"bb", b"ccc"], progress=True, priority=3))
        assert [each.result(10) for each in deliveries] == [1, 2, 3]
    assert {message.priority for message in engine.seen} == {3}
    assert "3 of 3 sent" in capsys.readouterr().err


def test_send_blocks_when_the_byte_budget_is_used_up_and_goes_on_when_there_is_room(cluster: BareCluster) -> None:
    may_answer = threading.Event()
    cluster.engine(lambda message: done(message) if may_answer.wait(20) else None)
    with cluster.connect(byte_budget_bytes=250_000, patience_s=60.0) as connector:
        sender = threading.Thread(target=lambda: [connector.send(bytes(100_000)) for _ in range(5)])
        sender.start()
        wait_until(lambda: connector.figures().sent == 2)
        sender.join(0.2)
        assert connector.figures().sent == 2
        may_answer.set()
        sender.join(10)
        assert connector.figures().sent == 5
        assert connector.send(bytes(1_000_000)).result(10) == 1_000_000, "one larger than the budget is sent alone"


def test_tiny_messages_are_bounded_as_well(cluster: BareCluster) -> None:
    may_answer = threading.Event()
    cluster.engine(lambda message: done(message) if may_answer.wait(20) else None)
    with cluster.connect(byte_budget_bytes=512 * 10, patience_s=60.0) as connector:
        sender = threading.Thread(target=lambda: [connector.send(b"") for _ in range(30)])
        sender.start()
        wait_until(lambda: connector.figures().sent == 10)
        sender.join(0.1)
        assert connector.figures().sent == 10
        may_answer.set()
        sender.join(10)


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_stream_is_said_when_the_connector_is_entered(cluster: BareCluster) -> None:
    cluster.master.error = NotFound("There is no stream 'images'.", hint="List them with harmonicio stream ls.")
    with pytest.raises(NotFound, match="stream ls"), cluster.connect():
        pass
    assert cluster.master.is_closed


def test_a_connector_that_was_refused_at_the_first_send_may_try_again(cluster: BareCluster) -> None:
    cluster.engine()
    connector = cluster.connect()
    cluster.master.error = NotAllowed("This token may not send.")
    with pytest.raises(NotAllowed):
        connector.send(b"image")
    cluster.master.error = None
    assert connector.send(b"image").result(10) == 5
    connector.close()
    connector.close()
    with pytest.raises(InvalidInput, match="closed"):
        connector.send(b"image")


def test_a_child_process_is_told_not_to_use_its_parents_connector(cluster: BareCluster) -> None:
    cluster.engine()
    with cluster.connect() as connector:
        assert connector.send(b"image").result(10) == 5
        child = os.fork()
        if not child:
            signal.alarm(20)  # Whatever goes wrong in it, it ends, and does not go on as a second pytest.
            refused = 0
            try:
                refused = _refused_to_a_child(connector)
            finally:
                os._exit(refused)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 3, "sending, flushing and closing are refused"
        assert connector.send(b"image").result(10) == 5, "its own process goes on with it"


def _refused_to_a_child(connector: StreamConnector) -> int:
    """Return how many of three calls are refused."""
    refused = 0
    for call in (lambda: connector.send(b""), lambda: connector.flush("safe", 1), connector.close):
        try:
            call()
        except InvalidInput as error:
            refused += "another process" in error.text
    return refused


def test_metadata_and_priorities_of_the_wrong_kind_are_refused_in_a_sentence(cluster: BareCluster) -> None:
    cluster.engine()
    with cluster.connect() as connector:
        with pytest.raises(InvalidInput, match="Metadata is a mapping of names to values, not int"):
            connector.send(b"image", metadata=3)  # type: ignore[arg-type]
        for wrong in ("x", 1.5, True, None):
            with pytest.raises(InvalidInput, match="A priority is a whole number"):
                connector.send(b"image", priority=wrong)  # type: ignore[arg-type]
        assert connector.figures().sent == 0
