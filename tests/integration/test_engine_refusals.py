"""What a daemon does not take, and who may not send to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benches.engine import ECHO, GATE, MIB, Start, engine_benches, reason_of
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.core.errors import ConnectionEnded, NotAllowed
from harmonicio.core.message import OutcomeKind, RejectReason
from harmonicio.engine.answers import Answers
from harmonicio.testing.bare_peers import BareConnector, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.wire import checksum
from harmonicio.wire.frames import Flag


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an engine with the given handler code and fields of its stream."""
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


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


@pytest.mark.row("S3")
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


@pytest.mark.interpreted
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
