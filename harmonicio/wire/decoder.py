"""Bytes to frames, without copying large payloads.

The decoder owns one kept buffer. Headers, sections and payloads of at most ``MAX_INLINE_BYTES`` are read there, many
per call; a larger payload goes straight into a buffer that its receiver provides:

      receive_buffer() ──► recv_into ──► bytes_received(n) ──► next_frame()
                                                                 │  None: more bytes are needed
                                                                 │  Frame
                                                                 │  list of IncomingMessage: whole messages
                                                                 └  IncomingMessage: provide_payload_buffer() or
                                                                    discard_payload(), then go on as above

Three rules. What decides inline or not is the announced size alone, never how the bytes were cut. The kept buffer is
written again only when no view of it is left: a trial resize raises BufferError where releasing one's own memoryview
does not notice a numpy array; then the decoder takes a new buffer and counts it. And a read reaches further only after
one that was filled, so that neither an idle connection nor an announcement costs memory; it is short again where a
large payload begins, because what a header's read takes of the payload must be copied.

      kept:   |  taken, perhaps still viewed  |  waiting  |  reach of the next read  |    |
              0                             start        end                          capacity
"""

from __future__ import annotations

import struct

from harmonicio.core.errors import LocalProtocolError, RemoteProtocolError
from harmonicio.wire.checksum import trailer
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.frames import (
    ARENA_PAGE_BYTES,
    CHECKSUM_FLAGS,
    FIXED_LENGTH,
    KNOWN_FLAGS,
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_INLINE_BYTES,
    MAX_PAYLOAD_BYTES,
    MESSAGE_OPENING,
    PLACE,
    PLACE_LENGTH,
    TRAILER_LENGTH,
    VERSION,
    Flag,
    FrameType,
)
from harmonicio.wire.sections import read_message_section

#: The kept buffer of an idle connection, and the most that a busy one may have.
SMALLEST_KEPT_BYTES, LARGEST_KEPT_BYTES = 16 * 1024, 768 * 1024
SHORTEST_REACH_BYTES, LONGEST_REACH_BYTES = 8 * 1024, 256 * 1024
#: The longest piece that must lie in the kept buffer as a whole.
MAX_FRAME_BYTES = FIXED_LENGTH + MAX_HEADER_BYTES + MAX_INLINE_BYTES + TRAILER_LENGTH
assert MAX_FRAME_BYTES + LONGEST_REACH_BYTES <= LARGEST_KEPT_BYTES

# Operations on members of IntFlag and IntEnum are slow, and these run once per message.
_TEXT_ID, _SUSPECT, _DEAD, _ARENA = int(Flag.TEXT_ID), int(Flag.SUSPECT), int(Flag.DEAD), int(Flag.ARENA)
_UNKNOWN_FLAGS = ~KNOWN_FLAGS | _ARENA
#: The fixed header as it is read: magic, version and type in one, flags, attempts and crashes in one.
_unpack_message = struct.Struct("!4sIIh2xQ16s").unpack_from
_FRAME_TYPES = {int(each): each for each in FrameType}
_CHECKSUM_COUNTS, _ARENA_COUNTS = CHECKSUM_FLAGS << 16, _ARENA << 16
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
    """Reads frames from bytes.

    Attributes:
        arena_bytes: Size of the shared memory in which payloads may lie, 0 without any.
    """

    def __init__(self) -> None:
        self._use(bytearray(SMALLEST_KEPT_BYTES))
        self._reach = SHORTEST_REACH_BYTES
        self._start = 0
        self._end = 0
        self._begun: IncomingMessage | None = None
        self._payload: memoryview | None = None
        self._filled = 0
        self._left_to_discard = 0
        self.arena_bytes = 0
        self._unknown_flags = _UNKNOWN_FLAGS
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

    @property
    def kept_bytes(self) -> int:
        """Size of the kept buffer."""
        return len(self._kept)

    def use_arena(self, size_bytes: int) -> None:
        """From now on payloads may lie in shared memory of this size."""
        self.arena_bytes = size_bytes
        self._unknown_flags = _UNKNOWN_FLAGS & ~_ARENA

    # ── bytes in ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes belong. It is empty when frames wait to be taken."""
        if self._payload is not None and self._filled < len(self._payload):
            return self._payload[self._filled :]
        end = self._end
        if len(self._kept) - end < self._reach:
            self._make_room()
            end = self._end
        return self._view[end : end + self._reach]

    def bytes_received(self, count: int) -> None:
        """Say that ``count`` bytes were written into the last receive buffer."""
        if self._payload is not None and self._filled < len(self._payload):
            self._filled += count
            return
        self._end += count
        if count == self._reach:
            self._reach = min(4 * count, LONGEST_REACH_BYTES)

    def feed(self, data: bytes | memoryview) -> int:
        """Copy as much of ``data`` as fits into the receive buffer; return how many bytes that was."""
        buffer = self.receive_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        self.bytes_received(count)
        return count

    def rest(self) -> None:
        """Keep as little memory as possible: nothing is expected soon."""
        self._reach = SHORTEST_REACH_BYTES
        if self._start == self._end and len(self._kept) > SMALLEST_KEPT_BYTES:
            self._use(bytearray(SMALLEST_KEPT_BYTES))
            self._start = self._end = 0

    def _make_room(self) -> None:
        """Move what waits to the front, or into a larger buffer where the next read would find no room behind it."""
        capacity, waiting = len(self._kept), bytes(self._view[self._start : self._end])
        needed = len(waiting) + self._reach
        if needed > capacity:
            self._use(bytearray(min(2 * needed, LARGEST_KEPT_BYTES)))
        elif not self._is_unviewed():
            self._use(bytearray(capacity))
            self.abandoned_buffers += 1
        self._view[: len(waiting)] = waiting
        self._start, self._end = 0, len(waiting)

    def _is_unviewed(self) -> bool:
        """Try whether anybody still holds a view of the kept buffer, by a resize that changes nothing."""
        self._view.release()
        self._readable.release()
        try:
            self._kept.append(self._kept.pop())
        except BufferError:
            return False
        self._use(self._kept)
        return True

    def _use(self, kept: bytearray) -> None:
        self._kept = kept
        self._view = memoryview(kept)
        self._readable = self._view.toreadonly()

    # ── frames out ───────────────────────────────────────────────────────────────────────────────────────────────────

    def next_frame(self) -> Frame | list[IncomingMessage] | IncomingMessage | None:
        """Return the next frame, or None when more bytes are needed.

        Small messages that are here whole, one behind the other, come as a list: a call for each would cost more than
        to read it.

        Raises:
            RemoteProtocolError: the bytes break the protocol; the connection is of no further use.
            LocalProtocolError: a payload has begun and was neither given a buffer nor discarded.
        """
        if self._begun is not None:
            return self._finish_payload(self._begun)
        start = self._start
        if start == self._end:
            return None
        if self._kept[start : start + len(MESSAGE_OPENING)] == MESSAGE_OPENING and (small := self._small_messages()):
            return small
        return self._other_frame()

    def _small_messages(self) -> list[IncomingMessage]:
        """Return the messages that lie whole in the kept buffer, up to the first frame that is anything else."""
        kept, readable, start, end, number = self._kept, self._readable, self._start, self._end, self.messages
        messages: list[IncomingMessage] = []
        while end - start >= FIXED_LENGTH:
            opening, counts, section_length, priority, size, raw_id = _unpack_message(kept, start)
            body = start + FIXED_LENGTH + section_length
            if counts & _ARENA_COUNTS:
                stop, payload = body + PLACE_LENGTH, None
            else:
                stop = body + size + (TRAILER_LENGTH if counts & _CHECKSUM_COUNTS else 0)
                payload = readable[body : body + size] if size else _EMPTY
            if stop > end or opening != MESSAGE_OPENING or (size > MAX_INLINE_BYTES and payload is not None):
                break
            try:
                if counts:
                    _check_message(counts >> 16, self._unknown_flags, size)
                message = IncomingMessage(number, raw_id.hex(), size, payload)
                if priority:
                    message.priority = priority
                text_id = self._read_section(message, body - section_length, body) if section_length else ""
                if counts:
                    self._read_notes(message, counts, body, text_id)
            except RemoteProtocolError:
                if messages:
                    break  # Those before it are good: it is read again when they have been taken.
                raise
            messages.append(message)
            number += 1
            start = stop
        self._start, self.messages = start, number
        return messages

    def _read_section(self, message: IncomingMessage, start: int, stop: int) -> str:
        """Take over a header section that is here; return the id in it, if there is one."""
        _check_section(stop - start)
        message.section = bytes(self._view[start:stop])
        text_id, message.failure = read_message_section(message.section)
        return text_id

    def _read_notes(self, message: IncomingMessage, counts: int, body: int, text_id: str) -> None:
        """Take over what few messages have, flags and attempts, behind the section; judge a checksum that is here."""
        message.flags = flags = counts >> 16
        message.attempts, message.crashes = counts >> 8 & 0xFF, counts & 0xFF
        if flags & _ARENA:
            message.place = self._place_at(body, message.size_bytes)
        if flags & ~_ARENA:
            message.is_suspect, message.is_dead = bool(flags & _SUSPECT), bool(flags & _DEAD)
            if flags & _TEXT_ID:
                message.id = _check_text_id(text_id)
            if flags & CHECKSUM_FLAGS and message.payload is not None:
                message.is_intact = self._matches(message, body + message.size_bytes)

    def _other_frame(self) -> Frame | IncomingMessage | None:
        """Return a frame that carries no payload, or a message whose payload needs a buffer of its own."""
        start, end = self._start, self._end
        if end - start < FIXED_LENGTH:
            if end > start:
                self._check_opening()
            return None
        opening, counts, section_length, priority, size, raw_id = _unpack_message(self._kept, start)
        if opening[:3] != MESSAGE_OPENING[:3]:
            self._check_opening()
        if opening != MESSAGE_OPENING:
            return self._control(opening[3], section_length, size)
        _check_message(counts >> 16, self._unknown_flags, size)  # As above: first the flags, then the section.
        _check_section(section_length)
        body = start + FIXED_LENGTH + section_length
        if size <= MAX_INLINE_BYTES or end < body or counts & _ARENA_COUNTS:
            return None
        message = IncomingMessage(self.messages, raw_id.hex(), size)
        message.priority = priority
        text_id = self._read_section(message, start + FIXED_LENGTH, body) if section_length else ""
        self._read_notes(message, counts, body, text_id)
        self.messages += 1
        self._start, self._begun, self._reach = body, message, SHORTEST_REACH_BYTES
        return message

    def _place_at(self, body: int, size: int) -> int:
        """Return where in the arena a payload lies, which is said where the payload would be."""
        place: int = PLACE.unpack_from(self._kept, body)[0]
        if not size or place % ARENA_PAGE_BYTES or place + size > self.arena_bytes:
            raise RemoteProtocolError(
                f"A message names {size} bytes at {place} of shared memory that has {self.arena_bytes}."
            )
        return place

    def _check_opening(self) -> None:
        """Refuse bytes that cannot become a frame, however few there are."""
        seen = bytes(self._view[self._start : min(self._end, self._start + 3)])
        if seen[:2] != MAGIC[: len(seen)]:
            raise RemoteProtocolError("The bytes do not start a frame: this is not a HarmonicIO data connection.")
        if len(seen) == 3 and seen[2] != VERSION:
            raise RemoteProtocolError(
                f"The peer speaks version {seen[2]} of the data protocol, this side version {VERSION}.",
                hint="Install the same release of HarmonicIO on both sides.",
            )

    def _control(self, kind: int, section_length: int, size: int) -> Frame | None:
        _check_section(section_length)
        frame_type = _FRAME_TYPES.get(kind)
        if frame_type is None:
            raise RemoteProtocolError(f"There is no frame of type {kind}.")
        if size:
            raise RemoteProtocolError(f"A {frame_type.name} frame announces a payload.")
        body = self._start + FIXED_LENGTH
        if self._end < body + section_length:
            return None
        self._start = body + section_length
        return Frame(frame_type, bytes(self._view[body : self._start]))

    def _matches(self, message: IncomingMessage, at: int) -> bool:
        payload = message.payload if message.payload is not None else _EMPTY
        try:
            expected = trailer(message.flags, payload)
        except ValueError as error:
            raise RemoteProtocolError(f"A message has a checksum that this side cannot compute: {error}.") from None
        return self._view[at : at + TRAILER_LENGTH] == expected

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
        self._left_to_discard = message.size_bytes + (TRAILER_LENGTH if message.has_checksum else 0)

    def forget_payload(self) -> None:
        """No more bytes come: let go of the buffer of a payload that has begun."""
        self._payload = None

    def _finish_payload(self, message: IncomingMessage) -> list[IncomingMessage] | None:
        if self._left_to_discard:
            return self._finish_discarding(message)
        if self._payload is None:
            raise LocalProtocolError("A payload has begun: give it a buffer or discard it.")
        if self._filled < message.size_bytes:
            return None
        message.payload = self._payload.toreadonly()
        if message.has_checksum:
            if self._end - self._start < TRAILER_LENGTH:
                return None
            message.is_intact = self._matches(message, self._start)
            self._start += TRAILER_LENGTH
        self._begun, self._payload, self._filled = None, None, 0
        return [message]

    def _finish_discarding(self, message: IncomingMessage) -> list[IncomingMessage] | None:
        here = min(self._end - self._start, self._left_to_discard)
        self._start += here
        self._left_to_discard -= here
        if self._left_to_discard:
            return None
        message.payload = _EMPTY
        self._begun = None
        return [message]


def _check_section(length: int) -> None:
    if length > MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"A header section of {length} bytes is announced.")


def _check_message(flags: int, unknown_flags: int, size: int) -> None:
    if flags and (flags & unknown_flags or _is_twofold(flags)):
        raise RemoteProtocolError(f"A message has flags {flags:#x}, which have no meaning here.")
    if size > MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError(f"A payload of {size} bytes is announced.")


def _is_twofold(flags: int) -> bool:
    """Whether there are two checksums, or one of a payload that is not on the wire."""
    checksums = flags & CHECKSUM_FLAGS
    return checksums == CHECKSUM_FLAGS or (checksums != 0 and flags & _ARENA != 0)


def _check_text_id(text_id: str) -> str:
    if not text_id:
        raise RemoteProtocolError("A message says that its id is text, but has none.")
    return text_id
