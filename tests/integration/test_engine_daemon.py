"""A daemon: what it does with messages, what it tells of itself, and how it ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from benches.engine import ECHO, GATE, MIB, Start, engine_benches, reason_of
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.core.errors import ConfigurationError, ConnectionEnded, NotAllowed
from harmonicio.core.message import OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine import session
from harmonicio.engine.answers import FULL_AFTER_MESSAGES, Answers
from harmonicio.engine.daemon import Daemon
from harmonicio.engine.work import Work
from harmonicio.testing.bare_peers import BareController, BareMaster, configuration_of
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import MAX_INLINE_BYTES
from harmonicio.wire.outcomes import DONE


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an engine with the given handler code and fields of its stream."""
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


# ── running messages ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_handler_gets_the_message_and_its_result_comes_back(start: Start) -> None:
    connector = start(ECHO).connector()
    assert connector.welcome.max_message_bytes == 64 * 1024**3
    for payload in (
        b"",
        b"small",
        bytes(MAX_INLINE_BYTES),
        bytes(MAX_INLINE_BYTES + 1),
        numpy.random.default_rng(1).bytes(3_000_000),
    ):
        number = connector.send(payload, metadata={"n": len(payload)}, message_id="frame 7", attempts=2)
        result = connector.outcome(number).result
        import hashlib

        assert result == {
            "id": "frame 7",
            "metadata": {"n": len(payload)},
            "attempt": 3,
            "digest": hashlib.sha256(payload).hexdigest(),
        }


def test_twenty_thousand_small_messages_are_run_once_each_and_answered_in_ranges(start: Start) -> None:
    code = """
        seen = []
        @handler
        def count(message): seen.append(message.id)
    """
    bench = start(code)
    connector = bench.connector()
    connector.send_many(bytes(1000), 20_000)
    outcomes = connector.wait_for_outcomes(20_000)
    assert set(outcomes.values()) == {DONE}
    assert len(set(bench.module.seen)) == len(bench.module.seen) == 20_000
    assert connector.credit_frames < 500, "credit is not sent for each message"


def test_two_hundred_messages_of_a_megabyte_arrive_whole(start: Start) -> None:
    code = """
        import zlib
        @handler
        def check(message): return zlib.crc32(message.payload)
    """
    connector = start(code, budget_bytes=16 * MIB).connector()
    import zlib

    payloads = [numpy.random.default_rng(number).bytes(1_000_000 + number) for number in range(4)]
    for number in range(200):
        connector.send(payloads[number % 4])
    outcomes = connector.wait_for_outcomes(200)
    expected = [zlib.crc32(payload) for payload in payloads]
    assert [outcomes[number].result for number in range(200)] == [expected[number % 4] for number in range(200)]


def test_a_payload_above_the_limit_goes_through_a_file(start: Start, tmp_path: Path) -> None:
    code = """
        import pathlib, zlib
        @handler
        def look(message):
            maps = pathlib.Path("/proc/self/maps").read_text()
            return [zlib.crc32(message.payload), "scratch" in maps, message.payload.readonly]
    """
    connector = start(code).connector()
    payload = numpy.random.default_rng(1).bytes(70 * MIB)
    import zlib

    assert connector.outcome(connector.send(payload)).result == [zlib.crc32(payload), True, True]
    wait_until(lambda: str(tmp_path / "scratch") not in Path("/proc/self/maps").read_text(), what="the file to go")


def test_an_engine_whose_memory_is_full_reads_on_so_that_no_connection_breaks(start: Start) -> None:
    bench = start(GATE, budget_bytes=10 * MIB)
    connectors = [bench.connector(f"source {number}", lease=f"l{number}") for number in range(4)]
    senders = [threading.Thread(target=each.send, args=(bytes(8 * MIB),)) for each in connectors]
    for sender in senders:
        sender.start()
    for sender in senders:  # They come back when the last byte has been taken, while the only handler still runs.
        sender.join(10)
    assert [sender.is_alive() for sender in senders] == [False] * 4
    assert bench.module.running == 1
    bench.module.gate.set()
    assert [each.outcome(0) for each in connectors] == [DONE] * 4


def test_a_connection_is_read_from_while_a_slow_handler_runs_for_it(start: Start) -> None:
    bench = start(GATE)
    connector = bench.connector()
    with socket.socket(fileno=os.dup(connector.link.channel.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # So that the rest must be taken by the engine.
    connector.send(b"small")
    wait_until(lambda: bench.module.running == 1)
    sender = threading.Thread(target=connector.send, args=(bytes(500_000),))
    sender.start()
    sender.join(10)
    assert not sender.is_alive()
    bench.module.gate.set()
    assert set(connector.wait_for_outcomes(2).values()) == {DONE}


def test_many_answers_do_not_wait_for_the_handlers_of_what_is_here_already(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "OLDEST_UNSENT_S", 60.0)  # So that time alone sends nothing.
    monkeypatch.setattr(session, "HOLD_AT_MOST_S", 60.0)
    bench = start("""
        import threading
        from harmonicio.engine import handler

        gates = {b"first": threading.Event(), b"last": threading.Event()}

        @handler
        def wait(message):
            if bytes(message.payload) in gates:
                gates[bytes(message.payload)].wait(20)
    """)
    connector = bench.connector()
    for _ in range(20):
        connector.outcome(connector.send(b"quick"))
    connector.send(b"first")
    for _ in range(FULL_AFTER_MESSAGES):
        connector.send(b"quick")
    last = connector.send(b"last")
    bench.module.gates[b"first"].set()
    assert connector.outcome(20 + FULL_AFTER_MESSAGES - 1) == DONE
    assert last not in connector.wait_for_outcomes(0)
    bench.module.gates[b"last"].set()
    assert connector.outcome(last) == DONE


def test_a_handler_that_becomes_slow_is_run_beside_its_connection_from_then_on(start: Start) -> None:
    bench = start("""
        import threading, time
        from harmonicio.engine import handler

        @handler
        def name_thread(message):
            time.sleep(0.03 if bytes(message.payload) == b"slow" else 0.0)
            return threading.current_thread().name
    """)
    connector = bench.connector()
    quick = [connector.outcome(connector.send(b"quick")).result for _ in range(20)]
    assert quick[-1].startswith("engine-data"), "on the thread that received it"
    slow = [connector.send(b"slow") for _ in range(12)]
    threads = [connector.outcome(number).result for number in slow]
    assert threads[-1].startswith("engine-handler"), threads


def test_a_full_scratch_folder_rejects_the_message_and_the_connection_goes_on(start: Start, tmp_path: Path) -> None:
    bench = start(ECHO, memory_payload_max_bytes=MIB)
    connector = bench.connector()
    connector.outcome(connector.send(b"first"))
    (tmp_path / "scratch").rmdir()
    assert reason_of(connector.outcome(connector.send(bytes(2 * MIB)))) is RejectReason.STORAGE
    assert connector.outcome(connector.send(b"after")).kind is OutcomeKind.DONE


def test_a_handler_that_raises_fails_its_message_only(start: Start) -> None:
    code = """
        @handler
        def picky(message):
            if message.metadata.get("bad"): raise ValueError("this image is not one")
            if message.metadata.get("odd"): return object()
            return "fine"
    """
    bench = start(code)
    connector = bench.connector()
    good, bad, odd = connector.send(b""), connector.send(metadata={"bad": 1}), connector.send(metadata={"odd": 1})
    assert connector.outcome(good).result == "fine"
    failure = connector.outcome(bad).failure
    assert failure is not None
    assert (failure.error_type, failure.text, failure.retryable) == ("ValueError", "this image is not one", True)
    assert "mine.py" in failure.traceback
    failure = connector.outcome(odd).failure
    assert failure is not None
    assert "Store it" in failure.text
    report = bench.daemon.report()
    assert (report.handled, report.failed) == (3, 2)


@pytest.mark.parametrize("size_bytes", [40_000, 1_000_000])
def test_a_view_that_a_handler_keeps_never_changes(start: Start, size_bytes: int) -> None:
    code = """
        import numpy
        kept = []
        @handler
        def keep(message): kept.append((message.metadata["n"], numpy.frombuffer(message.payload, "u1")))
    """
    bench = start(code)
    connector = bench.connector()
    for number in range(40):
        connector.send(bytes([number]) * size_bytes, metadata={"n": number})
    connector.wait_for_outcomes(40)
    for number, kept in bench.module.kept:
        assert (kept == number).all()
    bench.module.kept.clear()


@pytest.mark.parametrize("size_bytes", [10, 200_000])
def test_the_setup_runs_once_and_the_teardown_at_the_end(start: Start, size_bytes: int) -> None:
    code = """
        log = []
        def prepare(parameters):
            log.append("setup")
            return parameters["gain"]
        @handler(setup=prepare, teardown=lambda gain: log.append(f"teardown {gain}"))
        def scale(message, gain): return len(message.payload) * gain
    """
    bench = start(code, parameters={"gain": 2})
    connector = bench.connector()
    for _ in range(3):
        assert connector.outcome(connector.send(bytes(size_bytes))).result == 2 * size_bytes
    bench.daemon.close()
    assert bench.module.log == ["setup", "teardown 2"]


def test_several_handlers_run_at_the_same_time_for_one_connection(start: Start) -> None:
    bench = start(GATE, concurrency=3)
    connector = bench.connector()
    for size_bytes in (10, 10, 200_000, 10):
        connector.send_anyway(bytes(size_bytes)) if connector.credit.can_send(size_bytes) else connector.send(
            bytes(size_bytes)
        )
    wait_until(lambda: bench.module.running == 3)
    report = bench.daemon.report()
    assert len(report.running) == 3
    assert report.state == "busy"
    bench.module.gate.set()
    connector.wait_for_outcomes(4)
    assert bench.module.most == 3


def test_a_slow_handler_does_not_hold_back_the_outcomes_before_it(start: Start) -> None:
    code = """
        import threading
        gate = threading.Event()
        @handler
        def wait(message):
            if message.metadata: gate.wait(30)
    """
    bench = start(code)
    connector = bench.connector()
    connector.send_many(b"x", 100)
    connector.wait_for_outcomes(100)
    first = connector.send(b"fast")
    slow = connector.send(b"slow", metadata={"slow": True})
    assert connector.outcome(first, timeout_s=5).kind is OutcomeKind.DONE
    assert slow not in connector.outcomes
    bench.module.gate.set()
    connector.outcome(slow)


@pytest.mark.interpreted
@pytest.mark.parametrize(("noun", "verb"), [(Answers, "message_handled"), (Work, "run")])
def test_an_error_of_ours_that_costs_an_answer_ends_the_connection_so_that_its_messages_are_sent_again(
    start: Start, noun: type, verb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = start()
    act, has_failed = getattr(noun, verb), threading.Event()

    def fail_once(*arguments: Any, **fields: Any) -> Any:
        if not has_failed.is_set():
            has_failed.set()
            raise MemoryError("once")
        return act(*arguments, **fields)

    monkeypatch.setattr(noun, verb, fail_once)
    unlucky = bench.connector()
    with pytest.raises(ConnectionEnded):
        unlucky.outcome(unlucky.send(bytes(200_000)), timeout_s=5)
    assert "MemoryError: once" in caplog.text
    lucky = bench.connector(lease="l2")
    assert lucky.outcome(lucky.send(bytes(200_000))).kind is OutcomeKind.DONE
    assert bench.daemon._payloads.budget.held_bytes == 0
    wait_until(lambda: not bench.daemon._slots.in_use)


# ── controller, reports and ending ───────────────────────────────────────────────────────────────────────────────────


def test_the_controller_hears_of_each_state_and_of_what_runs(start: Start) -> None:
    bench = start(GATE)
    wait_until(lambda: bench.controller.states[-1:] == ["idle"])
    assert bench.controller.last is not None
    assert bench.controller.last.address == bench.daemon.address
    connector = bench.connector()
    connector.send(bytes(100), message_id="slow one")
    wait_until(lambda: bench.controller.last.running)
    (running,) = bench.controller.last.running
    assert running.message == "slow one"
    wait_until(lambda: bench.controller.last.running[0].running_s > 0.1, what="a later report")
    bench.module.gate.set()
    wait_until(lambda: bench.controller.states[-1] == "idle")
    assert bench.controller.states in (["starting", "idle", "busy", "idle"], ["idle", "busy", "idle"])
    assert bench.controller.last.handled == 1
    assert bench.controller.last.received_bytes == 100


def test_reports_stay_few_while_messages_fly(start: Start) -> None:
    bench = start()
    connector = bench.connector()
    before, begun = len(bench.controller.reports), time.monotonic()
    while time.monotonic() - begun < 0.5:
        connector.outcome(connector.send(b"x"))
    assert len(bench.controller.reports) - before < 15


def test_a_drain_finishes_what_runs_refuses_the_rest_and_tells_everybody(start: Start) -> None:
    bench = start(GATE)
    connector = bench.connector()
    running = connector.send(metadata={"name": "runs"})
    wait_until(lambda: bench.module.running == 1)
    waiting = connector.send(bytes(200_000), metadata={"name": "waits"})
    bench.controller.order(EngineOrder(20.0))
    connector.wait(lambda: connector.drain is not None)
    wait_until(lambda: bench.master.drain is not None)
    wait_until(lambda: bench.controller.states[-1] == "draining")
    with pytest.raises((ConnectionEnded, NotAllowed)):
        bench.connector("late", "l9")
    late = connector.send_anyway(b"late")
    bench.module.gate.set()
    finisher = threading.Thread(target=bench.daemon.finish)
    finisher.start()
    connector.wait_for_outcomes(3)
    connector.link.close()
    finisher.join(20)
    assert connector.outcomes[running] is not None
    assert connector.outcomes[running].kind is OutcomeKind.DONE
    assert [reason_of(connector.outcomes[number]) for number in (waiting, late)] == [RejectReason.DRAINING] * 2
    assert bench.module.order == ["runs"]


def test_a_drain_that_is_not_over_by_its_deadline_says_so(start: Start) -> None:
    bench = start(GATE)
    connector = bench.connector()
    connector.send()
    wait_until(lambda: bench.module.running == 1)
    bench.daemon.drain(0.1)
    assert not bench.daemon.finish()
    bench.module.gate.set()
    assert bench.daemon._slots is not None


def test_what_cannot_start_says_which_and_why(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from harmonicio.engine import handler\n"
        "def load(parameters): raise OSError('no model here')\n"
        "@handler(setup=load)\ndef f(message, model): ...\n"
    )
    master, controller = BareMaster(), BareController(tmp_path / "control.sock")
    configuration = configuration_of(
        tmp_path, StreamDeclaration("cells", handler=str(path)), master_data=master.address
    )
    daemon = Daemon(configuration, str(path))
    try:
        with pytest.raises(ConfigurationError, match=r"The setup of .*mine\.py failed: OSError: no model here"):
            daemon.start()
    finally:
        daemon.close()
        master.close()
        controller.close()
