"""Bytes to frames, without copying large payloads.

The decoder owns one kept buffer. Headers, sections and payloads of at most ``MAX_INLINE_BYTES`` are read there, many
per call; a larger payload goes straight into a buffer that its receiver provides:

      receive_buffer() ──► recv_into ──► bytes_received(n) ──► next_frame()
                                                                 │  None: more bytes are needed
                                                                 │  Frame
                                                                 │  IncomingMessage with payload: a whole message
                                                                 └  IncomingMessage without: provide_payload_buffer()
                                                                    or discard_payload(), then go on as above

Two rules. What decides inline or not is the announced size alone, never how the bytes were cut. And the kept buffer is
written again only when no view of it is left: a trial resize raises BufferError where releasing one's own memoryview
does not notice a numpy array; then the decoder takes a new buffer and counts it.
"""

from __future__ import annotations

from harmonicio.core.errors import LocalProtocolError, RemoteProtocolError
from harmonicio.core.message import Metadata
from harmonicio.wire import frames
from harmonicio.wire.checksum import trailer
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.frames import Flag, FrameType
from harmonicio.wire.sections import read_message_section

KEPT_BYTES = 2 * (frames.FIXED_LENGTH + frames.MAX_HEADER_BYTES + frames.MAX_INLINE_BYTES)

_NO_METADATA: Metadata = {}
_EMPTY = memoryview(b"")


class Frame:
    """A frame that carries no payload."""

    __slots__ = ("section", "type")

    def __init__(self, frame_type: FrameType, section: bytes) -> None:
        self.type = frame_type
        self.section = section

    def __repr__(self) -> str:
        return f"<Frame {self.type.name}, {len(self.section)} bytes>"


class Decoder:
    """Reads frames from bytes."""

    def __init__(self) -> None:
        self._kept = bytearray(KEPT_BYTES)
        self._view = memoryview(self._kept)
        self._start = 0
        self._end = 0
        self._begun: IncomingMessage | None = None
        self._payload: memoryview | None = None
        self._filled = 0
        self._left_to_discard = 0
        self.messages = 0
        self.abandoned_buffers = 0

    def __repr__(self) -> str:
        return f"<Decoder: {self.messages} messages, {self._end - self._start} bytes waiting>"

    @property
    def is_between_frames(self) -> bool:
        """Whether no frame is half read."""
        return self._start == self._end and self._begun is None

    @property
    def is_in_payload(self) -> bool:
        """Whether the next bytes go straight into a provided buffer."""
        return self._payload is not None and self._filled < len(self._payload)

    # ── bytes in ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes belong; views of inline payloads given out before end here."""
        if self._payload is not None and self._filled < len(self._payload):
            return self._payload[self._filled :]
        waiting = self._end - self._start
        if waiting == 0 or KEPT_BYTES - self._start < KEPT_BYTES // 2:
            self._move_to_front(waiting)
        return self._view[self._end :]

    def bytes_received(self, count: int) -> None:
        """Say that ``count`` bytes were written into the last receive buffer."""
        if self.is_in_payload:
            self._filled += count
        else:
            self._end += count

    def feed(self, data: bytes | memoryview) -> int:
        """Copy as much of ``data`` as fits into the receive buffer; return how many bytes that was."""
        buffer = self.receive_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        self.bytes_received(count)
        return count

    def _move_to_front(self, waiting: int) -> None:
        if self._end == 0:
            return
        rest = bytes(self._view[self._start : self._end])
        self._view.release()
        try:
            self._kept.append(0)
            del self._kept[-1:]
        except BufferError:
            self._kept = bytearray(KEPT_BYTES)
            self.abandoned_buffers += 1
        self._view = memoryview(self._kept)
        self._view[:waiting] = rest
        self._start, self._end = 0, waiting

    # ── frames out ───────────────────────────────────────────────────────────────────────────────────────────────────

    def next_frame(self) -> Frame | IncomingMessage | None:
        """Return the next frame, or None when more bytes are needed.

        Raises:
            RemoteProtocolError: the bytes break the protocol; the connection is of no further use.
            LocalProtocolError: a payload has begun and was neither given a buffer nor discarded.
        """
        if self._begun is not None:
            return self._finish_payload(self._begun)
        start, end = self._start, self._end
        if end - start < frames.FIXED_LENGTH:
            self._check_magic()
            return None
        magic, version, kind, flags, attempts, crashes, section_length, priority, _, size, raw_id = (
            frames.FIXED.unpack_from(self._kept, start)
        )
        if magic != frames.MAGIC or version != frames.VERSION:
            self._check_magic()
        if section_length > frames.MAX_HEADER_BYTES:
            raise RemoteProtocolError(f"A header section of {section_length} bytes is announced.")
        if kind != FrameType.MESSAGE:
            return self._control(kind, section_length, size)
        if size > frames.MAX_PAYLOAD_BYTES:
            raise RemoteProtocolError(f"A payload of {size} bytes is announced.")
        body = start + frames.FIXED_LENGTH + section_length
        is_inline = size <= frames.MAX_INLINE_BYTES
        trailer_length = frames.TRAILER_LENGTH if flags & frames.CHECKSUM_FLAGS else 0
        if end < body + (size + trailer_length if is_inline else 0):
            return None
        section = bytes(self._view[body - section_length : body]) if section_length else b""
        message = self._message(flags, attempts, crashes, priority, size, raw_id, section)
        if is_inline:
            message.payload = self._view[body : body + size].toreadonly() if size else _EMPTY
            self._start = body + size + trailer_length
            if trailer_length:
                message.is_intact = self._matches(message, body + size)
        else:
            self._start = body
            self._begun = message
        return message

    def _check_magic(self) -> None:
        seen = bytes(self._view[self._start : min(self._end, self._start + 3)])
        if seen[:2] != frames.MAGIC[: len(seen)]:
            raise RemoteProtocolError("The bytes do not start a frame: this is not a HarmonicIO data connection.")
        if len(seen) == 3 and seen[2] != frames.VERSION:
            raise RemoteProtocolError(
                f"The peer speaks version {seen[2]} of the data protocol, this side version {frames.VERSION}.",
                hint="Install the same release of HarmonicIO on both sides.",
            )

    def _control(self, kind: int, section_length: int, size: int) -> Frame | None:
        try:
            frame_type = FrameType(kind)
        except ValueError:
            raise RemoteProtocolError(f"There is no frame of type {kind}.") from None
        if size:
            raise RemoteProtocolError(f"A {frame_type.name} frame announces a payload.")
        body = self._start + frames.FIXED_LENGTH
        if self._end < body + section_length:
            return None
        self._start = body + section_length
        return Frame(frame_type, bytes(self._view[body : self._start]))

    def _message(
        self, flags: int, attempts: int, crashes: int, priority: int, size: int, raw_id: bytes, section: bytes
    ) -> IncomingMessage:
        if flags & ~frames.KNOWN_FLAGS or flags & frames.CHECKSUM_FLAGS == frames.CHECKSUM_FLAGS:
            raise RemoteProtocolError(f"A message has flags {flags:#x}, which have no meaning.")
        metadata, failure, message_id = _NO_METADATA, None, ""
        if section:
            message_id, metadata, failure = read_message_section(section)
        if not flags & Flag.TEXT_ID:
            message_id = raw_id.hex()
        elif not message_id:
            raise RemoteProtocolError("A message says that its id is text, but has none.")
        number = self.messages
        self.messages = number + 1
        return IncomingMessage(
            number, message_id, flags, attempts, crashes, priority, size, section, metadata, failure
        )

    def _matches(self, message: IncomingMessage, at: int) -> bool:
        payload = message.payload if message.payload is not None else _EMPTY
        try:
            expected = trailer(message.flags, payload)
        except ValueError as error:
            raise RemoteProtocolError(f"A message has a checksum that this side cannot compute: {error}.") from None
        return self._view[at : at + frames.TRAILER_LENGTH] == expected

    # ── large payloads ───────────────────────────────────────────────────────────────────────────────────────────────

    def provide_payload_buffer(self, buffer: memoryview) -> None:
        """Give the buffer for the payload that has begun; it is exactly as long as the payload."""
        message = self._begun
        if message is None or self._payload is not None or self._left_to_discard:
            raise LocalProtocolError("No payload waits for a buffer.")
        if len(buffer) != message.size_bytes:
            raise LocalProtocolError(f"A payload of {message.size_bytes} bytes was given {len(buffer)} bytes.")
        here = min(self._end - self._start, message.size_bytes)
        buffer[:here] = self._view[self._start : self._start + here]
        self._start += here
        self._payload, self._filled = buffer, here

    def discard_payload(self) -> None:
        """Read the payload that has begun and forget it; the message then comes with an empty payload."""
        message = self._begun
        if message is None or self._payload is not None or self._left_to_discard:
            raise LocalProtocolError("No payload waits to be discarded.")
        self._left_to_discard = message.size_bytes + (frames.TRAILER_LENGTH if message.has_checksum else 0)

    @property
    def payload_received_bytes(self) -> int:
        """How much of the payload that has begun is in its buffer."""
        return self._filled

    def _finish_payload(self, message: IncomingMessage) -> IncomingMessage | None:
        if self._left_to_discard:
            return self._finish_discarding(message)
        if self._payload is None:
            raise LocalProtocolError("A payload has begun: give it a buffer or discard it.")
        if self._filled < message.size_bytes:
            return None
        message.payload = self._payload.toreadonly()
        if message.has_checksum:
            if self._end - self._start < frames.TRAILER_LENGTH:
                return None
            message.is_intact = self._matches(message, self._start)
            self._start += frames.TRAILER_LENGTH
        self._begun, self._payload, self._filled = None, None, 0
        return message

    def _finish_discarding(self, message: IncomingMessage) -> IncomingMessage | None:
        here = min(self._end - self._start, self._left_to_discard)
        self._start += here
        self._left_to_discard -= here
        if self._left_to_discard:
            return None
        message.payload = _EMPTY
        self._begun = None
        return message
