"""One end of one data connection, without I/O.

Bytes go in through :meth:`receive_buffer` and :meth:`bytes_received`, events come out of :meth:`next_event`; the
methods that write return the bytes to send. One thread may receive while another sends.

The states, and which frames may arrive in them:

      HANDSHAKE ── Hello ──► OPEN ── Goodbye, end of stream ──► CLOSED
          HELLO, GOODBYE       as the receiver of messages: MESSAGE, DEPTH, SUBSCRIBE, DRAIN, GOODBYE
                               as the sender of messages:   CREDIT, OUTCOMES, RESULTS, DRAIN, GOODBYE,
                                                            and with an arena HELD, RELEASED
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import StrEnum

from harmonicio.core.errors import ConnectionEnded, InvalidInput, LocalProtocolError, RemoteProtocolError
from harmonicio.core.message import MAX_PRIORITY, MIN_PRIORITY, Failure, Metadata
from harmonicio.wire import events, sections
from harmonicio.wire.decoder import Decoder, Frame
from harmonicio.wire.frames import (
    FIXED_LENGTH,
    MAX_COUNT,
    MESSAGE_FIXED,
    MESSAGE_OPENING,
    NO_ID,
    VERSION,
    Flag,
    FrameType,
)


class State(StrEnum):
    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


class Part(StrEnum):
    """Whether this end sends messages or receives them."""

    SENDER = "sender"
    RECEIVER = "receiver"


#: Until HELLO is accepted, a listener reads at most this many bytes.
HANDSHAKE_LIMIT_BYTES = FIXED_LENGTH + 16 * 1024

# Reading a member of an enumeration is slow, and these are read once per message.
_OPEN, _CLOSED, _RECEIVER = State.OPEN, State.CLOSED, Part.RECEIVER
_TEXT_ID, _NOT_TEXT_ID = int(Flag.TEXT_ID), ~int(Flag.TEXT_ID)
_pack_message = MESSAGE_FIXED.pack

_Reader = Callable[[bytes], events.Event]

_READERS: dict[FrameType, _Reader] = {
    FrameType.HELLO: sections.read_hello,
    FrameType.CREDIT: sections.read_credit,
    FrameType.DEPTH: sections.read_depth,
    FrameType.OUTCOMES: sections.read_outcomes,
    FrameType.SUBSCRIBE: sections.read_subscribe,
    FrameType.HELD: sections.read_held,
    FrameType.RELEASED: sections.read_released,
    FrameType.RESULTS: sections.read_results,
    FrameType.DRAIN: sections.read_drain,
    FrameType.GOODBYE: sections.read_goodbye,
}

_BOTH = frozenset({FrameType.DRAIN, FrameType.GOODBYE})
#: Of shared memory only the sender of messages hears, and only when both ends use it.
_OF_ARENA = frozenset({FrameType.HELD, FrameType.RELEASED})
_LEGAL: dict[tuple[State, Part | None], frozenset[FrameType]] = {
    (State.HANDSHAKE, None): frozenset({FrameType.HELLO, FrameType.GOODBYE}),
    (State.HANDSHAKE, Part.SENDER): frozenset({FrameType.HELLO, FrameType.GOODBYE}),
    (State.HANDSHAKE, Part.RECEIVER): frozenset({FrameType.HELLO, FrameType.GOODBYE}),
    (State.OPEN, Part.RECEIVER): _BOTH | {FrameType.MESSAGE, FrameType.DEPTH, FrameType.SUBSCRIBE},
    (State.OPEN, Part.SENDER): _BOTH | {FrameType.CREDIT, FrameType.OUTCOMES, FrameType.RESULTS},
}


class Connection:
    """One end of a data connection.

    Args:
        dialler_role: This end's role when it dialled; ``None`` when it listened, and the peer's HELLO will say.
    """

    def __init__(self, dialler_role: events.Role | None = None) -> None:
        self._decoder = Decoder()
        self._is_listener = dialler_role is None
        self.state = State.HANDSHAKE
        self.part: Part | None = None
        if dialler_role is not None:
            self.part = Part.SENDER if dialler_role is events.Role.CONNECTOR else Part.RECEIVER
        self._handshake_bytes = 0
        self._is_hello_sent = False
        self._is_hello_received = False

    def __repr__(self) -> str:
        return f"<Connection {self.state}, {self.part or 'part unknown'}, {self._decoder!r}>"

    # ── bytes in, events out ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_in_payload(self) -> bool:
        """Whether the next bytes go straight into a provided payload buffer, and can be waited for as a whole."""
        return self._decoder.is_in_payload

    @property
    def is_between_frames(self) -> bool:
        """Whether no frame is half read."""
        return self._decoder.is_between_frames

    def forget_payload(self) -> None:
        """No more bytes come: let go of the buffer of a payload that has begun."""
        self._decoder.forget_payload()

    @property
    def was_open(self) -> bool:
        """Whether both ends have greeted each other."""
        return self._is_hello_received and self._is_hello_sent

    @property
    def abandoned_buffers(self) -> int:
        """How often a handler kept a view of a message, so that the receive buffer could not be used again."""
        return self._decoder.abandoned_buffers

    @property
    def kept_bytes(self) -> int:
        """Memory that this connection keeps for receiving."""
        return self._decoder.kept_bytes

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes belong. All events must have been taken before."""
        buffer = self._decoder.receive_buffer()
        if not len(buffer):
            raise LocalProtocolError("Events wait to be taken before more bytes are read.")
        if self.state is State.HANDSHAKE and self._is_listener:
            return buffer[: max(1, HANDSHAKE_LIMIT_BYTES - self._handshake_bytes)]
        return buffer

    def bytes_received(self, count: int) -> None:
        """Say that ``count`` bytes are in the last receive buffer; 0 means the end of the stream."""
        if self.state is State.HANDSHAKE:
            self._handshake_bytes += count
        self._decoder.bytes_received(count)

    def next_event(self) -> events.Event | None:
        """Return the next event, or None when more bytes are needed.

        Raises:
            RemoteProtocolError: the peer broke the protocol; send GOODBYE and close.
        """
        state = self.state  # Another thread's goodbye() may change it meanwhile.
        if state is _CLOSED:
            return None
        frame = self._decoder.next_frame()
        if frame is None:
            if state is State.HANDSHAKE and self._handshake_bytes >= HANDSHAKE_LIMIT_BYTES and self._is_listener:
                raise RemoteProtocolError("The HELLO is too long.")
            return None
        if isinstance(frame, Frame):
            return self._control_event(frame, state)
        if state is not _OPEN or self.part is not _RECEIVER:
            raise self._unexpected(FrameType.MESSAGE)
        return events.MessagesReceived(frame) if isinstance(frame, list) else events.MessageBegun(frame)

    def end_of_stream(self) -> events.Event | None:
        """Say that the peer's byte stream has ended.

        Raises:
            ConnectionEnded: it ended inside a frame.
        """
        was_between_frames = self._decoder.is_between_frames
        was_closed = self.state is State.CLOSED
        self.state = State.CLOSED
        if was_closed:
            return None
        if not was_between_frames:
            raise ConnectionEnded("The data connection ended in the middle of a frame.")
        return events.ConnectionClosed()

    def rest(self) -> None:
        """Keep as little memory as possible, as an idle connection should."""
        self._decoder.rest()

    def provide_payload_buffer(self, buffer: memoryview) -> None:
        """Give the buffer, exactly as long as the payload, for the message that has begun."""
        self._decoder.provide_payload_buffer(buffer)

    def use_arena(self, size_bytes: int) -> None:
        """Both ends have mapped shared memory of this size: payloads may lie there from now on."""
        self._decoder.use_arena(size_bytes)

    def discard_payload(self) -> None:
        """Read the payload that has begun without keeping it; the message then comes with an empty payload."""
        self._decoder.discard_payload()

    def _control_event(self, frame: Frame, state: State) -> events.Event:
        is_legal = frame.type in _LEGAL[state, self.part]
        if frame.type in _OF_ARENA:
            is_legal = state is _OPEN and self.part is Part.SENDER and self._decoder.arena_bytes > 0
        if not is_legal:
            raise self._unexpected(frame.type)
        event = _READERS[frame.type](frame.section)
        if isinstance(event, events.Hello):
            self._hello_received(event)
        elif isinstance(event, events.Goodbye):
            self.state = State.CLOSED
        return event

    def _hello_received(self, hello: events.Hello) -> None:
        if self._is_hello_received:
            raise RemoteProtocolError("A second HELLO arrived.")
        self._is_hello_received = True
        if VERSION not in hello.versions:
            raise RemoteProtocolError(
                f"The peer speaks the versions {list(hello.versions)} of the data protocol, this side {VERSION}."
            )
        if self._is_listener:
            if hello.role is events.Role.MASTER:
                raise RemoteProtocolError("A master does not dial.")
            self.part = Part.RECEIVER if hello.role is events.Role.CONNECTOR else Part.SENDER
        self._open_when_greeted()

    def _open_when_greeted(self) -> None:
        if self.was_open:
            self.state = State.OPEN

    def _unexpected(self, frame_type: FrameType) -> RemoteProtocolError:
        return RemoteProtocolError(f"A {frame_type.name} frame arrived in state {self.state} as {self.part}.")

    # ── bytes to send ────────────────────────────────────────────────────────────────────────────────────────────────

    def hello(self, hello: events.Hello) -> bytes:
        """Return this end's HELLO: a dialler's first bytes, or a listener's acceptance of the peer's."""
        if self._is_hello_sent or (self._is_listener and not self._is_hello_received):
            raise LocalProtocolError("HELLO was sent before, or the peer's has not arrived.")
        self._is_hello_sent = True
        self._open_when_greeted()
        return sections.hello_frame(hello)

    def goodbye(self, code: str = "", text: str = "", hint: str = "") -> bytes:
        """Return the last frame of this end."""
        self.state = State.CLOSED
        return sections.goodbye_frame(events.Goodbye(code, text, hint))


def message_prefix(
    message_id: str,
    size_bytes: int,
    *,
    metadata: Metadata | None = None,
    priority: int = 0,
    flags: int = 0,
    attempts: int = 0,
    crashes: int = 0,
    failure: Failure | None = None,
) -> bytes:
    """Return the bytes that precede a message's payload.

    Args:
        message_id: 32 hex digits as :class:`~harmonicio.core.message.MessageIds` draws them, or another text.
        size_bytes: Length of the payload that follows.
        flags: Any of :class:`~harmonicio.wire.frames.Flag` but TEXT_ID, which is set where it is needed.

    Raises:
        InvalidInput: the metadata cannot be sent, or a number does not fit its place in the header.
    """
    raw_id, section = sections.raw_message_id(message_id), b""
    if metadata or failure is not None or raw_id is None:
        section = sections.message_section(metadata, message_id if raw_id is None else "", failure)
    return raw_prefix(raw_id, size_bytes, section, priority, flags, attempts, crashes)


def raw_prefix(
    raw_id: bytes | None,
    size_bytes: int,
    section: bytes,
    priority: int = 0,
    flags: int = 0,
    attempts: int = 0,
    crashes: int = 0,
) -> bytes:
    """Return the bytes that precede a payload, with a header section that was made or received before.

    Args:
        raw_id: As :func:`~harmonicio.wire.sections.raw_message_id` gives it; None where the section has the id.

    Raises:
        InvalidInput: a number does not fit its place in the header.
    """
    if raw_id is None:
        raw_id, flags = NO_ID, flags | _TEXT_ID
    else:
        flags &= _NOT_TEXT_ID
    if attempts or crashes:
        attempts, crashes = min(attempts, MAX_COUNT), min(crashes, MAX_COUNT)
    try:
        fixed = _pack_message(MESSAGE_OPENING, flags, attempts, crashes, len(section), priority, 0, size_bytes, raw_id)
    except struct.error as error:
        raise InvalidInput(
            f"Priority {priority!r} or size {size_bytes!r} cannot be sent: {error}.",
            hint=f"Use whole numbers; a priority from {MIN_PRIORITY} to {MAX_PRIORITY}.",
        ) from None
    return fixed + section
