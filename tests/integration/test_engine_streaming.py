"""Handlers that read a payload while it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from benches.engine import MIB, Start, engine_benches, reason_of
from harmonicio.core.message import OutcomeKind, RejectReason
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an engine with the given handler code and fields of its stream."""
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


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
