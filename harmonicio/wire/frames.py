"""The fixed header that opens every frame, and the limits of the protocol.

0        2        3      4       6          7         8               12         14     16               24    40
+--------+--------+------+-------+----------+---------+---------------+----------+------+----------------+-----+
| "HI"   | version| type | flags | attempts | crashes | header length | priority | zero | payload length | id  |
+--------+--------+------+-------+----------+---------+---------------+----------+------+----------------+-----+
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

MAGIC = b"HI"
VERSION = 1
FIXED = struct.Struct("!2sBBHBBIhHQ16s")
FIXED_LENGTH = FIXED.size
#: The same of a MESSAGE, as it is written: magic, version and type are one value, its opening.
MESSAGE_FIXED = struct.Struct("!4sHBBIhHQ16s")
TRAILER = struct.Struct("!Q")
TRAILER_LENGTH = TRAILER.size
#: Of a message whose payload lies in shared memory: its offset in the arena, a multiple of the page.
PLACE = struct.Struct("!Q")
PLACE_LENGTH = PLACE.size
ARENA_PAGE_BYTES = 4096

MAX_HEADER_BYTES = 256 * 1024
#: A payload of at most this size is delivered inside the decoder's own buffer; a larger one needs a buffer of its own.
MAX_INLINE_BYTES = 128 * 1024
#: No announced payload may be larger than this, whatever the limits that HELLO states.
MAX_PAYLOAD_BYTES = 2**62
MAX_COUNT = 255
NO_ID = bytes(16)


class FrameType(IntEnum):
    HELLO = 1
    CREDIT = 2
    DEPTH = 3
    MESSAGE = 4
    OUTCOMES = 5
    SUBSCRIBE = 6
    RESULTS = 7
    DRAIN = 8
    GOODBYE = 9
    HELD = 10
    RELEASED = 11


#: How every MESSAGE begins.
MESSAGE_OPENING = MAGIC + bytes((VERSION, FrameType.MESSAGE))


class Flag(IntFlag):
    """Flags of MESSAGE frames."""

    NONE = 0
    TEXT_ID = 1
    SUSPECT = 2
    CHECKSUM_XXH3 = 4
    CHECKSUM_CRC32 = 8
    DEAD = 16
    ARENA = 32


CHECKSUM_FLAGS = int(Flag.CHECKSUM_XXH3 | Flag.CHECKSUM_CRC32)
KNOWN_FLAGS = int(Flag.TEXT_ID | Flag.SUSPECT | Flag.CHECKSUM_XXH3 | Flag.CHECKSUM_CRC32 | Flag.DEAD | Flag.ARENA)


def pack_control(frame_type: FrameType, section: bytes) -> bytes:
    """Return a whole frame that has no payload."""
    return FIXED.pack(MAGIC, VERSION, frame_type, 0, 0, 0, len(section), 0, 0, 0, NO_ID) + section
