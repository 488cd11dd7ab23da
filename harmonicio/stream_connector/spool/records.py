"""What a segment of the spool holds: records one after another, each one message.

      state   magic   meta length   payload length   payload crc32   head crc32
      4       4       4             8                4               4             bytes, big endian
      meta: msgpack [id, priority, section, size, digest, file]
      payload, unless ``file`` names where it is: [path, time of its last change in ns]

The state is overwritten in place when the message is safe; the head's checksum covers everything else up to the
payload, and the record's place. After damage the next record is found by its magic. Pure: who scans gives a function
that reads.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct

from harmonicio.core.errors import HarmonicIOError
from harmonicio.wire import codec

#: The words differ in most of their bits: no single fault of a disk makes one of the other.
KEPT, GONE = b"KEPT", b"\x00\x00\x00\x00"
MAGIC = b"HSP1"
_HEAD = Struct("!4s4sIQII")
_STATE_LENGTH = len(KEPT)
#: Beyond this a length cannot be true: metadata and a path are far smaller.
MAX_META_BYTES = 1024**2
SCAN_BYTES = 1024**2

#: Returns the bytes from an offset on, fewer at the end of the file; raises OSError.
Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Record:
    """One message as it is kept.

    Attributes:
        section: Its header section: metadata, and the id where it is a text.
        digest: Of its payload, where the source gave the id; else empty.
        path, changed_ns: The file that is its payload, and when that was changed last; an empty path: it is in here.
    """

    message_id: str
    priority: int
    section: bytes
    size_bytes: int
    digest: bytes = b""
    path: bytes = b""
    changed_ns: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A message that is kept, and whole."""

    record: Record
    offset: int
    payload_offset: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are not what was written; ``what`` names the message where that is known."""

    offset: int
    what: str


class Draft:
    """A record before it has its place; its head's checksum covers the place, too."""

    __slots__ = ("_lengths", "_meta", "payload", "size_bytes")

    def __init__(self, record: Record, payload: bytes | memoryview) -> None:
        file = [record.path, record.changed_ns] if record.path else None
        self._meta = codec.pack(
            [record.message_id, record.priority, record.section, record.size_bytes, record.digest, file]
        )
        self._lengths = (len(self._meta), len(payload), zlib.crc32(payload))
        self.payload = payload
        self.size_bytes = self.head_bytes + len(payload)

    @property
    def head_bytes(self) -> int:
        return _HEAD.size + len(self._meta)

    def buffers(self, offset: int) -> list[bytes | memoryview]:
        """Return what is written at this offset of a segment."""
        crc = _head_crc(self._lengths, self._meta, offset)
        return [_HEAD.pack(KEPT, MAGIC, *self._lengths, crc) + self._meta, self.payload]


def scan(read: Read, size_bytes: int) -> Iterator[Found | Damage]:
    """Yield what a segment of this size keeps, and what of it is damaged, in the order of the file."""
    offset = 0
    while offset < size_bytes:
        try:
            found, end = _record_at(read, offset, size_bytes)
        except _Unusable as error:
            yield Damage(offset, str(error))
            found, end = None, error.end or _next_magic(read, offset + 1, size_bytes)
        if found is not None:
            yield found
        offset = end


class _Unusable(Exception):
    """There is no whole record here; ``end`` is where the next one begins, 0 where that is not known."""

    def __init__(self, text: str, end: int = 0) -> None:
        super().__init__(text)
        self.end = end


def _record_at(read: Read, offset: int, size_bytes: int) -> tuple[Found | None, int]:
    head = _read(read, offset, _HEAD.size)
    if len(head) < _HEAD.size:
        raise _Unusable(f"the last {len(head)} bytes are the beginning of a message", size_bytes)
    state, magic, meta_length, payload_length, payload_crc, head_crc = _HEAD.unpack(head)
    if magic != MAGIC or meta_length > MAX_META_BYTES:
        raise _Unusable("there is no message where one should begin")
    meta = _read(read, offset + _HEAD.size, meta_length)
    payload_offset = offset + _HEAD.size + meta_length
    end = payload_offset + payload_length
    if len(meta) == meta_length and _head_crc((meta_length, payload_length, payload_crc), meta, offset) != head_crc:
        raise _Unusable("the head of a message is damaged")
    if len(meta) < meta_length:
        raise _Unusable("the file ends in the head of a message", size_bytes)
    if state == GONE and end <= size_bytes:
        return None, end
    record = _record_of(meta, payload_length)
    if end > size_bytes:
        raise _Unusable(f"the file ends in the middle of message {record.message_id!r}", size_bytes)
    if _payload_crc(read, payload_offset, payload_length) != payload_crc:
        raise _Unusable(f"the payload of message {record.message_id!r} is damaged", end)
    return Found(record, offset, payload_offset), end


def _record_of(meta: bytes, payload_length: int) -> Record:
    try:
        message_id, priority, section, size_bytes, digest, file = codec.unpack(meta)
    except (HarmonicIOError, TypeError, ValueError):
        raise _Unusable("what a message's head says cannot be understood") from None
    path, changed_ns = (b"", 0) if file is None else file
    return Record(message_id, priority, section, size_bytes if path else payload_length, digest, path, changed_ns)


def _payload_crc(read: Read, offset: int, length: int) -> int:
    crc, end = 0, offset + length
    while offset < end:
        piece = _read(read, offset, min(SCAN_BYTES, end - offset))
        if not piece:
            break
        crc = zlib.crc32(piece, crc)
        offset += len(piece)
    return crc


def _next_magic(read: Read, offset: int, size_bytes: int) -> int:
    """Return where the next record may begin, at or after this offset; the end where there is none."""
    at = offset + _STATE_LENGTH
    while at < size_bytes:
        try:
            piece = read(at, SCAN_BYTES)
        except OSError:
            piece = b""
        found = piece.find(MAGIC)
        if found >= 0:
            return at + found - _STATE_LENGTH
        at += max(1, SCAN_BYTES - len(MAGIC) + 1)
    return size_bytes


def _read(read: Read, offset: int, size: int) -> bytes:
    try:
        return read(offset, size)
    except OSError as error:
        raise _Unusable(f"the disk does not give it back: {error.strerror or os.strerror(error.errno or 0)}") from None


def _head_crc(lengths: tuple[int, int, int], meta: bytes, offset: int) -> int:
    """Cover the offset, too, so that a record inside a payload is not taken for one of ours."""
    return zlib.crc32(meta, zlib.crc32(_HEAD.pack(b"", MAGIC, *lengths, offset & 0xFFFFFFFF)[_STATE_LENGTH:]))
