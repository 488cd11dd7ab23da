"""What docs/protocol.md demands of every engine, asked of ours and of one that shares no code with it.

Each engine is a process between a bare connector, a bare master and a bare controller.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benches.engine_process import MIB, Running, Start, engine_processes, our_command
from benches.native_engine import ENGINE, brightness, node
from harmonicio.control import tickets
from harmonicio.control.engine_messages import EngineConfiguration, EngineOrder
from harmonicio.control.handler_board import BOARD_NAME, read_board
from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, NotAllowed
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.message import OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.bare_peers import BareController, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.checksum import FLAG_OF
from harmonicio.wire.frames import Flag

#: The counterpart of the example's handler.
HANDLER = """
from harmonicio.engine import handler

@handler
def handle(message):
    pixels, background = message.payload, message.metadata.get("background", 0)
    if not isinstance(background, (int, float)):
        raise TypeError("The background is no number.")
    return {"count": len(pixels), "mean": sum(pixels) / len(pixels) - background if len(pixels) else None}
"""


@pytest.fixture(params=["python", "native"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "mine.py").write_text(HANDLER)
    command = our_command(tmp_path / "mine.py") if request.param == "python" else [node(), str(ENGINE)]
    with engine_processes(tmp_path, command) as start_process:
        yield start_process


# ── who is let in ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S3")
def test_a_connector_is_let_in_by_its_lease_and_by_nothing_else(start: Start) -> None:
    engine = start()
    configuration = engine.configuration
    genuine = lease_ticket(configuration)
    text, _, signature = genuine.rpartition(".")
    forged = lease_ticket(replace(configuration, key=tickets.new_key()))
    wrong = [
        "",
        "nothing",
        forged,
        f"{text}.",
        f"{text}.{signature[:-4]}",
        f"{text[:-2]}.{signature}",
        f"{forged.rpartition('.')[0]}.{signature}",
        configuration.ticket,
        lease_ticket(configuration, source="another"),
        lease_ticket(replace(configuration, engine="e2")),
        lease_ticket(replace(configuration, declaration=StreamDeclaration("others", handler="mine"))),
        _ticket_issued(configuration, time.time() - 1_000, term_s=60.0),
        _ticket_issued(configuration, time.time() + 1_000, term_s=60.0),
    ]
    for ticket in wrong:
        with pytest.raises(NotAllowed):
            engine.connector(ticket)
    with pytest.raises(NotAllowed):
        engine.connector(lease_ticket(configuration, source=""), source="")
    assert engine.connector(genuine).send(b"\1") == 0
    assert engine.connector(genuine).welcome.max_message_bytes == configuration.declaration.max_message_bytes


def _ticket_issued(configuration: EngineConfiguration, issued_at: float, *, term_s: float) -> str:
    claims = Claims(TicketKind.LEASE, "cells", term_s, issued_at, 1, lease="l9", engine="e1", source="source")
    return tickets.sign(configuration.key, claims)


@pytest.mark.parametrize("start", ["python"], indirect=True)  # A "should": the example keeps no list of leases.
def test_a_lease_ends_when_its_term_is_over_since_its_ticket_was_shown_first(start: Start) -> None:
    engine = start()
    brief = lease_ticket(engine.configuration, lease="brief", term_s=0.3)
    open_since_before = engine.connector(brief)
    wait_until(lambda: _is_refused(engine, brief), 10)
    with pytest.raises(NotAllowed):
        engine.connector(lease_ticket(engine.configuration, lease="brief", term_s=60.0))
    assert open_since_before.outcome(open_since_before.send(b"\1")).kind is OutcomeKind.DONE


def _is_refused(engine: Running, ticket: str) -> bool:
    try:
        engine.connector(ticket)
    except NotAllowed:
        return True
    return False


def test_what_was_revoked_is_refused_and_its_connection_ends(start: Start) -> None:
    engine = start()
    revoked = lease_ticket(engine.configuration, lease="old", epoch=1)
    connector = engine.connector(revoked)
    engine.controller.order(EngineOrder(epoch=2))
    with pytest.raises(ConnectionEnded, match="not_allowed"):
        connector.wait(lambda: False)
    with pytest.raises(NotAllowed):
        engine.connector(revoked)
    newer = engine.connector(lease_ticket(engine.configuration, lease="new", epoch=2))
    assert newer.outcome(newer.send(b"\1")).kind is OutcomeKind.DONE


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: here\r\nAccept: everything\r\n\r\n", b"HI\x01\x04" + bytes(36)]
)
def test_who_speaks_something_else_is_told_so_and_nobody_else_suffers(start: Start, garbage: bytes) -> None:
    engine = start()
    with socket.create_connection((engine.address.host, engine.address.port), timeout=20) as stranger:
        stranger.sendall(garbage)
        answer = b"".join(iter(lambda: stranger.recv(4096), b""))
    assert answer[:4] == b"HI\x01\x09"
    assert b"protocol" in answer
    connector = engine.connector()
    assert connector.outcome(connector.send(b"\1")).kind is OutcomeKind.DONE


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_message_is_answered_whatever_its_size_id_and_metadata(start: Start) -> None:
    engine = start()
    connector = engine.connector()
    metadata = {
        "background": 1,
        "none": None,
        "numbers": [0, -1, 127, 128, -32, -33, 255, 65_536, 2**31, 2**32, 2**63, -(2**63), 0.5, 1e300, True, False],
        "texts": ["", "Å" * 20, "x" * 300, "y" * 70_000],
        "bytes": b"\0\1\2" * 100,
        "nested": {str(level): [{"deep": [level]}] for level in range(20)},
    }
    for size, more in [(0, {}), (1, {}), (65_537, {"message_id": "plate 7, well B03"}), (10_000_000, {"attempts": 2})]:
        pixels = bytes(range(256)) * (size // 256 + 1)
        number = connector.send(pixels[:size], metadata=metadata, **more)
        outcome = connector.outcome(number)
        assert outcome.kind is OutcomeKind.DONE
        assert outcome.result == pytest.approx(brightness(pixels[:size], 1))


def test_what_the_handler_raises_is_a_failure_with_its_reason(start: Start) -> None:
    connector = start().connector()
    failure = connector.outcome(connector.send(b"\1", metadata={"background": "dark"})).failure
    assert failure is not None
    assert (failure.error_type, failure.retryable) == ("TypeError", True)
    assert "background" in failure.text
    assert "handle" in failure.traceback


def test_what_cannot_be_taken_is_rejected_with_the_reason_and_the_connection_goes_on(start: Start) -> None:
    engine = start(max_message_bytes=200_000)
    connector = engine.connector()
    assert connector.outcome(connector.send_anyway(bytes(200_001))).reason is RejectReason.TOO_LARGE
    connector.wait(lambda: connector.credit.can_send(1))
    for name in connector.welcome.checksums:
        damaged = connector.send(bytes(100_000), flags=int(FLAG_OF[name]), trailer=b"\xff" * 8)
        assert connector.outcome(damaged).reason is RejectReason.CHECKSUM
    assert connector.outcome(connector.send(b"\1")).kind is OutcomeKind.DONE


def test_what_has_no_room_in_memory_goes_into_a_file_or_is_left_to_others(start: Start) -> None:
    connector = start(budget_bytes=MIB).connector()
    outcome = connector.outcome(connector.send(bytes(5 * MIB)))
    assert outcome.kind is OutcomeKind.DONE or outcome.reason is RejectReason.STORAGE
    assert connector.outcome(connector.send(b"\1")).kind is OutcomeKind.DONE


@pytest.mark.parametrize("flags", [Flag.DEAD, 32])
def test_a_message_with_flags_that_mean_nothing_to_an_engine_ends_the_connection(start: Start, flags: int) -> None:
    connector = start().connector()
    connector.send_anyway(b"\1", flags=int(flags))
    with pytest.raises(ConnectionEnded, match="protocol"):
        connector.wait(lambda: False)


def test_a_payload_that_never_comes_whole_reaches_no_handler(start: Start) -> None:
    engine = start()
    connector = engine.connector()
    connector.link.send(connector.prefix(1_000_000), bytes(500_000))
    connector.link.close()
    second = engine.connector()
    assert second.outcome(second.send(b"\1")).kind is OutcomeKind.DONE
    engine.controller.order(EngineOrder(5.0))
    assert engine.process.wait(20) == 0
    assert engine.controller.last is not None
    assert engine.controller.last.handled == 1


def test_while_the_backlog_waits_connectors_get_no_new_credit(start: Start) -> None:
    engine = start()
    connector = engine.connector()
    connector.wait(lambda: connector.credit.can_send(1))
    for _ in range(20):
        engine.master.push(bytes(2_000_000))
    sent = 0
    while len(engine.master.outcomes) < 20:
        if connector.credit.can_send(1):
            connector.send_anyway(b"\1")
            sent += 1
        connector.wait(lambda: connector.link.read() or True)
    assert sent < 10, "the engine took turns instead of taking the backlog first"
    assert {outcome.kind for outcome in engine.master.outcomes} == {OutcomeKind.DONE}
    assert connector.outcome(connector.send(b"\1")).kind is OutcomeKind.DONE


def test_the_backlog_is_dialled_again_after_its_connection_broke(start: Start) -> None:
    engine = start()
    engine.master.break_connection()
    wait_until(lambda: engine.master.is_connected, 20)
    engine.master.push(b"\3")
    wait_until(lambda: [outcome.result for outcome in engine.master.outcomes] == [brightness(b"\3")])
    assert (engine.master.hellos[-1].engine, engine.master.hellos[-1].ticket) == ("e1", engine.configuration.ticket)


# ── the controller ───────────────────────────────────────────────────────────────────────────────────────────────────


def running(engine: Running, folder: Path) -> list[str]:
    """Return what the engine says to run, on its board or, where it has none, in its last report."""
    seen = read_board(folder / BOARD_NAME, 1)
    if seen is None:
        seen = engine.controller.last.running if engine.controller.last else ()
    return [each.message for each in seen]


def test_the_controller_sees_which_message_runs(start: Start, tmp_path: Path) -> None:
    engine = start()
    connector = engine.connector()
    number = connector.send(bytes(30 * MIB), message_id="the large one")
    wait_until(lambda: running(engine, tmp_path) == ["the large one"], 20)
    assert connector.outcome(number).kind is OutcomeKind.DONE
    wait_until(lambda: running(engine, tmp_path) == [])


@pytest.mark.parametrize("how", ["ordered", "signalled"])
def test_it_drains_and_ends_with_0(start: Start, how: str) -> None:
    engine = start()
    connector = engine.connector()
    assert connector.outcome(connector.send(b"\1")).kind is OutcomeKind.DONE
    if how == "ordered":
        engine.controller.order(EngineOrder(5.0))
    else:
        engine.process.send_signal(signal.SIGTERM)
    connector.wait(lambda: connector.drain is not None)
    assert connector.outcome(connector.send_anyway(b"\1")).reason is RejectReason.DRAINING
    with pytest.raises(HarmonicIOError):
        engine.connector(lease_ticket(engine.configuration, lease="late"))
    assert engine.process.wait(20) == 0
    assert engine.master.drain is not None or not engine.master.is_connected
    assert engine.controller.states[-1] == "draining"


def test_it_reports_again_to_the_next_controller_and_ends_without_any(start: Start, tmp_path: Path) -> None:
    engine = start(orphan_after_s=1.0)
    engine.controller.close()
    successor = BareController(tmp_path / "control.sock")
    wait_until(lambda: successor.last and successor.last.state == "idle")
    successor.close()
    assert engine.process.wait(20) == 0


def test_it_does_not_start_without_a_plugin_that_its_stream_declares(start: Start) -> None:
    engine = start(can_start=False, plugins={"no_such_plugin": {}})
    assert engine.process.wait(20) == 3
    assert not any(report.address for report in engine.controller.reports)
