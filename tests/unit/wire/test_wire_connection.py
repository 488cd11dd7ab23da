"""One end of a connection: who may say what when, and the prefix of a message."""

from __future__ import annotations

from typing import Any

import pytest

from harmonicio.core.errors import ConnectionEnded, InvalidInput, LocalProtocolError, RemoteProtocolError
from harmonicio.core.message import MAX_PRIORITY, MIN_PRIORITY
from harmonicio.testing.arrivals import one_by_one
from harmonicio.wire import events, sections
from harmonicio.wire.connection import (
    Connection,
    Part,
    State,
    message_prefix,
    raw_prefix,
)
from harmonicio.wire.events import Role
from harmonicio.wire.frames import FIXED, FIXED_LENGTH, MAX_INLINE_BYTES, Flag
from harmonicio.wire.metadata import read_metadata


def give(connection: Connection, data: bytes) -> list[Any]:
    """Give bytes that fit into one read; return the events until a payload begins, and messages one by one."""
    buffer = connection.receive_buffer()
    buffer[: len(data)] = data
    del buffer
    connection.bytes_received(len(data))
    found = []
    while (event := connection.next_event()) is not None:
        found += one_by_one(event)
        if isinstance(event, events.MessageBegun):
            break
    return found


def pair(role: Role) -> tuple[Connection, Connection]:
    dialler, listener = Connection(role), Connection()
    give(listener, dialler.hello(events.Hello(role)))
    give(dialler, listener.hello(events.Hello(Role.MASTER)))
    return dialler, listener


@pytest.mark.parametrize(("role", "part"), [(Role.CONNECTOR, Part.SENDER), (Role.ENGINE, Part.RECEIVER)])
def test_the_role_of_the_dialler_says_who_sends_messages(role: Role, part: Part) -> None:
    dialler, listener = pair(role)
    assert dialler.part is part
    assert {dialler.part, listener.part} == set(Part)
    assert dialler.state is listener.state is State.OPEN


def test_a_listener_waits_for_the_peers_hello() -> None:
    with pytest.raises(LocalProtocolError):
        Connection().hello(events.Hello(Role.ENGINE))


def test_hello_is_said_once() -> None:
    dialler = Connection(Role.CONNECTOR)
    dialler.hello(events.Hello(Role.CONNECTOR))
    with pytest.raises(LocalProtocolError):
        dialler.hello(events.Hello(Role.CONNECTOR))


def test_a_connection_is_closed_by_goodbye_from_either_end() -> None:
    dialler, listener = pair(Role.CONNECTOR)
    (goodbye,) = give(dialler, listener.goodbye("draining", "Enough."))
    assert goodbye == events.Goodbye("draining", "Enough.")
    assert dialler.state is listener.state is State.CLOSED


def test_nothing_is_heard_after_goodbye() -> None:
    dialler, listener = pair(Role.CONNECTOR)
    dialler.goodbye()
    assert give(dialler, sections.credit_frame(1, 1)) == []
    assert give(listener, dialler.goodbye() + message_prefix("00" * 16, 0)) == [events.Goodbye()]


def test_what_a_goodbye_says_is_one_short_printable_line() -> None:
    dialler, listener = pair(Role.CONNECTOR)
    (goodbye,) = give(dialler, listener.goodbye("x", "a\x1b[31m\nb" + "c" * 10_000, "\r"))
    assert isinstance(goodbye, events.Goodbye)
    assert goodbye.text.isprintable() and goodbye.hint.isprintable() and len(goodbye.text) == 2000


def test_the_end_of_the_stream_between_frames_is_an_event() -> None:
    assert Connection().end_of_stream() == events.ConnectionClosed()


@pytest.mark.parametrize("cut", [1, 2, 39, 40, 41])
def test_the_end_of_the_stream_within_a_frame_is_an_error(cut: int) -> None:
    _, listener = pair(Role.CONNECTOR)
    give(listener, (message_prefix("00" * 16, 2) + b"ab")[:cut])
    with pytest.raises(ConnectionEnded, match="middle of a frame"):
        listener.end_of_stream()
    assert listener.next_event() is None


def test_a_large_payload_needs_a_buffer_of_its_size_or_none() -> None:
    _, listener = pair(Role.CONNECTOR)
    size = MAX_INLINE_BYTES + 1
    (begun,) = give(listener, message_prefix("00" * 16, size) + b"start")
    assert isinstance(begun, events.MessageBegun)
    with pytest.raises(LocalProtocolError, match="buffer or discard"):
        listener.next_event()
    with pytest.raises(LocalProtocolError, match="was given"):
        listener.provide_payload_buffer(memoryview(bytearray(size - 1)))
    listener.provide_payload_buffer(memoryview(bytearray(size)))
    assert listener.is_in_payload and len(listener.receive_buffer()) == size - 5
    for again in (listener.discard_payload, lambda: listener.provide_payload_buffer(memoryview(bytearray(size)))):
        with pytest.raises(LocalProtocolError, match="No payload waits"):
            again()


def test_messages_are_numbered_as_they_arrive() -> None:
    _, listener = pair(Role.CONNECTOR)
    found = give(listener, b"".join(message_prefix("same", 0) for _ in range(5)))
    assert [message.sequence for message in found] == list(range(5))


@pytest.mark.parametrize(
    ("message_id", "is_raw"),
    [
        ("00" * 16, True),
        ("0123456789abcdef" * 2, True),
        ("A" * 32, False),
        ("g" * 32, False),
        (" " * 32, False),
        ("a", False),
    ],
)
def test_only_32_small_hex_digits_travel_as_16_bytes(message_id: str, is_raw: bool) -> None:
    assert (sections.raw_message_id(message_id) is not None) is is_raw
    _, listener = pair(Role.CONNECTOR)
    if not is_raw and not message_id.strip():
        return
    (message,) = give(listener, message_prefix(message_id, 0))
    assert isinstance(message, events.IncomingMessage)
    assert message.id == message_id
    assert bool(message.flags & Flag.TEXT_ID) is not is_raw


def test_a_section_can_be_passed_on_as_it_came() -> None:
    _, first = pair(Role.CONNECTOR)
    _, second = pair(Role.CONNECTOR)
    (got,) = give(first, message_prefix("plate 7", 0, metadata={"x": 1}, priority=5))
    assert isinstance(got, events.IncomingMessage)
    (again,) = give(
        second, raw_prefix(sections.raw_message_id(got.id), 0, got.section, priority=got.priority, attempts=1)
    )
    assert isinstance(again, events.IncomingMessage)
    assert (again.id, again.metadata, again.attempts) == ("plate 7", {"x": 1}, 1)


@pytest.mark.parametrize("priority", [MIN_PRIORITY - 1, MAX_PRIORITY + 1, 1.5, "high"])
def test_a_priority_that_does_not_fit_is_refused(priority: int) -> None:
    with pytest.raises(InvalidInput, match="Priority"):
        message_prefix("id", 0, priority=priority)


def test_counts_beyond_a_byte_stay_at_their_largest() -> None:
    _, listener = pair(Role.CONNECTOR)
    (message,) = give(listener, message_prefix("id", 0, attempts=1000, crashes=256))
    assert isinstance(message, events.IncomingMessage)
    assert (message.attempts, message.crashes) == (255, 255)


def test_bytes_without_a_meaning_yet_are_ignored() -> None:
    """The two bytes before the payload length, and whatever a frame type does not use, may mean something later."""
    _, listener = pair(Role.CONNECTOR)
    later = FIXED.pack(b"HI", 1, 3, 0xFFFF, 9, 9, 2, -7, 0xFFFF, 0, b"\xff" * 16) + b"\x91\x07"
    assert give(listener, later) == [events.Depth(7)]


def test_unknown_keys_and_further_elements_are_ignored() -> None:
    fields = {"role": "connector", "versions": [1, 2], "later": {"a": 1}, "checksums": ["xxh9", "crc32", 7]}
    section = sections.pack(fields)
    hello = sections.read_hello(section)
    assert (hello.versions, hello.checksums) == ((1, 2), ("xxh9", "crc32"))
    assert sections.read_credit(sections.pack([1, 2, "later"])) == events.Credit(1, 2)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (sections.read_hello, {"role": "emperor"}),
        (sections.read_hello, {"role": ["connector"]}),
        (sections.read_hello, {"role": "engine", "stream": 7}),
        (sections.read_hello, {"role": "engine", "versions": 1}),
        (sections.read_hello, {"role": "engine", "max_message_bytes": -1}),
        (sections.read_credit, [1]),
        (sections.read_credit, [1, -1]),
        (sections.read_credit, [1, True]),
        (sections.read_credit, [1, 2**63]),
        (sections.read_depth, []),
        (sections.read_drain, ["soon"]),
        (sections.read_drain, [-1]),
        (sections.read_drain, [float("nan")]),
        (sections.read_subscribe, ["a\nb"]),
        (sections.read_subscribe, [7]),
        (sections.read_outcomes, [[2, 5]]),
        (sections.read_outcomes, [[2, 5, 4]]),
        (sections.read_outcomes, [[9, 5, 5]]),
        (sections.read_outcomes, [["done", 5, 5]]),
        (sections.read_outcomes, [[3, 5, 5]]),
        (sections.read_outcomes, [[4, 5, 5, {"reason": "mood"}]]),
        (sections.read_results, [[2, "id"]]),
        (sections.read_results, [[2, "", None]]),
        (sections.read_goodbye, {"text": 7}),
        (read_metadata, {"metadata": []}),
        (sections.read_message_section, {"id": "plate 7", "metadata": []}),
        (sections.read_message_section, {"id": ""}),
        (sections.read_message_section, {"failure": "all"}),
    ],
)
def test_a_section_that_means_nothing_is_refused(read: object, value: object) -> None:
    assert callable(read)
    with pytest.raises(RemoteProtocolError):
        read(sections.pack(value))


def test_a_message_prefix_is_forty_bytes_and_its_section() -> None:
    assert len(message_prefix("00" * 16, 10**6)) == FIXED_LENGTH
