"""Any messages and control frames, as their sender means them and as a receiver finds them, by value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from harmonicio.core.message import Failure
from harmonicio.testing.arrivals import one_by_one
from harmonicio.wire import events, sections
from harmonicio.wire.checksum import FLAG_OF, SUPPORTED, trailer
from harmonicio.wire.connection import Connection, State, message_prefix
from harmonicio.wire.decoder import SMALLEST_KEPT_BYTES
from harmonicio.wire.events import Role
from harmonicio.wire.frames import MAX_INLINE_BYTES, Flag

DIALLER_HELLO = events.Hello(Role.CONNECTOR, stream="images", ticket="t", source="s", checksums=SUPPORTED)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
message_ids = st.binary(min_size=16, max_size=16).map(bytes.hex) | st.text(
    st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=60
)
failures = st.builds(Failure, texts, texts, texts, st.booleans())
sizes = st.one_of(
    st.integers(0, 300),
    st.sampled_from([0, 1, SMALLEST_KEPT_BYTES, MAX_INLINE_BYTES - 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1]),
    st.integers(0, 3 * MAX_INLINE_BYTES),
)


@dataclass
class Sent:
    """One message as its sender means it."""

    id: str
    payload: bytes
    metadata: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    flags: int = 0
    attempts: int = 0
    crashes: int = 0
    failure: Failure | None = None
    is_intact: bool = True

    def encoded(self) -> bytes:
        prefix = message_prefix(
            self.id,
            len(self.payload),
            metadata=self.metadata,
            priority=self.priority,
            flags=self.flags,
            attempts=self.attempts,
            crashes=self.crashes,
            failure=self.failure,
        )
        end = trailer(self.flags, self.payload) if self.flags & 12 else b""
        return prefix + self.payload + (end if self.is_intact else bytes(byte ^ 0xFF for byte in end))


@st.composite
def messages(draw: st.DrawFn, sizes: st.SearchStrategy[int] = sizes) -> Sent:
    size = draw(sizes)
    checksum = FLAG_OF[draw(st.sampled_from(["", *SUPPORTED]))]
    flags = checksum | draw(st.sampled_from([Flag.NONE, Flag.SUSPECT, Flag.DEAD]))
    return Sent(
        id=draw(message_ids),
        payload=(draw(st.binary(min_size=1, max_size=40)) * (size + 1))[:size],
        metadata=draw(st.dictionaries(texts, values, max_size=3)),
        priority=draw(st.integers(-(2**15), 2**15 - 1)),
        flags=int(flags),
        attempts=draw(st.integers(0, 255)),
        crashes=draw(st.integers(0, 255)),
        failure=draw(st.none() | failures),
        is_intact=not checksum or draw(st.booleans()),
    )


controls_to_receiver = st.one_of(
    st.builds(events.Depth, st.integers(0, 2**63 - 1)),
    st.builds(events.Subscribe, st.lists(message_ids, max_size=5).map(tuple)),
    st.builds(events.Drain, st.floats(0, 1e8)),
)


def encoded_control(event: events.Event) -> bytes:
    if isinstance(event, events.Depth):
        return sections.depth_frame(event.messages)
    if isinstance(event, events.Subscribe):
        return sections.subscribe_frame(event.message_ids)
    assert isinstance(event, events.Drain)
    return sections.drain_frame(event.within_s)


def pieces(data: bytes, cuts: list[int]) -> Iterator[memoryview]:
    """Cut ``data`` into pieces of the given sizes, repeated as often as needed."""
    view, at, turn = memoryview(data), 0, 0
    while at < len(view):
        size = cuts[turn % len(cuts)]
        yield view[at : at + size]
        at, turn = at + size, turn + 1


def give(connection: Connection, data: bytes | memoryview) -> int:
    """Copy what fits into the connection's buffer; return how many bytes that was."""
    buffer = connection.receive_buffer()
    count = min(len(buffer), len(data))
    buffer[:count] = data[:count]
    del buffer  # A view that is kept keeps the buffer, too.
    connection.bytes_received(count)
    return count


def received(connection: Connection, data: bytes, cuts: list[int], *, is_discarding: bool = False) -> list[Any]:
    """Feed ``data`` in pieces; return the events by value, messages with their payloads."""
    found: list[Any] = []
    for piece in pieces(data, cuts):
        while len(piece):
            piece = piece[give(connection, piece) :]
            take_events(connection, found, is_discarding)
    return found


def take_events(connection: Connection, found: list[Any], is_discarding: bool) -> None:
    while (event := connection.next_event()) is not None:
        if connection.state is State.HANDSHAKE:
            connection.hello(events.Hello(Role.ENGINE))
        if isinstance(event, events.MessageBegun):
            assert event.message.size_bytes > MAX_INLINE_BYTES
            if is_discarding:
                connection.discard_payload()
            else:
                connection.provide_payload_buffer(memoryview(bytearray(event.message.size_bytes)))
        else:
            found += [
                by_value(each) if isinstance(each, events.IncomingMessage) else each for each in one_by_one(event)
            ]


def by_value(message: events.IncomingMessage) -> tuple[Any, ...]:
    assert message.payload is not None and message.payload.readonly
    return (
        message.sequence,
        message.id,
        bytes(message.payload),
        dict(message.metadata),
        message.priority,
        message.is_suspect,
        message.is_dead,
        message.attempts,
        message.crashes,
        message.failure,
        message.size_bytes,
        message.is_intact,
    )


def meant(number: int, sent: Sent, *, is_discarding: bool) -> tuple[Any, ...]:
    is_dropped = is_discarding and len(sent.payload) > MAX_INLINE_BYTES
    return (
        number,
        sent.id,
        b"" if is_dropped else sent.payload,
        sent.metadata,
        sent.priority,
        bool(sent.flags & Flag.SUSPECT),
        bool(sent.flags & Flag.DEAD),
        sent.attempts,
        sent.crashes,
        sent.failure,
        len(sent.payload),
        True if is_dropped else sent.is_intact,
    )


chunkings = st.lists(
    st.one_of(st.integers(1, 8), st.integers(1, 5000), st.integers(60_000, 300_000)), min_size=1, max_size=10
).filter(lambda cuts: sum(cuts) / len(cuts) > 3)
