"""What a daemon takes from the backlog, and in which order beside its connectors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.engine import GATE, Start, engine_benches
from harmonicio.core.message import OutcomeKind
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.outcomes import DONE


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an engine with the given handler code and fields of its stream."""
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


def test_messages_of_the_backlog_are_pushed_without_being_asked_for(start: Start) -> None:
    bench = start()
    (hello,) = bench.master.hellos
    assert (hello.role, hello.engine, hello.worker, hello.stream) == ("engine", "e1", "w1", "cells")
    assert hello.ticket == bench.configuration.ticket
    assert hello.checksums == ()  # They are for the way between hosts.
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


def test_answers_to_the_master_wait_for_one_another(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = start()
    credit, known = bench.master.credit, 0
    while credit.messages_total - credit.sent < 40:  # There is more of it for a master that says that it has more.
        known += 100
        for _ in range(100):
            bench.master.push()
        wait_until(lambda: len(bench.master.outcomes) == known)  # noqa: B023  asked at once
    # However slow this machine is, they come within that time.
    monkeypatch.setattr("harmonicio.engine.session.OLDEST_UNSENT_S", 0.5)
    before = bench.master.outcome_frames
    for number in range(20):
        bench.master.push()
        wait_until(lambda: bench.daemon.report().handled == known + number + 1)  # noqa: B023  asked at once
    wait_until(lambda: len(bench.master.outcomes) == known + 20)
    assert bench.master.outcome_frames - before <= 10


def test_what_was_done_is_told_when_the_engine_ends(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = start()
    bench.master.push()
    wait_until(lambda: len(bench.master.outcomes) == 1)
    monkeypatch.setattr("harmonicio.engine.session.OLDEST_UNSENT_S", 600.0)
    for number in range(5):
        bench.master.push()
        wait_until(lambda number=number: bench.daemon.report().handled == number + 2)  # type: ignore[misc]
    bench.daemon.close()
    wait_until(lambda: len(bench.master.outcomes) == 6)
