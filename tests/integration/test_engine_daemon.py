"""A daemon in this process, with a bare connector, a bare master and a bare controller over real sockets."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy
import pytest

from harmonicio.control.engine_messages import EngineConfiguration, EngineOrder
from harmonicio.core.errors import ConfigurationError, ConnectionEnded, NotAllowed
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine.answers import Answers
from harmonicio.engine.daemon import Daemon
from harmonicio.engine.work import Work
from harmonicio.testing.bare_peers import BareConnector, BareController, BareMaster, configuration_of, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.wire import checksum
from harmonicio.wire.frames import Flag
from harmonicio.wire.outcomes import DONE

MIB = 1024**2

NOOP = """
    @handler
    def noop(message): return None
"""
ECHO = """
    import hashlib
    @handler
    def echo(message):
        digest = hashlib.sha256(message.payload).hexdigest()
        return {"id": message.id, "metadata": message.metadata, "attempt": message.attempt, "digest": digest}
"""
#: Reads, on demand, how many handlers run, and holds them until the test lets go.
GATE = """
    import threading
    gate = threading.Event()
    lock = threading.Lock()
    running, order, most = 0, [], 0
    @handler
    def wait(message):
        global running, most
        with lock:
            running += 1
            most = max(most, running)
            order.append(message.metadata.get("name"))
        gate.wait(30)
        with lock:
            running -= 1
"""


@dataclass
class Bench:
    """One engine and its peers."""

    daemon: Daemon
    configuration: EngineConfiguration
    master: BareMaster
    controller: BareController
    exits: ExitStack

    def connector(
        self, source: str = "source", lease: str = "l1", term_s: float = 60.0, epoch: int = 1
    ) -> BareConnector:
        address = self.daemon.address
        assert address is not None
        ticket = lease_ticket(self.configuration, source=source, lease=lease, term_s=term_s, epoch=epoch)
        return self.exits.enter_context(BareConnector(address, ticket, self.configuration.declaration.name, source))

    @property
    def module(self) -> Any:
        """The handler's module, to look into."""
        import sys

        return sys.modules["_handler_mine"]


Start = Callable[..., Bench]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an engine with the given handler code and fields of its stream."""
    with ExitStack() as exits:

        def start_engine(code: str = NOOP, *, budget_bytes: int = 256 * MIB, **fields: Any) -> Bench:
            path = tmp_path / "mine.py"
            path.write_text("from harmonicio.engine import handler\n" + dedent(code))
            master, controller = BareMaster(), BareController(tmp_path / "control.sock")
            exits.callback(master.close)
            exits.callback(controller.close)
            declaration = StreamDeclaration("cells", handler=str(path), **fields)
            configuration = configuration_of(
                tmp_path, declaration, master_data=master.address, payload_budget_bytes=budget_bytes
            )
            daemon = Daemon(configuration, str(path))
            exits.callback(daemon.close)
            daemon.start()
            wait_until(lambda: master.is_connected, what="the backlog connection")
            return Bench(daemon, configuration, master, controller, exits)

        yield start_engine


def reason_of(outcome: Outcome) -> RejectReason | None:
    assert outcome.kind is OutcomeKind.REJECTED
    return outcome.reason


# ── running messages ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_handler_gets_the_message_and_its_result_comes_back(start: Start) -> None:
    connector = start(ECHO).connector()
    assert connector.welcome.max_message_bytes == 64 * 1024**3
    for payload in (b"", b"small", bytes(65_536), bytes(65_537), numpy.random.default_rng(1).bytes(3_000_000)):
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


# ── refusing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_that_is_too_large_is_refused_before_it_is_read_and_the_connection_goes_on(start: Start) -> None:
    bench = start(ECHO, max_message_bytes=1_000_000)
    connector = bench.connector()
    assert reason_of(connector.outcome(connector.send_anyway(bytes(1_000_001)))) is RejectReason.TOO_LARGE
    assert connector.outcome(connector.send(bytes(1_000_000))).kind is OutcomeKind.DONE


def test_a_very_large_message_is_refused_at_once_and_its_payload_is_forgotten_as_it_comes(start: Start) -> None:
    connector = start(ECHO, max_message_bytes=1_000_000).connector()
    connector.link.send(connector.prefix(65 * MIB))
    connector.wait(lambda: bool(connector.outcomes))
    assert reason_of(connector.outcomes[0]) is RejectReason.TOO_LARGE
    for _ in range(65):
        connector.link.send(bytes(MIB))
    connector.wait(lambda: connector.credit.can_send(0))
    connector.link.send(connector.prefix(4), b"next")
    connector.wait(lambda: len(connector.outcomes) == 2)
    assert connector.outcomes[1].kind is OutcomeKind.DONE
    assert connector.goodbye is None


@pytest.mark.parametrize("size_bytes", [100, 200_000])
def test_a_damaged_payload_never_reaches_the_handler(start: Start, size_bytes: int) -> None:
    code = """
        seen = []
        @handler
        def see(message): seen.append(len(message.payload))
    """
    bench = start(code)
    connector = bench.connector()
    payload = bytes(size_bytes)
    (name,) = connector.welcome.checksums
    flags = int(checksum.FLAG_OF[name])
    good = connector.send(payload, trailer=checksum.trailer(flags, payload), flags=flags)
    bad = connector.send(payload, trailer=checksum.trailer(flags, b"other"), flags=flags)
    assert connector.outcome(good).kind is OutcomeKind.DONE
    assert reason_of(connector.outcome(bad)) is RejectReason.CHECKSUM
    assert bench.module.seen == [size_bytes]


def test_a_message_beyond_the_credit_is_refused(start: Start) -> None:
    bench = start(GATE)
    connector = bench.connector()
    connector.send()
    wait_until(lambda: bench.module.running == 1)
    connector.wait(lambda: connector.credit.can_send(0))
    within = connector.credit.messages_total
    numbers = [connector.send_anyway(bytes(10)) for _ in range(within + 100)]
    connector.wait(lambda: bool(connector.outcomes))  # Of what is refused; handlers that end give new credit.
    bench.module.gate.set()
    outcomes = connector.wait_for_outcomes(1 + len(numbers))
    refused = [number for number, outcome in outcomes.items() if outcome.kind is OutcomeKind.REJECTED]
    assert refused
    assert all(reason_of(outcomes[number]) is RejectReason.NO_CREDIT for number in refused)
    assert min(refused) >= within


def test_a_wrong_ticket_is_refused_with_the_reason(start: Start) -> None:
    bench = start()
    address = bench.daemon.address
    assert address is not None
    good = lease_ticket(bench.configuration, source="scope")
    for ticket, stream, source in ((good, "cells", "other"), (good, "tissue", "scope"), ("", "cells", "scope")):
        with pytest.raises(NotAllowed):
            BareConnector(address, ticket, stream, source)
    with BareConnector(address, good, "cells", "scope"), BareConnector(address, good, "cells", "scope"):
        pass


def test_a_connection_outlives_its_lease_while_it_is_used_and_ends_when_it_was_idle_for_a_term(start: Start) -> None:
    bench = start()
    connector = bench.connector(term_s=0.5)
    begun = time.monotonic()
    while time.monotonic() - begun < 1.0:
        connector.outcome(connector.send(b"in use"))
        time.sleep(0.05)
    with pytest.raises(NotAllowed, match="lease has ended"):
        bench.connector(term_s=0.5)
    connector.wait(lambda: connector.goodbye is not None, timeout_s=10)
    assert connector.goodbye is not None
    assert connector.goodbye.code == "idle"


def test_what_was_revoked_ends_and_the_masters_last_word_counts(start: Start) -> None:
    bench = start()
    revoked = bench.connector()
    assert revoked.outcome(revoked.send(b"in time")).kind is OutcomeKind.DONE
    bench.controller.order(EngineOrder(epoch=2))
    revoked.wait(lambda: revoked.goodbye is not None, timeout_s=10)
    assert revoked.goodbye is not None
    assert revoked.goodbye.code == NotAllowed.code
    with pytest.raises(NotAllowed):
        bench.connector()
    current = bench.connector(lease="l2", epoch=2)
    assert current.outcome(current.send(b"x")).kind is OutcomeKind.DONE
    bench.controller.order(EngineOrder(epoch=1))  # Another master, or an older one whose folder was restored.
    wait_until(lambda: bench.daemon._desk.epoch == 1)
    restored = bench.connector(lease="l3")
    assert [each.outcome(each.send(b"x")).kind for each in (restored, current)] == [OutcomeKind.DONE] * 2


def test_a_dead_letter_is_not_for_an_engine(start: Start) -> None:
    connector = start().connector()
    connector.send(flags=int(Flag.DEAD))
    connector.wait(lambda: connector.goodbye is not None)
    assert connector.goodbye is not None
    assert connector.goodbye.code == "protocol"


def test_a_connector_that_vanishes_amid_a_payload_leaves_the_engine_as_it_was(start: Start) -> None:
    bench = start(ECHO)
    connector = bench.connector()
    connector.wait(lambda: connector.credit.can_send(5 * MIB))
    connector.link.send(connector.prefix(5 * MIB), bytes(MIB))
    connector.link.close()
    other = bench.connector()
    assert other.outcome(other.send(b"x")).kind is OutcomeKind.DONE
    wait_until(lambda: "ByteBudget: 0 of" in repr(bench.daemon._payloads))


def test_an_error_of_ours_leaves_no_room_taken(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = start()
    connector = bench.connector()
    for _ in range(30):  # Until the handler is known to be quick, so that the connection's thread runs it.
        connector.outcome(connector.send(bytes(200_000)))

    def fail(*_: Any) -> None:
        raise MemoryError("once")

    with monkeypatch.context() as errors:
        errors.setattr(Answers, "message_handled", fail)
        with pytest.raises(ConnectionEnded):
            connector.outcome(connector.send(bytes(200_000)), timeout_s=10)
    other = bench.connector(lease="l2")
    assert other.outcome(other.send(bytes(200_000))).kind is OutcomeKind.DONE
    wait_until(lambda: "ByteBudget: 0 of" in repr(bench.daemon._payloads))


# ── streaming ────────────────────────────────────────────────────────────────────────────────────────────────────────

STREAMING = """
    import hashlib, threading
    first_bytes, log = threading.Event(), []
    @handler(streaming=True)
    def digest(message):
        hashed = hashlib.sha256()
        try:
            for chunk in message.payload_reader.chunks(65_536):
                hashed.update(chunk)
                first_bytes.set()
        except Exception as error:
            log.append(type(error).__name__)
            raise
        return [hashed.hexdigest(), message.size_bytes]
"""


@pytest.mark.parametrize("size_bytes", [0, 10, 100_000, 9_000_000])
def test_a_streaming_handler_reads_the_whole_payload(start: Start, size_bytes: int) -> None:
    import hashlib

    connector = start(STREAMING, memory_payload_max_bytes=MIB).connector()
    payload = numpy.random.default_rng(2).bytes(size_bytes)
    for _ in range(3):
        result = connector.outcome(connector.send(payload)).result
        assert result == [hashlib.sha256(payload).hexdigest(), size_bytes]


def test_a_streaming_handler_starts_before_the_payload_is_here(start: Start) -> None:
    bench = start(STREAMING)
    connector = bench.connector()
    connector.wait(lambda: connector.credit.can_send(0))
    payload = bytes(4 * MIB)
    connector.link.send(connector.prefix(len(payload)), payload[: 2 * MIB])
    assert bench.module.first_bytes.wait(10)
    assert not connector.outcomes
    connector.link.send(payload[2 * MIB :])
    assert connector.outcome(0).kind is OutcomeKind.DONE


def test_payloads_that_are_still_arriving_when_their_handlers_have_returned_hold_nobody_up(start: Start) -> None:
    bench = start("""
        @handler(streaming=True)
        def at_once(message):
            return message.size_bytes
    """)
    slow = [bench.connector(f"s{number}", f"l{number}") for number in range(6)]
    for connector in slow:
        connector.wait(lambda connector=connector: connector.credit.can_send(2 * MIB))
        connector.link.send(connector.prefix(2 * MIB), bytes(MIB))
    other = bench.connector("other", "other")
    assert other.outcome(other.send(b"x")).result == 1
    assert not any(connector.outcomes for connector in slow)
    for connector in slow:
        connector.link.send(bytes(MIB))
    assert [connector.outcome(0).result for connector in slow] == [2 * MIB] * 6


def test_a_streaming_handler_hears_of_a_broken_connection_and_of_a_wrong_checksum(start: Start) -> None:
    bench = start(STREAMING)
    connector = bench.connector()
    connector.wait(lambda: connector.credit.can_send(0))
    connector.link.send(connector.prefix(4 * MIB), bytes(2 * MIB))
    assert bench.module.first_bytes.wait(10)
    connector.link.close()
    wait_until(lambda: bench.module.log == ["ConnectionEnded"])
    other = bench.connector()
    bad = other.send(bytes(MIB), trailer=bytes(8), flags=int(Flag.CHECKSUM_CRC32))
    assert reason_of(other.outcome(bad)) is RejectReason.CHECKSUM
    assert bench.module.log == ["ConnectionEnded", "StorageError"]


# ── the backlog ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_of_the_backlog_are_pushed_without_being_asked_for(start: Start) -> None:
    bench = start()
    (hello,) = bench.master.hellos
    assert (hello.role, hello.engine, hello.worker, hello.stream) == ("engine", "e1", "w1", "cells")
    assert hello.ticket == bench.configuration.ticket
    for number in range(500):
        bench.master.push(bytes(100 if number % 10 else 300_000))
    wait_until(lambda: len(bench.master.outcomes) == 500)
    assert set(bench.master.outcomes) == {DONE}
    report = bench.daemon.report()
    assert (report.handled, report.handled_from_backlog) == (500, 500)


def test_a_message_says_by_which_route_it_came(start: Start) -> None:
    bench = start("@handler\ndef handle(message):\n    return message.route\n")
    connector = bench.connector()
    assert connector.outcome(connector.send(b"straight")).result == "engine"
    bench.master.push(b"stored")
    wait_until(lambda: len(bench.master.outcomes) == 1)
    assert bench.master.outcomes[0].result == "backlog"


def test_the_next_free_slot_is_the_backlogs_and_connectors_get_no_new_credit_meanwhile(start: Start) -> None:
    bench = start(GATE)
    connector = bench.connector()
    connector.send(metadata={"name": "first"})
    wait_until(lambda: bench.module.running == 1)
    connector.send(metadata={"name": "second"})
    bench.master.push(metadata={"name": "stored 1"})
    bench.master.push(metadata={"name": "stored 2"})
    wait_until(lambda: bench.daemon._slots.is_backlog_waiting)
    bench.module.gate.set()
    connector.wait_for_outcomes(2)
    wait_until(lambda: len(bench.master.outcomes) == 2)
    assert bench.module.order[:2] == ["first", "stored 1"]
    connector.send(metadata={"name": "third"})
    connector.wait_for_outcomes(3)


@pytest.mark.parametrize("handler_s", [0.005, 0.05])
def test_what_an_engine_has_taken_is_run_although_messages_of_the_backlog_keep_coming(
    start: Start, handler_s: float
) -> None:
    """Those of 5 ms run on the connection's thread, many under one slot; those of 50 ms in threads of the pool."""
    bench = start(f"import time\n@handler\ndef handle(message):\n    time.sleep({handler_s})\n")
    connector = bench.connector()
    for _ in range(20):
        connector.outcome(connector.send())
    stored = int(6 / handler_s)
    for _ in range(stored):
        bench.master.push()
    wait_until(lambda: bench.daemon._slots.is_backlog_waiting)
    number, begun = connector.send(), time.monotonic()
    assert connector.outcome(number, timeout_s=5).kind is OutcomeKind.DONE
    assert time.monotonic() - begun < 2.0
    assert len(bench.master.outcomes) < stored, "the backlog was never empty"


@pytest.mark.parametrize("size_bytes", [0, 100_000])
def test_what_lies_behind_a_message_that_was_overtaken_for_long_goes_on_at_once(start: Start, size_bytes: int) -> None:
    """Each handler runs for longer than a slot is held, so that each message waits for a slot of its own."""
    bench = start("import time\n@handler\ndef handle(message):\n    time.sleep(0.006)\n")
    connector = bench.connector()
    for _ in range(30):
        connector.outcome(connector.send(bytes(size_bytes)))
    connector.wait(lambda: connector.credit.messages_total - connector.credit.sent > 5)
    for _ in range(800):
        bench.master.push()
    wait_until(lambda: bench.daemon._slots.is_backlog_waiting)
    begun = time.monotonic()
    numbers = [connector.send(bytes(size_bytes)) for _ in range(6)]
    assert {connector.outcome(number, timeout_s=8).kind for number in numbers} == {OutcomeKind.DONE}
    assert time.monotonic() - begun < 2.5
    assert len(bench.master.outcomes) < 800, "the backlog was never empty"


def test_a_free_slot_takes_the_next_message_of_the_backlog_while_the_one_before_it_runs(start: Start) -> None:
    code = """
        import threading, time
        gates = {name: threading.Event() for name in ("short", "longer", "stored long", "stored next")}
        running = set()
        @handler
        def wait(message):
            name = message.metadata.get("name")
            if name is None:
                time.sleep(0.3)  # So slow that only one message may wait.
                return
            running.add(name)
            gates[name].wait(30)
    """
    bench = start(code, concurrency=2)
    module, connector = bench.module, bench.connector()
    for _ in range(4):
        connector.outcome(connector.send())
    for name in ("short", "longer"):
        connector.send(metadata={"name": name})
        wait_until(lambda: name in module.running)  # noqa: B023  asked at once
    bench.master.push(metadata={"name": "stored long"})
    wait_until(lambda: bench.daemon._slots.is_backlog_waiting)
    bench.master.push(metadata={"name": "stored next"})
    module.gates["short"].set()
    wait_until(lambda: "stored long" in module.running)
    module.gates["longer"].set()
    wait_until(lambda: "stored next" in module.running, 5)
    for gate in module.gates.values():
        gate.set()


def test_the_connection_to_the_master_is_dialled_again_and_live_connectors_go_on(start: Start) -> None:
    bench = start()
    connector = bench.connector()
    for _ in range(3):
        bench.master.break_connection()
        connector.outcome(connector.send(b"meanwhile"))
        wait_until(lambda: bench.master.is_connected, what="the next backlog connection")
    bench.master.push(b"after")
    wait_until(lambda: bench.master.outcomes == [DONE])


def test_an_idle_engine_never_leaves_a_message_waiting(start: Start) -> None:
    bench = start()
    connectors = [bench.connector(f"source {number}", f"l{number}") for number in range(4)]
    for burst in range(30):
        for connector in connectors:
            connector.send_many(bytes(1000), 20)
            bench.master.push(bytes(1000))
        for connector in connectors:
            connector.wait_for_outcomes(20 * (burst + 1), timeout_s=5)
        wait_until(lambda: len(bench.master.outcomes) == 4 * (burst + 1), 5)  # noqa: B023  asked at once


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
