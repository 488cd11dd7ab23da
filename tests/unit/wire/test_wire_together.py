"""Small messages that are here whole come together, and nothing of one is taken for the other's."""

from __future__ import annotations

import pytest

from benches.wire_messages import give
from harmonicio.core.message import Failure
from harmonicio.wire import events, sections
from harmonicio.wire.checksum import FLAG_OF, SUPPORTED, trailer
from harmonicio.wire.connection import Connection, message_prefix
from harmonicio.wire.decoder import Decoder
from harmonicio.wire.events import IncomingMessage, MessageBegun, MessagesReceived, Role
from harmonicio.wire.frames import MAX_INLINE_BYTES, Flag

IDS = [f"{number:032x}" for number in range(10)]


@pytest.fixture
def connection() -> Connection:
    """A receiver that a connector has greeted."""
    listener = Connection()
    assert isinstance(
        events_of(listener, Connection(Role.CONNECTOR).hello(events.Hello(Role.CONNECTOR)))[0], events.Hello
    )
    listener.hello(events.Hello(Role.ENGINE))
    return listener


def events_of(connection: Connection, data: bytes) -> list[events.Event]:
    """Give bytes, as many as a read takes; return the events, which large payloads are read for."""
    found, rest = [], memoryview(data)
    while rest:
        rest = rest[give(connection, rest) :]
        while (event := connection.next_event()) is not None:
            found.append(event)
            if isinstance(event, MessageBegun):
                connection.provide_payload_buffer(memoryview(bytearray(event.message.size_bytes)))
    return found


def messages_in(event: events.Event) -> list[IncomingMessage]:
    assert isinstance(event, MessagesReceived)
    return event.messages


def plain(number: int, payload: bytes = b"abc") -> bytes:
    return message_prefix(IDS[number], len(payload)) + payload


def test_small_messages_that_are_here_come_in_one_event(connection: Connection) -> None:
    (event,) = events_of(connection, b"".join(plain(number, bytes([number]) * number) for number in range(10)))
    messages = messages_in(event)
    assert [message.id for message in messages] == IDS
    assert [message.sequence for message in messages] == list(range(10))
    assert [message.payload for message in messages] == [bytes([number]) * number for number in range(10)]
    assert all(message.payload is not None and message.payload.readonly for message in messages)


@pytest.mark.parametrize("missing", [1, 3, 4, 42])
def test_one_that_is_not_here_whole_waits_and_holds_up_nobody_before_it(connection: Connection, missing: int) -> None:
    data = plain(0) + plain(1) + plain(2)
    (first,) = events_of(connection, data[:-missing])
    assert [message.id for message in messages_in(first)] == IDS[:2]
    assert not connection.is_between_frames
    (second,) = events_of(connection, data[-missing:])
    assert [(message.id, message.sequence, message.payload) for message in messages_in(second)] == [(IDS[2], 2, b"abc")]
    assert connection.is_between_frames


def test_control_frames_and_large_messages_part_them_and_keep_their_places(connection: Connection) -> None:
    size = MAX_INLINE_BYTES + 1
    large = message_prefix(IDS[4], size) + bytes(size)
    found = events_of(
        connection,
        plain(0) + plain(1) + sections.depth_frame(7) + plain(2, bytes(MAX_INLINE_BYTES)) + plain(3)
        + large + plain(5) + sections.depth_frame(0) + sections.drain_frame(1.0) + plain(6),
    )  # fmt: skip
    told = [
        [message.id for message in event.messages] if isinstance(event, MessagesReceived) else type(event).__name__
        for event in found
    ]
    # Whether those that a payload of 128 KB parts come together says the size of a read, not the protocol.
    assert told in (
        [IDS[:2], "Depth", IDS[2:4], "MessageBegun", [IDS[4]], [IDS[5]], "Depth", "Drain", [IDS[6]]],
        [IDS[:2], "Depth", [IDS[2]], [IDS[3]], "MessageBegun", [IDS[4]], [IDS[5]], "Depth", "Drain", [IDS[6]]],
    )
    sequences = [
        message.sequence for event in found if isinstance(event, MessagesReceived) for message in event.messages
    ]
    assert sequences == list(range(7))


def test_what_is_said_of_one_is_not_said_of_its_neighbours(connection: Connection) -> None:
    failure = Failure("ValueError", "bad")
    noted = message_prefix(
        "plate 7", 1, metadata={"well": "B03"}, priority=-5, flags=Flag.SUSPECT, attempts=3, crashes=2, failure=failure
    )
    (event,) = events_of(connection, plain(0) + noted + b"x" + plain(2))
    before, one, after = messages_in(event)
    assert (one.id, one.metadata, one.priority, one.is_suspect) == ("plate 7", {"well": "B03"}, -5, True)
    assert (one.attempts, one.crashes, one.failure, one.payload) == (3, 2, failure, b"x")
    for other, number in ((before, 0), (after, 2)):
        assert (other.id, dict(other.metadata), other.section, other.failure) == (IDS[number], {}, b"", None)
        assert (other.flags, other.priority, other.attempts, other.crashes) == (0, 0, 0, 0)
        assert (other.is_suspect, other.is_dead, other.is_intact, other.has_checksum) == (False, False, True, False)


def test_the_priority_and_the_text_id_of_each_are_its_own(connection: Connection) -> None:
    data = b"".join(message_prefix(f"plate {at}", 0, priority=at, metadata={"at": at}) for at in range(5))
    (event,) = events_of(connection, data)
    told = [(message.id, message.priority, message.metadata) for message in messages_in(event)]
    assert told == [(f"plate {at}", at, {"at": at}) for at in range(5)]


@pytest.mark.parametrize("checksum", SUPPORTED)
def test_one_that_is_damaged_is_damaged_alone(connection: Connection, checksum: str) -> None:
    flag = FLAG_OF[checksum]
    checked = [message_prefix(each, 3, flags=flag) + b"abc" + trailer(flag, b"abc") for each in IDS[:3]]
    checked[1] = checked[1].replace(b"abc", b"abd")
    (event,) = events_of(connection, plain(3) + b"".join(checked) + plain(4))
    assert [message.is_intact for message in messages_in(event)] == [True, True, False, True, True]
    assert [message.has_checksum for message in messages_in(event)] == [False, True, True, True, False]


def test_what_is_written_into_the_empty_metadata_of_one_is_not_in_anothers(connection: Connection) -> None:
    (event,) = events_of(connection, plain(0) + plain(1))
    first, second = messages_in(event)
    first.metadata["x"] = 1  # type: ignore[index]
    assert second.metadata == {}


def test_a_decoder_uses_its_buffer_again_when_all_that_came_together_are_gone() -> None:
    decoder, data = Decoder(), b"".join(plain(number, bytes(100)) for number in range(10))
    for _ in range(1000):
        decoder.feed(data)
        messages = decoder.next_frame()
        assert isinstance(messages, list) and len(messages) == 10
        del messages
        assert decoder.next_frame() is None
    assert decoder.abandoned_buffers == 0


def test_a_view_of_one_message_keeps_what_came_with_it() -> None:
    decoder, data = Decoder(), b"".join(plain(number, bytes([number]) * 100) for number in range(10))
    decoder.feed(data)
    messages = decoder.next_frame()
    assert isinstance(messages, list)
    kept = messages[7].payload
    del messages
    for _ in range(1000):
        decoder.feed(plain(0, b"\xff" * 100))
        assert decoder.next_frame()
    assert kept == bytes([7]) * 100
    assert decoder.abandoned_buffers == 1
