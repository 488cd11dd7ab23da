"""Reading a payload while it arrives."""

from __future__ import annotations

import io
import threading

import pytest

from harmonicio.core.errors import ConnectionEnded, InvalidInput, StorageError
from harmonicio.engine.streaming import Arrival, PayloadReader
from harmonicio.testing.waiting import wait_until


def arriving(payload: bytes) -> tuple[Arrival, PayloadReader]:
    arrival = Arrival(memoryview(payload))
    return arrival, PayloadReader(arrival)


def test_what_is_here_can_be_read_before_the_rest_has_arrived() -> None:
    arrival, reader = arriving(b"0123456789")
    arrival.advance(4)
    assert reader.read(100) == b"0123"
    arrival.advance(6)
    assert reader.read(1) == b"4"
    assert reader.tell() == 5


def test_a_read_waits_for_bytes_and_the_end_for_the_checksum() -> None:
    arrival, reader = arriving(b"0123456789")
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.extend(reader.chunks(4)))
    thread.start()
    arrival.advance(3)
    wait_until(lambda: read == [b"012"])
    arrival.advance(10)
    assert read == [b"012"], "the last bytes are given out when they are known to be right"
    arrival.complete(is_intact=True)
    thread.join()
    assert b"".join(read) == b"0123456789"


def test_going_back_reads_again() -> None:
    arrival, reader = arriving(b"0123456789")
    arrival.complete(is_intact=True)
    assert reader.readall() == b"0123456789"
    assert reader.seek(-3, io.SEEK_END) == 7
    assert reader.read() == b"789"
    assert reader.seek(2) == 2
    target = bytearray(3)
    assert reader.readinto(target) == 3
    assert target == b"234"
    assert reader.seek(1, io.SEEK_CUR) == 6
    assert reader.seek(99) == 99
    assert reader.read(1) == b""
    with pytest.raises(InvalidInput):
        reader.seek(0, 7)


def test_a_broken_connection_and_a_wrong_checksum_raise_in_the_reader() -> None:
    arrival, reader = arriving(b"0123456789")
    arrival.advance(5)
    assert reader.read(5) == b"01234"
    arrival.fail(ConnectionEnded("cut"))
    with pytest.raises(ConnectionEnded):
        reader.read(1)
    assert not reader.wait_until_arrived()

    arrival, reader = arriving(b"0123456789")
    arrival.complete(is_intact=False)
    with pytest.raises(StorageError, match="checksum"):
        reader.read(1)


def test_a_closed_reader_lets_go_of_the_buffer() -> None:
    buffer = bytearray(b"0123456789")
    arrival, reader = arriving(buffer)  # type: ignore[arg-type]
    arrival.complete(is_intact=True)
    reader.read(2)
    reader.close()
    buffer.append(0)
    with pytest.raises((ConnectionEnded, ValueError)):
        reader.read(1)
