"""What a payload file says of its message, behind the payload: enough to serve it when the index is lost.

    payload    label (msgpack)    length, 4 bytes    CRC-32 of the label, 4 bytes    HIOLABEL

The index is the truth as long as there is one: counters and priority here are those of the put.
"""

from __future__ import annotations

import os
import zlib
from struct import Struct

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.master.backlog.entry import Entry
from harmonicio.wire.codec import pack, unpack

_TAIL = Struct("!II8s")
_MAGIC = b"HIOLABEL"


def label_of(entry: Entry) -> bytes:
    """Return what stands behind the payload of this entry."""
    label = pack(
        [
            entry.stream,
            entry.message_id,
            entry.sequence,
            entry.size_bytes,
            entry.priority,
            entry.digest,
            entry.section,
            entry.attempts,
            entry.crashes,
            entry.put_at,
        ]
    )
    return label + _TAIL.pack(len(label), zlib.crc32(label), _MAGIC)


def read_label(fd: int) -> Entry | None:
    """Return the entry of an open payload file; None when there is no whole label. Raises OSError."""
    end = os.fstat(fd).st_size - _TAIL.size
    if end < 0:
        return None
    length, checksum, magic = _TAIL.unpack(os.pread(fd, _TAIL.size, end))
    if magic != _MAGIC or length > end:
        return None
    label = os.pread(fd, length, end - length)
    if zlib.crc32(label) != checksum:
        return None
    try:
        stream, message_id, sequence, size_bytes, priority, digest, section, attempts, crashes, put_at = unpack(label)
    except (RemoteProtocolError, ValueError):
        return None
    entry = Entry(
        stream,
        message_id,
        sequence,
        size_bytes,
        priority=priority,
        digest=digest,
        section=section,
        attempts=attempts,
        crashes=crashes,
        is_suspect=True,
        put_at=put_at,
    )
    return entry if size_bytes == end - length else None
