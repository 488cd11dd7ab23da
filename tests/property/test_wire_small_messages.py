"""Properties of small messages, many of which are read at once: each means what it means when it comes alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.wire_messages import (
    DIALLER_HELLO,
    Sent,
    chunkings,
    controls_to_receiver,
    encoded_control,
    meant,
    messages,
    received,
    take_events,
)
from harmonicio.core.errors import RemoteProtocolError
from harmonicio.wire.connection import Connection, message_prefix
from harmonicio.wire.events import Role
from harmonicio.wire.frames import FIXED, MAX_HEADER_BYTES, MAX_INLINE_BYTES, MAX_PAYLOAD_BYTES, VERSION, FrameType

#: As nearly all are: the id is raw, nothing else is said.
plain = st.builds(Sent, st.binary(min_size=16, max_size=16).map(bytes.hex), st.binary(max_size=30))
noted = messages(st.integers(0, 300))
small = plain | plain | noted
large = messages(st.integers(MAX_INLINE_BYTES + 1, MAX_INLINE_BYTES + 1000))


def opened() -> Connection:
    """A receiver that a connector has greeted."""
    connection = Connection()
    hello = Connection(Role.CONNECTOR).hello(DIALLER_HELLO)
    assert received(connection, hello, [len(hello)]) == [DIALLER_HELLO]
    return connection


def expected(sent: list[Any]) -> list[Any]:
    found: list[Any] = []
    for item in sent:
        number = sum(isinstance(each, tuple) for each in found)
        found.append(meant(number, item, is_discarding=False) if isinstance(item, Sent) else item)
    return found


def encoded(item: Any) -> bytes:
    return item.encoded() if isinstance(item, Sent) else encoded_control(item)


@given(st.lists(small, min_size=1, max_size=40), chunkings)
def test_many_are_the_same_however_they_are_cut_and_when_each_is_read_alone(sent: list[Sent], cuts: list[int]) -> None:
    data, alone = b"".join(map(encoded, sent)), opened()
    one_at_a_time = [each for item in sent for each in received(alone, item.encoded(), [MAX_INLINE_BYTES])]
    assert one_at_a_time == expected(sent)
    assert received(opened(), data, [len(data)]) == one_at_a_time
    assert received(opened(), data, cuts) == one_at_a_time


@given(
    st.lists(plain, min_size=1, max_size=8),
    st.lists(controls_to_receiver | large | noted, min_size=1, max_size=3),
    st.lists(plain, min_size=1, max_size=8),
    chunkings,
)
def test_what_comes_between_them_keeps_its_place(
    before: list[Sent], between: list[Any], after: list[Sent], cuts: list[int]
) -> None:
    sent = [*before, *between, *after]
    data = b"".join(map(encoded, sent))
    assert received(opened(), data, [len(data)]) == expected(sent)
    assert received(opened(), data, cuts) == expected(sent)


def frame(kind: int, section: bytes = b"", size: int = 0, flags: int = 0, opening: bytes = b"HI") -> bytes:
    """A whole frame, however wrong."""
    payload = bytes(min(size, 10))
    return FIXED.pack(opening, VERSION, kind, flags, 0, 0, len(section), 0, 0, size, bytes(16)) + section + payload


MESSAGE = int(FrameType.MESSAGE)
BROKEN = {
    "no frame": (frame(MESSAGE, opening=b"HX"), "do not start a frame"),
    "another version": (b"HI\x07" + frame(MESSAGE)[3:], "speaks version 7"),
    "no such type": (frame(12), "no frame of type 12"),
    "a control frame with a payload": (frame(FrameType.DEPTH, size=5), "announces a payload"),
    "a control frame that means nothing": (frame(FrameType.DEPTH, b"\x90"), "DEPTH"),
    "an unknown flag": (frame(MESSAGE, size=5, flags=32), "flags 0x20"),
    "two checksums": (frame(MESSAGE, size=5, flags=12) + bytes(8), "flags 0xc"),
    "a text id that is missing": (frame(MESSAGE, size=5, flags=1), "has none"),
    "a section that is not msgpack": (frame(MESSAGE, b"\xc1", size=5), "not msgpack"),
    "metadata that are none": (frame(MESSAGE, b"\x82\xa8metadata\x01\xa1x\x01", size=5), "not a map"),
    "a section that is too long": (frame(MESSAGE, bytes(MAX_HEADER_BYTES + 1)), "header section of 262145 bytes"),
    "a payload that is too long": (frame(MESSAGE, size=MAX_PAYLOAD_BYTES + 1), "payload of 4611686018427387905"),
    "what an engine says": (frame(FrameType.CREDIT, b"\x92\x01\x01"), "as receiver"),
}


@pytest.mark.parametrize("name", BROKEN)
@given(good=st.lists(small, min_size=1, max_size=8), cuts=chunkings)
def test_those_before_a_broken_frame_come_first_and_then_the_error(
    name: str, good: list[Sent], cuts: list[int]
) -> None:
    broken, words = BROKEN[name]
    data = b"".join(map(encoded, good)) + broken + message_prefix("ab" * 16, 3) + b"abc"
    for sizes in (cuts, [len(data)]):
        found: list[Any] = []
        with pytest.raises(RemoteProtocolError, match=words):
            receive_into(found, data, sizes)
        assert found == expected(good)


def receive_into(found: list[Any], data: bytes, cuts: list[int]) -> None:
    """As ``received``, but what was found is there also when an error ends it."""
    connection, at, turn = opened(), 0, 0
    while at < len(data):
        buffer = connection.receive_buffer()
        count = min(len(buffer), cuts[turn % len(cuts)], len(data) - at)
        buffer[:count] = data[at : at + count]
        del buffer  # A view that is kept keeps the buffer, too.
        connection.bytes_received(count)
        at, turn = at + count, turn + 1
        take_events(connection, found, is_discarding=False)
