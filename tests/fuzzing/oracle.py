"""Judges what one end of a data connection does with any bytes.

What must hold, whatever comes:

- Nothing is raised but the errors of ``core.errors`` that speak of the peer, in at most a thousand characters.
- However the bytes are cut into reads, the same events come out, and the same error ends them.
- What was read can be written again, and then reads the same, as far as the limits of writing allow it.
- The receive buffer stays within its bound, and nothing is taken for what is only announced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benches.wire_messages import give
from fuzzing.conversations import ARENA_BYTES, Reader
from harmonicio.core.errors import ConnectionEnded, InvalidInput, RemoteProtocolError
from harmonicio.testing.arrivals import one_by_one
from harmonicio.wire import events, sections
from harmonicio.wire.checksum import trailer
from harmonicio.wire.connection import _READERS, Connection, State, message_prefix
from harmonicio.wire.credit import ReceiverCredit, SenderCredit
from harmonicio.wire.decoder import LARGEST_KEPT_BYTES, Decoder, Frame
from harmonicio.wire.frames import CHECKSUM_FLAGS, PLACE, Flag

#: What a reader takes of a large payload; more is discarded, as an engine does with ``rejected: too_large``.
ALLOWED_PAYLOAD_BYTES = 256 * 1024
LONGEST_ERROR = 1000
#: What the sending end of a case has sent, so that outcomes have something to answer.
SENT = 1000


class Violation(AssertionError):
    """Something that must hold did not."""


@dataclass
class Heard:
    """What one end made of its bytes."""

    events: list[Any] = field(default_factory=list)
    error: str = ""
    error_kind: str = ""


def judge(reader: Reader, data: bytes, cuts: Sequence[int]) -> Heard:
    """Let an end read the bytes at once and in pieces of the given sizes.

    Raises:
        Violation: it does what it must not.
    """
    whole = hear(reader, data, ())
    pieces = hear(reader, data, cuts)
    if (whole.events, whole.error) != (pieces.events, pieces.error) and repr(whole) != repr(pieces):
        raise Violation(f"Cut differently, the bytes mean something else: {whole!r:.500} or {pieces!r:.500}")
    for event in whole.events:
        say_again(event)
    return whole


def hear(reader: Reader, data: bytes, cuts: Sequence[int]) -> Heard:
    """Return what an end makes of the bytes; anything but the errors that are meant is let through."""
    heard, connection = Heard(), reader.connection()
    try:
        for event in _events(connection, data, cuts):
            heard.events.append(event)
        if connection.kept_bytes > LARGEST_KEPT_BYTES:
            raise Violation(f"{connection!r} keeps {connection.kept_bytes} bytes.")
        connection.end_of_stream()
    except (RemoteProtocolError, ConnectionEnded) as error:
        heard.error, heard.error_kind = str(error), error.code
        if len(heard.error) > LONGEST_ERROR:
            raise Violation(f"An error of {len(heard.error)} characters.") from error
    return heard


def _events(connection: Connection, data: bytes, cuts: Sequence[int]) -> Iterator[Any]:
    rest, turn = memoryview(data), 0
    sender, receiver = SenderCredit(), ReceiverCredit()
    sender.sent = SENT
    receiver.grant(2, 100)
    while True:
        while (event := connection.next_event()) is not None:
            if isinstance(event, events.Hello) and connection.state is State.HANDSHAKE:
                connection.hello(events.Hello(events.Role.MASTER))
            if isinstance(event, events.MessageBegun):
                yield ("begun", event.message.sequence, event.message.size_bytes)
                _take_payload(connection, event.message.size_bytes)
                continue
            for each in one_by_one(event):
                _count(each, sender, receiver)
                yield Message.of(each) if isinstance(each, events.IncomingMessage) else each
        if not rest or connection.state is State.CLOSED:
            return
        piece = rest[: cuts[turn % len(cuts)]] if cuts else rest
        turn += 1
        rest = rest[give(connection, piece) :]


def _take_payload(connection: Connection, size_bytes: int) -> None:
    if size_bytes <= ALLOWED_PAYLOAD_BYTES:
        connection.provide_payload_buffer(memoryview(bytearray(size_bytes)))
    else:
        connection.discard_payload()


def _count(event: Any, sender: SenderCredit, receiver: ReceiverCredit) -> None:
    if isinstance(event, events.Credit):
        before = sender.messages_total, sender.bytes_total
        sender.granted(event.messages, event.bytes)
        if before > (sender.messages_total, sender.bytes_total):
            raise Violation("Totals of credit have fallen.")
    elif isinstance(event, events.OutcomesReceived):
        for answered in event.ranges:
            sender.outcomes_received(answered.first, answered.last)
        if not 0 <= sender.outstanding <= SENT:
            raise Violation(f"Of {SENT} messages {sender.outstanding} are outstanding.")
    elif isinstance(event, events.IncomingMessage):
        receiver.message_received(event.size_bytes)


@dataclass(frozen=True)
class Message:
    """A message by value."""

    id: str
    payload: bytes
    metadata: Any
    failure: Any
    numbers: tuple[int, ...]
    is_intact: bool
    place: int

    @classmethod
    def of(cls, message: events.IncomingMessage) -> Message:
        payload = message.payload if message.place < 0 else memoryview(PLACE.pack(message.place))
        assert payload is not None and payload.readonly
        assert message.place + message.size_bytes <= ARENA_BYTES or message.place < 0
        assert message.is_suspect is bool(message.flags & Flag.SUSPECT)
        assert message.is_dead is bool(message.flags & Flag.DEAD)
        numbers = (message.flags, message.attempts, message.crashes, message.priority, message.size_bytes)
        return cls(
            message.id,
            bytes(payload),
            dict(message.metadata),
            message.failure,
            (message.sequence, *numbers),
            message.is_intact,
            message.place,
        )


# ── what was read is written again ───────────────────────────────────────────────────────────────────────────────────


def say_again(event: Any) -> None:
    """Write what was read, and read it."""
    try:
        written = encoded(event)
    except InvalidInput:
        return  # A short number may need more bytes when it is written again, and a section has a limit.
    if written is None:
        return
    decoder, read = Decoder(), []
    decoder.use_arena(ARENA_BYTES)
    rest = memoryview(written)
    while rest:
        rest = rest[decoder.feed(rest) :]
        while (frame := decoder.next_frame()) is not None:
            if isinstance(frame, Frame):
                read.append(_READERS[frame.type](frame.section))
            elif isinstance(frame, list):
                read += map(Message.of, frame)
            else:
                decoder.provide_payload_buffer(memoryview(bytearray(frame.size_bytes)))
    is_same = b"".join(encoded(each) or b"" for each in read) == written
    # The writer shortens failures; all else reads as before.
    if len(read) == 1 and "Failure(" not in (told := repr(event)):
        is_same = is_same and _without_number(repr(read[0])) == _without_number(told)
    if not is_same:
        raise Violation(f"Written again it reads otherwise: {event!r:.500} as {read!r:.500}")


def _without_number(text: str) -> str:
    """A message that is read alone is the first of its connection."""
    return re.sub(r"numbers=\(\d+, ", "numbers=(", text)


def encoded(event: Any) -> bytes | None:
    """Return the bytes that say what was read; None for what says nothing of its own."""
    match event:
        case events.Hello():
            return sections.hello_frame(event)
        case events.Credit():
            return sections.credit_frame(event.messages, event.bytes)
        case events.Depth():
            return sections.depth_frame(event.messages)
        case events.OutcomesReceived():
            return sections.outcomes_frame(
                [
                    (each.first, each.last, each.outcome.kind, sections.packed_detail(each.outcome))
                    for each in event.ranges
                ]
            )
        case events.Subscribe():
            return sections.subscribe_frame(event.message_ids)
        case events.ResultsReceived():
            return sections.results_frame(event.results)
        case events.Drain():
            return sections.drain_frame(event.within_s)
        case events.Goodbye():
            return sections.goodbye_frame(event)
        case events.Held():
            return sections.held_frame(event.sequences)
        case events.Released():
            return sections.released_frame(event.sequences)
        case Message() if event.is_intact and (event.place >= 0 or len(event.payload) == event.numbers[5]):
            return _encoded_message(event)
    return None


def _encoded_message(message: Message) -> bytes:
    _, flags, attempts, crashes, priority, size_bytes = message.numbers
    prefix = message_prefix(
        message.id,
        size_bytes,
        metadata=message.metadata,
        priority=priority,
        flags=flags & ~int(Flag.TEXT_ID),
        attempts=attempts,
        crashes=crashes,
        failure=message.failure,
    )
    return prefix + message.payload + (trailer(flags, message.payload) if flags & CHECKSUM_FLAGS else b"")
